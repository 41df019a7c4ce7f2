"""The names of a run's metrics, and the numbers of the updates that have not been reported yet."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.held_out import Evaluation
from worldmodel.training.checkpoint import WORLD
from worldmodel.training.divergence import diverged, not_finite
from worldmodel.training.learner import AnyUpdate, Update

KL_SUMMARY = ("mean", "median", "q95", "optimised_mean")


class Made(NamedTuple):
    """What one update of every learner reports, on the device."""

    updates: Mapping[str, AnyUpdate]  # by the learner's name
    scalars: Mapping[str, Tensor]  # of all of them, [] by the metric's name; see `AnyUpdate.scalars`
    places: Mapping[str, Tensor]  # likewise; see `AnyUpdate.first_non_finite`


def made_of(updates: Mapping[str, AnyUpdate]) -> Made:
    """What the updates of all learners report, by the learners' names."""
    scalars = {name: update.scalars() for name, update in updates.items()}
    places = {name: update.first_non_finite() for name, update in updates.items()}
    return Made(updates, _of_all(scalars), _of_all(places))


class RecentUpdates:
    """What every update since the last log reported. It stays on the device until it is read."""

    def __init__(self) -> None:
        self._scalars: list[Mapping[str, Tensor]] = []  # one entry an update
        self._places: list[Mapping[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self._scalars)

    def add(self, made: Made) -> None:
        """Keep the numbers of an update."""
        self._scalars.append(made.scalars)
        self._places.append(made.places)

    def clear(self) -> None:
        """Forget them, since they were reported."""
        self._scalars.clear()
        self._places.clear()

    def read(self, newest: int, checkpoints: Path) -> dict[str, Tensor]:
        """Every number, [updates] by name, on the host.

        Args:
            newest: the number of the newest update.
            checkpoints: the folder of the run's checkpoints, for the message.
        Raises:
            NonFiniteLossError: if a loss or a gradient is not finite.
        """
        if not self._scalars:
            return {}
        columns = {name: torch.stack([row[name] for row in self._scalars]).cpu() for name in self._scalars[0]}
        suspects = [name for name in columns if "loss/value" in name or "grad_norm/" in name]
        bad = ~torch.isfinite(torch.stack([columns[name] for name in suspects])).all(0)  # [updates]
        if not bad.any():
            return columns
        first = int(bad.int().argmax())
        values = {name: float(column[first]) for name, column in columns.items()}
        places = {name: int(place) for name, place in self._places[first].items()}
        raise diverged(not_finite(newest - len(bad) + first + 1, values, places), checkpoints)


class Pace:
    """How fast rows and updates come since training began in this session."""

    def __init__(self, env_steps: int = 0, updates: int = 0) -> None:
        """Args:
        env_steps, updates: made by then.
        """
        self._began, self._env_steps, self._updates = time.monotonic(), env_steps, updates

    def metrics(self, env_steps: int, updates: int) -> dict[str, float]:
        """The rates, now that so many were made in all."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {
            "rate/env_steps_per_second": (env_steps - self._env_steps) / seconds,
            "rate/updates_per_second": (updates - self._updates) / seconds,
        }


def training_metrics(columns: Mapping[str, Tensor], newest: Mapping[str, AnyUpdate]) -> dict[str, float]:
    """What updates report: the mean of every number, the KL's spread in the newest batch, and the learning rates.

    Args:
        columns: every number of the updates since the last log, as `RecentUpdates.read` gives them.
        newest: the newest update of every learner.
    """
    update = newest[WORLD]
    assert isinstance(update, Update)
    means = {name: column.mean().item() for name, column in columns.items()}
    return {**means, **kl_summary(update), **learning_rates(newest)}


def metric_name(learner: str, name: str) -> str:
    """What a learner's number is called in the metrics: the world model's have no prefix."""
    return name if learner == WORLD else f"{learner}/{name}"


def learning_rates(updates: Mapping[str, AnyUpdate]) -> dict[str, float]:
    """The learning rate of every learner."""
    return {metric_name(name, "optimizer/learning_rate"): update.learning_rate for name, update in updates.items()}


def kl_summary(update: Update) -> dict[str, float]:
    """The raw KL over this process's rows of the newest batch, and the mean of what the loss made of it.

    `train/kl` is the mean in all processes. NaN where no row counts: a long burn-in can take up every sequence of a
    small batch.
    """
    if not update.bound.valid.any():
        return {f"kl/{name}": np.nan for name in KL_SUMMARY}
    rows = update.bound.kl[update.bound.valid]
    optimised = update.loss.optimised_kl[update.bound.valid]
    quantiles = torch.quantile(rows.float(), rows.new_tensor([0.5, 0.95], dtype=torch.float32))
    numbers = torch.stack([rows.mean(), quantiles[0], quantiles[1], optimised.mean()]).tolist()
    return {f"kl/{name}": number for name, number in zip(KL_SUMMARY, numbers, strict=True)}


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's single numbers."""
    values = {f"heldout/{name}": value for name, value in evaluation.per_step.items()}
    values |= {f"heldout_kl/{name}": value for name, value in evaluation.kl.summary.items()}
    values |= {f"heldout_bits_per_dimension/{name}": bits for name, bits in evaluation.bits_per_dimension.items()}
    for name, errors in evaluation.open_loop.items():
        values |= {f"open_loop/{name}/{kind}": x.mean().item() for kind, x in errors._asdict().items()}
    return values


def _of_all(numbers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {metric_name(learner, name): x for learner, own in numbers.items() for name, x in own.items()}
