"""The training loop: collect, sample, step, log if due, evaluate if due, save if due."""

import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from worldmodel.data.environment import EnvironmentFailureError
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.training.checkpoint import save_checkpoint
from worldmodel.training.evaluation import Evaluation, evaluate, training_kl
from worldmodel.training.learner import Learner, Update
from worldmodel.training.pictures import show
from worldmodel.training.progress import RunProgress
from worldmodel.training.tracking import Tracker
from worldmodel.types import Batch


class NonFiniteLossError(RuntimeError):
    """The loss or a gradient became infinite or NaN; the message says at which update, in which term and where."""


@dataclass(frozen=True)
class Schedule:
    """When things happen. Fields as in `TrainingConfig`, `ReplayConfig` and `EvaluationConfig`."""

    env_steps: int
    prefill: int
    train_ratio: float
    batch_size: int
    sequence_length: int
    burn_in: int
    log_every: int
    evaluate_every: int
    save_every: int
    context: int
    horizon: int
    samples: int

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.updates_paid(self.env_steps)

    def updates_paid(self, env_steps: int) -> int:
        """Updates that the rows collected after the prefill pay for."""
        return int((env_steps - self.prefill) * self.train_ratio / (self.batch_size * self.sequence_length))


class Trainer:
    """Runs a learner over rollouts. It owns the loop and the counters, and nothing else."""

    def __init__(
        self,
        learner: Learner,
        rollout: Rollout,
        replay: Replay,
        heldout: Batch,
        tracker: Tracker,
        progress: RunProgress,
        *,
        folder: Path,
        schedule: Schedule,
        sampling: torch.Generator,
        seed: int,
    ) -> None:
        """Args:
        learner, rollout, replay: the three that do the work; the replay is empty or belongs to this run.
        heldout: whole episodes, padded, on the learner's device.
        tracker, progress: where numbers go.
        folder: the run's folder; checkpoints are made in it.
        schedule: when things happen.
        sampling: decides which sequences are drawn.
        seed: of the noise in evaluations.
        """
        self.learner, self.rollout, self.replay, self.heldout = learner, rollout, replay, heldout
        self.tracker, self.progress, self.folder, self.schedule = tracker, progress, folder, schedule
        self.sampling, self.seed = sampling, seed
        self.device = learner.model.device
        self.env_steps = 0
        self.best_elbo = -np.inf
        self.evaluation: Evaluation | None = None
        self._started = time.monotonic()
        self._last: Update | None = None
        self._recent: list[dict[str, torch.Tensor]] = []  # one entry an update since the last log
        self._bad_places: list[dict[str, torch.Tensor]] = []
        self._history: dict[str, dict[str, list[float]]] = {"kl": {}, "train": {}, "heldout": {}}

    def run(self) -> bool:
        """Train until the rows are collected, or until Ctrl-C: -> whether it went to the end.

        Raises:
            NonFiniteLossError: the last checkpoint is from before it happened.
            EnvironmentFailureError: after a checkpoint.
        """
        with _Interruptions() as interruptions:
            try:
                self._prefill(interruptions)
                self._train(interruptions)
            except EnvironmentFailureError:
                if self.learner.updates:
                    self._save("last")
                raise
            if self.learner.updates:
                self._finish()
        return not interruptions.requested

    def _train(self, interruptions: "_Interruptions") -> None:
        schedule = self.schedule
        self._started = time.monotonic()
        while self.env_steps < schedule.env_steps and not interruptions.requested:
            self._collect()
            self.progress.collected(self.env_steps)
            while self.learner.updates < schedule.updates_paid(self.env_steps) and not interruptions.requested:
                self._last = self.learner.update(self._sample())
                self._remember(self._last)
                if self._due(schedule.log_every):
                    self._log()
                if self._due(schedule.evaluate_every):
                    self._evaluate()
                if self._due(schedule.save_every):
                    self._save("last")

    def _prefill(self, interruptions: "_Interruptions") -> None:
        while self.env_steps < self.schedule.prefill and not interruptions.requested:
            self._collect()
            self.progress.collected(self.env_steps)
        if interruptions.requested:
            return
        for name, (mean, std) in self.replay.statistics().items():
            self.learner.model.standardise(name, mean.float(), std.float())

    def _collect(self) -> None:
        self.replay.append(self.rollout.step())
        self.env_steps += self.rollout.environments.count

    def _sample(self, sequences: int | None = None, generator: torch.Generator | None = None) -> Batch:
        schedule = self.schedule
        batch = self.replay.sample(
            sequences or schedule.batch_size,
            schedule.sequence_length,
            generator or self.sampling,
            burn_in=schedule.burn_in,
        )
        return batch.to(self.device)

    def _due(self, every: int) -> bool:
        return self.learner.updates % every == 0

    def _remember(self, update: Update) -> None:
        self._recent.append(update.scalars())
        self._bad_places.append(update.first_non_finite())

    def _log(self) -> None:
        """Read the metrics of all updates since the last log, check them, and pass on their means."""
        assert self._last is not None
        columns = self._check_recent()
        self._recent.clear()
        self._bad_places.clear()
        values = {name: column.mean().item() for name, column in columns.items()}
        kl = _last_kl(self._last)
        seconds = max(time.monotonic() - self._started, 1e-9)
        values |= {f"kl/{name}": value for name, value in kl.items()}
        values |= {
            "optimizer/learning_rate": self._last.learning_rate,
            "rate/env_steps_per_second": (self.env_steps - self.schedule.prefill) / seconds,
            "rate/updates_per_second": self.learner.updates / seconds,
            "env_steps": self.env_steps,
        }
        self.tracker.scalars(self.learner.updates, values)
        self._keep("kl", kl)
        self._keep("train", {name.split("/", 1)[1]: v for name, v in values.items() if name.startswith("train/")})
        self.progress.trained(self.env_steps, self.learner.updates, values["train/elbo"], values["train/kl"])

    def _check_recent(self) -> dict[str, torch.Tensor]:
        """The scalars of all updates since the last log, [updates] each, on the host; raises if one is not finite."""
        if not self._recent:
            return {}
        columns = {name: torch.stack([row[name] for row in self._recent]).cpu() for name in self._recent[0]}
        suspects = [name for name in columns if name == "loss/value" or name.startswith("grad_norm/")]
        bad = ~torch.isfinite(torch.stack([columns[name] for name in suspects])).all(0)  # [updates]
        if not bad.any():
            return columns
        first = int(bad.int().argmax())
        number = self.learner.updates - len(bad) + first + 1
        places = {name: int(place) for name, place in self._bad_places[first].items() if place >= 0}
        where = ", ".join(f"{name} at row {place} of the sequence" for name, place in places.items())
        norms = ", ".join(f"{n.split('/')[1]} {columns[n][first]:.3g}" for n in suspects if n != "loss/value")
        kept = self.folder / "checkpoints" / "last.safetensors"
        good = f"the last good checkpoint is {kept}" if kept.exists() else "no checkpoint had been written yet"
        raise NonFiniteLossError(
            f"update {number}: the loss is {columns['loss/value'][first]:.4g}; "
            f"not finite: {where or 'no term of the bound, so a gradient'}; gradient norms: {norms}; {good}"
        )

    def _evaluate(self) -> None:
        """Score the held-out episodes, draw the KL from every side, keep the best checkpoint."""
        if self._recent:
            self._log()
        schedule, updates = self.schedule, self.learner.updates
        evaluation = evaluate(
            self.learner.model,
            self.learner.objective,
            self.heldout,
            context=schedule.context,
            horizon=schedule.horizon,
            samples=schedule.samples,
            seed=self.seed,
        )
        self.evaluation = evaluation
        values = {f"heldout/{name}": value for name, value in evaluation.per_step.items()}
        values |= {f"heldout_kl/{name}": value for name, value in evaluation.kl.summary.items()}
        values |= {f"heldout_bits_per_dimension/{name}": bits for name, bits in evaluation.bits_per_dimension.items()}
        for name, errors in evaluation.open_loop.items():
            values |= {f"open_loop/{name}/{kind}": x.mean().item() for kind, x in errors._asdict().items()}
        self.tracker.scalars(updates, values)
        self._keep("heldout", evaluation.per_step)
        sequences = self._sample(4 * schedule.batch_size, torch.Generator().manual_seed(self.seed))
        kl = training_kl(self.learner.model, self.learner.objective, sequences, seed=self.seed)
        self.tracker.scalars(updates, {f"training_kl/{name}": value for name, value in kl.summary.items()})
        show(self.tracker, updates, self._history, evaluation, kl)
        if evaluation.per_step["elbo"] > self.best_elbo:
            self.best_elbo = evaluation.per_step["elbo"]
            self._save("best")

    def _finish(self) -> None:
        self._save("last")  # first: an evaluation takes long, and a second Ctrl-C stops it
        if self.evaluation is None or not self._due(self.schedule.evaluate_every):
            self._evaluate()
            self._save("last")  # again, with the best bound so far in its counters

    def _save(self, name: str) -> None:
        self._check_recent()
        bad = [key for key, p in self.learner.model.named_parameters() if not torch.isfinite(p).all()]
        if bad:
            raise NonFiniteLossError(f"after update {self.learner.updates}: not finite: the weights {', '.join(bad)}")
        random = {"learner": self.learner.generator.get_state(), "sampling": self.sampling.get_state()}
        counters = {
            "updates": self.learner.updates,
            "env_steps": self.env_steps,
            "best_elbo": self.best_elbo if np.isfinite(self.best_elbo) else None,
        }
        path = self.folder / "checkpoints" / f"{name}.safetensors"
        save_checkpoint(path, self.learner.model, self.learner.optimizer, random, counters)
        self.replay.flush()

    def _keep(self, table: str, values: Mapping[str, float]) -> None:
        for name, value in {"update": self.learner.updates, **values}.items():
            self._history[table].setdefault(name, []).append(value)


class _Interruptions:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after this update; the second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Interruptions":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _last_kl(update: Update) -> dict[str, float]:
    """Quantiles of the raw KL over the rows of the newest batch, and the mean of what the loss made of it."""
    rows = update.bound.kl[update.bound.valid]
    optimised = update.loss.optimised_kl[update.bound.valid]
    quantiles = torch.quantile(rows.float(), rows.new_tensor([0.5, 0.95], dtype=torch.float32))
    numbers = torch.stack([rows.mean(), quantiles[0], quantiles[1], optimised.mean()]).tolist()
    return dict(zip(("mean", "median", "q95", "optimised_mean"), numbers, strict=True))
