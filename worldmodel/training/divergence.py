"""When a run has diverged: the rule, and what is said about it.

The loss of the weights is taken on a batch before they are saved. It may exceed that of the first checkpoint's weights,
whose size is at least one nat, by a million times that size. Beyond that, or where it is not finite, the weights are
not saved and the run stops: so every checkpoint there is has a sound loss, and the newest is the one to go on from.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldmodel.training.checkpoint import CheckpointError, read_counters

FACTOR = 1e6
ADVICE = (
    "going on from there under the same settings is likely to fail again: begin a new run with a smaller "
    "optimizer.learning_rate, a longer optimizer.warmup or a smaller optimizer.clip_norm"
)


class NonFiniteLossError(RuntimeError):
    """The run has diverged: the loss or a gradient became infinite or NaN, or the loss grew beyond all measure.

    The message says at which update, in which term and where, what the newest sound checkpoint is, and what to change.
    """


def has_diverged(loss: float, first: float) -> bool:
    """Whether weights of this loss are not worth saving, where the first checkpoint's had the loss `first`."""
    return not math.isfinite(loss) or loss > first + FACTOR * max(1.0, abs(first))


def not_finite(update: int, scalars: Mapping[str, float], places: Mapping[str, int]) -> str:
    """What went wrong in an update: in which terms of the bound, at which first row of each (-1: nowhere)."""
    where = ", ".join(f"{name} at row {place} of the sequence" for name, place in places.items() if place >= 0)
    norms = ", ".join(f"{n.replace('grad_norm/', '')} {x:.3g}" for n, x in scalars.items() if "grad_norm/" in n)
    losses = ", ".join(f"{n.replace('loss/value', 'loss')} is {x:.4g}" for n, x in scalars.items() if "loss/value" in n)
    return (
        f"update {update}: the {losses}; "
        f"not finite: {where or 'no term of the bound, so a gradient'}; gradient norms: {norms}"
    )


def require_finite_weights(weights: Mapping[str, Tensor], update: int, checkpoints: Path) -> None:
    """Raise NonFiniteLossError if a weight is not finite after this update; names them all."""
    bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if bad:
        raise diverged(f"after update {update}: not finite: the weights {', '.join(bad)}", checkpoints)


def require_sound_loss(loss: float, first: float, update: int, checkpoints: Path) -> None:
    """Raise NonFiniteLossError if the weights after this update, of this loss, have diverged; see `has_diverged`."""
    if has_diverged(loss, first):
        words = f"after update {update}: the loss of a batch is {loss:.4g}, and was {first:.4g} at the beginning"
        raise diverged(words, checkpoints)


def diverged(words: str, checkpoints: Path) -> NonFiniteLossError:
    """The error for a run whose checkpoints lie in this folder."""
    path = checkpoints / "last.safetensors"
    try:
        kept = f"the newest checkpoint whose loss was sound is {path}, of update {read_counters(path)['updates']}"
    except CheckpointError:
        return NonFiniteLossError(f"{words}; no checkpoint had been written yet")
    return NonFiniteLossError(f"{words}; {kept}; {ADVICE}")
