"""Where numbers and pictures of a run go: its own folder always, and beside it what else takes them (`wandb_tracker`).

The folder is the record: when a process is killed, W&B's file loses what is in its buffer, and `metrics.jsonl` loses
nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

import numpy as np

from worldmodel.system.files import make_own_folder, open_to_append, write_whole
from worldmodel.system.metrics_file import json_number, write_row
from worldmodel.system.names import file_name

Columns = Mapping[str, Sequence[float] | np.ndarray]


@runtime_checkable
class Tracker(Protocol):
    """Takes what a run reports. Every call names the update it belongs to; updates never go back."""

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Single numbers by name."""
        ...

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """A curve or several over the first column; a later call of the same name takes its place."""
        ...

    def image(self, update: int, name: str, png: bytes) -> None:
        """A picture; a later call of the same name takes its place."""
        ...

    def histogram(self, update: int, name: str, values: Sequence[float] | np.ndarray) -> None:
        """How values, [N], are distributed; those that are not finite are left out."""
        ...

    def file(self, update: int, name: str, path: Path) -> None:
        """A picture (PNG) or a film (GIF) in the run's folder; a later one of the same name takes its place."""
        ...

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """The run is over, or has failed. `files` are what it made: configuration, checkpoints. None to be quick."""
        ...


class FolderTracker:
    """metrics.jsonl (one line a call), lines/*.json and figures/*.png in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("lines", "figures"):
            make_own_folder(folder / name)
        self._metrics: TextIO = open_to_append(folder / "metrics.jsonl")
        self._stems: dict[str, str] = {}  # of the files of lines and pictures, by name

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        self._metrics.write(write_row(update, values))

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """Write lines/NAME.json, with the name as `names.file_name` has it."""
        data = {key: [json_number(v) for v in floats(column)] for key, column in columns.items()}
        write_whole(self.folder / "lines" / f"{self._stem(name)}.json", json.dumps({"update": update, **data}))

    def image(self, update: int, name: str, png: bytes) -> None:
        """Write figures/NAME.png."""
        write_whole(self.folder / "figures" / f"{self._stem(name)}.png", png)

    def histogram(self, update: int, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Nothing is written: the quantiles are among the metrics."""

    def file(self, update: int, name: str, path: Path) -> None:
        """Nothing is to be done: it is in the folder."""

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Close the record; the files are in the folder already."""
        self._metrics.close()

    def _stem(self, name: str) -> str:
        if name not in self._stems:
            self._stems[name] = file_name(name, self._stems.values())
        return self._stems[name]


class WholeTracker:
    """A tracker whose calls are always completed: a signal that comes during one waits until it is over."""

    def __init__(self, tracker: Tracker, holding: Callable[[], AbstractContextManager[None]]) -> None:
        """Args:
        tracker: is passed on to.
        holding: signals wait while this is entered.
        """
        self._tracker, self._holding = tracker, holding

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.scalars(update, values)

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.lines(update, name, columns)

    def image(self, update: int, name: str, png: bytes) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.image(update, name, png)

    def histogram(self, update: int, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.histogram(update, name, values)

    def file(self, update: int, name: str, path: Path) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.file(update, name, path)

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.finish(files, failed=failed)


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.scalars(update, values)

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.lines(update, name, columns)

    def image(self, update: int, name: str, png: bytes) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.image(update, name, png)

    def histogram(self, update: int, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.histogram(update, name, values)

    def file(self, update: int, name: str, path: Path) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.file(update, name, path)

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.finish(files, failed=failed)


def floats(column: Sequence[float] | np.ndarray) -> list[float]:
    """A column as a list of numbers."""
    return np.asarray(column, np.float64).tolist()
