"""Where numbers and pictures of a run go: its own folder always, Weights & Biases unless told otherwise.

This is the only file that imports wandb, and it does so only when a run uses W&B. The folder is the record: when a
process is killed, W&B's file loses what is in its buffer, and `metrics.jsonl` loses nothing.
"""

import io
import json
import netrc
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable
from urllib.parse import urlparse

import numpy as np

from worldmodel.system.files import make_own_folder, open_to_append, refuse_link, write_whole
from worldmodel.system.metrics_file import json_number, write_row
from worldmodel.system.names import file_name, tracked_name, visible

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

    def video(self, update: int, name: str, gif: bytes) -> None:
        """A film: an animated GIF, in the run's folder already; a later call of the same name takes its place."""
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
        data = {key: [json_number(v) for v in _floats(column)] for key, column in columns.items()}
        write_whole(self.folder / "lines" / f"{self._stem(name)}.json", json.dumps({"update": update, **data}))

    def image(self, update: int, name: str, png: bytes) -> None:
        """Write figures/NAME.png."""
        write_whole(self.folder / "figures" / f"{self._stem(name)}.png", png)

    def video(self, update: int, name: str, gif: bytes) -> None:
        """Nothing is to be done: the film is in the folder."""

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Close the record; the files are in the folder already."""
        self._metrics.close()

    def _stem(self, name: str) -> str:
        if name not in self._stems:
            self._stems[name] = file_name(name, self._stems.values())
        return self._stems[name]


class WandbTracker:
    """A Weights & Biases run."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        mode: Literal["online", "offline"],
        may_go_offline: bool,
        run_id: str,
        resumed: bool = False,
        name: str,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Start a run whose files lie in folder/wandb.

        Args:
            folder: the run's folder.
            config: settings shown beside the run.
            mode: online needs a key and the network.
            run_id: of the run at W&B, the same whenever it goes on.
            resumed: whether it has been started before.
            may_go_offline: go on offline if the server cannot be reached in 30 seconds, instead of raising.
            name, project, entity, group, tags: as in `WandbConfig`.
        Raises:
            ConnectionError: if it may not go offline and the server cannot be reached, or refuses the key.
        """
        import wandb

        refuse_link(folder / "wandb")  # W&B writes there by itself
        self._wandb = wandb
        options: dict[str, Any] = {
            "dir": str(folder),
            "config": dict(config),
            "id": run_id,
            "name": name,
            "project": project,
            "entity": entity,
            "group": group,
            "tags": list(tags),
            "settings": wandb.Settings(console="off", silent=True, init_timeout=30),
        }
        self.mode = mode
        try:
            self._run = wandb.init(mode=mode, resume="allow" if resumed and mode == "online" else None, **options)
        except wandb.errors.CommError as error:
            if not may_go_offline:
                raise ConnectionError(
                    f"tracking: expected W&B to answer, as tracking = online asks for: {error}; put that right and "
                    "resume, or choose tracking = auto or offline"
                ) from error
            self.mode = "offline"
            self._run = wandb.init(mode="offline", **options)

    @property
    def location(self) -> str:
        """Where to look: a web address, or the folder to `wandb sync`."""
        return str(self._run.url) if self.mode == "online" else str(Path(self._run.dir).parent)

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Log numbers at an update."""
        self._run.log({tracked_name(name): value for name, value in values.items()}, step=update)

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """Log an interactive line plot with its table."""
        (x_name, x), *series = columns.items()
        ys = [_floats(column) for _, column in series]
        keys, title = [key for key, _ in series], visible(name)
        plot = self._wandb.plot.line_series(_floats(x), ys, keys=keys, title=title, xname=x_name)
        self._run.log({tracked_name(name): plot}, step=update)

    def image(self, update: int, name: str, png: bytes) -> None:
        """Log a picture."""
        from PIL import Image

        self._run.log({tracked_name(name): self._wandb.Image(Image.open(io.BytesIO(png)))}, step=update)

    def video(self, update: int, name: str, gif: bytes) -> None:
        """Log a film."""
        self._run.log({tracked_name(name): self._wandb.Video(io.BytesIO(gif), format="gif")}, step=update)

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Log the files, if there are any, as an artifact and end the run."""
        if files:
            artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model")
            for path in files:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=int(failed))


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

    def video(self, update: int, name: str, gif: bytes) -> None:
        """Pass on."""
        with self._holding():
            self._tracker.video(update, name, gif)

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

    def video(self, update: int, name: str, gif: bytes) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.video(update, name, gif)

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Pass on."""
        for tracker in self._trackers:
            tracker.finish(files, failed=failed)


def wandb_mode(
    setting: Literal["auto", "offline", "online"], environment: Mapping[str, str]
) -> Literal["online", "offline", "disabled"]:
    """How W&B should run, decided without a question to the user or the network.

    Args:
        setting: `auto` is online if a key is configured (WANDB_API_KEY or ~/.netrc) and offline otherwise, and obeys
            WANDB_MODE.
        environment: the process's environment variables.
    Raises:
        ValueError: if online is asked for and no key is configured, or WANDB_MODE is unknown.
    """
    wanted = setting if setting != "auto" else environment.get("WANDB_MODE", "")
    if wanted in ("dryrun", "offline"):
        return "offline"
    if wanted == "disabled":
        return "disabled"
    if wanted not in ("", "run", "online"):
        raise ValueError(f"WANDB_MODE: expected online, offline or disabled, got {wanted!r}")
    if _has_key(environment):
        return "online"
    if wanted:
        raise ValueError("tracking: expected a W&B key for online tracking, found none; run `wandb login` once")
    return "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = environment.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return host is not None and netrc.netrc(path).hosts.get(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _floats(column: Sequence[float] | np.ndarray) -> list[float]:
    return np.asarray(column, np.float64).tolist()
