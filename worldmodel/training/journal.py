"""Where everything that a run reports goes: its trackers, and the history that its curves are drawn from."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from worldmodel.training.history import History
from worldmodel.training.tracking import Tracker, WholeTracker


@dataclass(frozen=True)
class Journal:
    """Takes numbers and pictures; each is written whole, or not at all where the work is given up."""

    tracker: Tracker
    history: History
    holding: Callable[[], AbstractContextManager[None]]  # around what must not be given up half-way

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Report single numbers, and keep those that belong to a curve."""
        with self.holding():
            self.tracker.scalars(update, values)
            self.history.add(update, values)

    @property
    def pictures(self) -> Tracker:
        """Takes curves and pictures."""
        return WholeTracker(self.tracker, self.holding)
