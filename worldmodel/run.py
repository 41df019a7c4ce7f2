"""A run's folder opened again: a trained model beside the episodes it is scored on.

    run = open_run("runs/pendulum-20260101-120000")
    dream = run.imagine(context=16, horizon=48, samples=16)

A run's folder holds config.yaml, metrics.jsonl, lines/, figures/, checkpoints/last.safetensors and best.safetensors,
replay/ (what it trained on), heldout/ (what it is scored on) and wandb/.
"""

from dataclasses import dataclass
from pathlib import Path

from worldmodel import build
from worldmodel.behaviour.imagination import Dream, imagine, select
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.replay import Replay, pad_episodes
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.checkpoint import load_model
from worldmodel.training.evaluation import Evaluation, evaluate
from worldmodel.types import Batch

# Every consumer of randomness has a stream of its own, so that adding one does not change the others.
POLICY, SAMPLING, LATENTS, HELDOUT, IMAGINATION = range(5)


@dataclass(frozen=True)
class Run:
    """A trained model with the data it is scored on."""

    folder: Path
    config: Config
    model: WorldModel

    def heldout(self) -> Batch:
        """The held-out episodes, whole, [B, T] padded."""
        with Replay.open(self.folder / "heldout", read_only=True) as replay:
            episodes = pad_episodes(list(replay.episodes()), self.config.evaluation.max_length)
        return episodes.to(self.model.device)

    def imagine(
        self, batch: Batch | None = None, *, context: int = 16, horizon: int = 48, samples: int = 16, seed: int = 0
    ) -> Dream:
        """Filter `context` rows, then imagine `horizon` more under the recorded actions.

        Args:
            batch: rows to start from; by default the held-out episodes that are long enough.
            context, horizon, samples: see `behaviour.imagination.imagine`.
            seed: of the samples.
        Returns:
            [samples, B, horizon, ...] states, and predictions by name in the units of the data.
        Raises:
            ValueError: if no episode has context + horizon rows, or a number is not positive.
        """
        noise = make_generator(seed, stream=Stream.IMAGINATION, device=self.model.device)
        batch = _long_enough(self.heldout(), context + horizon) if batch is None else batch
        return imagine(self.model, batch, context=context, horizon=horizon, samples=samples, generator=noise)

    def evaluate(self) -> Evaluation:
        """Score the held-out episodes: the bound, the KL of every step, the open-loop errors."""
        settings = self.config.evaluation
        return evaluate(
            self.model,
            build.build_objective(self.config.loss, self.model.spec),
            self.heldout(),
            context=settings.context,
            horizon=settings.horizon,
            samples=settings.samples,
            seed=self.config.seed,
        )


def open_run(folder: str | Path, checkpoint: str | None = None, device: str = "cpu") -> Run:
    """Open a run's folder.

    Args:
        folder: as `train` made it.
        checkpoint: "best" or "last"; by default the best, or the last where no best was written.
        device: where the model goes.
    Raises:
        FileNotFoundError: if the folder is not a run's.
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder}: expected a run's folder, found no config.yaml in it")
    config = read_config(folder / "config.yaml")
    with Replay.open(folder / "heldout", read_only=True) as heldout:
        model = build.build_model(config, heldout.spec)
    path = folder / "checkpoints" / "best.safetensors"
    if checkpoint is not None or not path.is_file():
        path = folder / "checkpoints" / f"{checkpoint or 'last'}.safetensors"
    load_model(path, model)
    return Run(folder, config, model.to(build.build_device(device)).eval())


def _long_enough(episodes: Batch, length: int) -> Batch:
    rows = episodes.valid.sum(1)
    if not (rows >= length).any():
        raise ValueError(f"context + horizon: expected at most {int(rows.max())}, the longest episode; got {length}")
    return select(episodes, rows >= length)
