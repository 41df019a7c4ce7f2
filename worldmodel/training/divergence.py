"""When a run has diverged: the rule, and the message.

Before weights are saved, their loss is computed on the first steps of a few held-out episodes, which never change:
training rows may leave the range of the prefill, and a loss that grows for that reason is no divergence. The run has
diverged if this loss is not finite, or if it exceeds the loss of the first checkpoint's weights by more than a million
times the size of that first loss (or than a million nats, where the size is less than one nat). Diverged weights are
not saved, and the run stops. So every checkpoint has a sound loss, and a resumed run goes on from the newest one.
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
    if not math.isfinite(first):  # the rows are beyond the model from the beginning: there is nothing to compare with
        return False
    return not math.isfinite(loss) or loss > first + FACTOR * max(1.0, abs(first))


def not_finite(update: int, scalars: Mapping[str, float], places: Mapping[str, int]) -> str:
    """Describe an update that is not finite.

    Args:
        update: its number.
        scalars: its losses and gradient norms, among others.
        places: by term of the loss, the first row that is not finite, or -1.
    """
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
        words = f"after update {update}: the held-out loss is {loss:.4g}, and was {first:.4g} at the beginning"
        raise diverged(words, checkpoints)


def diverged(words: str, checkpoints: Path) -> NonFiniteLossError:
    """The error to raise: what happened, the newest checkpoint in this folder, and what to change."""
    path = checkpoints / "last.safetensors"
    try:
        kept = f"the newest checkpoint whose loss was sound is {path}, of update {read_counters(path)['updates']}"
    except CheckpointError:
        return NonFiniteLossError(f"{words}; no checkpoint had been written yet")
    return NonFiniteLossError(f"{words}; {kept}; {ADVICE}")
