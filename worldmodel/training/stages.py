"""How long each stage of a run takes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stages:
    """Seconds of wall clock by stage, added up over the run.

    A GPU works in the background: its time counts in the stage that waits for the result.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Everything in the `with` block counts as this stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """The seconds under the names that metrics have: `seconds/update` and so on."""
        return {f"seconds/{stage}": seconds for stage, seconds in self.seconds.items()}
