"""A run at Weights & Biases. This is the only file that imports wandb, and it does so only when a run uses W&B."""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from worldmodel.system.files import refuse_link
from worldmodel.system.names import visible
from worldmodel.training.tracking import Columns, floats
from worldmodel.training.wandb_filing import Filing
from worldmodel.training.wandb_names import DEFINITIONS, ENV_STEPS, UPDATE, wandb_name

VERSIONS = {"best": "best", "latest": "last"}  # of the artifact: its alias, and the stem of the weights in it


class Place(NamedTuple):
    """Where W&B keeps a run."""

    address: str  # a web address, or the folder to `wandb sync`
    run_id: str
    sweep: str | None = None  # the sweep that the run belongs to


class WandbTracker:
    """A Weights & Biases run. What it calls metrics and pictures is decided in `wandb_names`."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        filing: Filing,
        *,
        mode: Literal["online", "offline"],
        may_go_offline: bool,
        run_id: str,
        resumed: bool = False,
    ) -> None:
        """Start a run.

        Args:
            folder: the run's folder.
            config: settings shown beside the run.
            filing: where it is filed, and where W&B's files lie.
            mode: online needs a key and the network.
            may_go_offline: go on offline if the server cannot be reached in 30 seconds, instead of raising.
            run_id: of the run at W&B, the same whenever it goes on.
            resumed: whether it has been started before.
        Raises:
            ConnectionError: if it may not go offline and the server cannot be reached, or refuses the key.
        """
        import wandb

        if Path(filing.dir) == folder:
            refuse_link(folder / "wandb")  # W&B writes there by itself
        Path(filing.dir).mkdir(
            parents=True, exist_ok=True
        )  # or W&B would take the system's folder for short-lived files
        self.folder, self._wandb = folder, wandb
        # A progress bar in a terminal would be in the log with all its frames, if W&B did not follow the control codes.
        console: Literal["wrap_emu", "wrap"] = "wrap_emu" if sys.stderr.isatty() else "wrap"
        options: dict[str, Any] = {
            **filing._asdict(),
            "config": dict(config),
            "id": run_id,
            "settings": wandb.Settings(console=console, silent=True, init_timeout=30),
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
        self._define()

    @property
    def place(self) -> Place:
        """Where to look, and under which id W&B really keeps the run: a sweep gives its runs ids of its own."""
        address = str(self._run.url) if self.mode == "online" else str(Path(self._run.dir).parent)
        return Place(address, str(self._run.id), self._run.sweep_id)

    def scalars(self, update: int, values: Mapping[str, float]) -> None:
        """Log numbers at an update."""
        self._log(update, values)

    def lines(self, update: int, name: str, columns: Columns) -> None:
        """Log an interactive line plot with its table."""
        (x_name, x), *series = columns.items()
        ys = [floats(column) for _, column in series]
        keys, title = [key for key, _ in series], visible(name)
        self._log(update, {name: self._wandb.plot.line_series(floats(x), ys, keys=keys, title=title, xname=x_name)})

    def image(self, update: int, name: str, png: bytes) -> None:
        """Log a picture."""
        from PIL import Image

        self._log(update, {name: self._wandb.Image(Image.open(io.BytesIO(png)))})

    def histogram(self, update: int, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Log a histogram; of nothing if no value is finite."""
        numbers = np.asarray(values, np.float64)
        if len(finite := numbers[np.isfinite(numbers)]):
            self._log(update, {name: self._wandb.Histogram(finite.tolist())})

    def file(self, update: int, name: str, path: Path) -> None:
        """Log a picture, or a film as a video, which needs no other package."""
        content = path.read_bytes()
        if path.suffix == ".gif":
            self._log(update, {name: self._wandb.Video(io.BytesIO(content), format="gif")})
        else:
            self.image(update, name, content)

    def finish(self, files: Sequence[Path], *, failed: bool = False) -> None:
        """Log the files, if there are any, as versions of an artifact and end the run.

        Each version in `VERSIONS` has its own weights, and every file that is no weights. Without weights there is one.
        """
        weights = {alias: path for alias, stem in VERSIONS.items() for path in files if path.stem == stem}
        others = [path for path in files if path not in weights.values()]
        for alias, path in weights.items():
            self._log_artifact([*others, path], alias)
        if others and not weights:
            self._log_artifact(others, "latest")
        self._run.finish(exit_code=int(failed))

    def _log_artifact(self, files: Sequence[Path], alias: str) -> None:
        artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model")
        for path in files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=[alias])

    def _define(self) -> None:
        """Tell W&B what metrics are drawn over, and by which value a run is ranked."""
        for axis in (UPDATE, ENV_STEPS):
            self._run.define_metric(axis, hidden=True)
        for one in DEFINITIONS:
            self._run.define_metric(one.name, step_metric=one.axis, summary=one.summary)

    def _log(self, update: int, values: Mapping[str, Any]) -> None:
        named = {wandb_name(name): value for name, value in values.items()}
        self._run.log({UPDATE: update, **named}, step=update)
