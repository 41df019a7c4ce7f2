"""When a run has diverged: the rule, and what is said about it.

Before weights are saved, their loss is taken on the first rows of a few held-out episodes, which never change: training
rows may leave the range of the prefill, and a loss that grows for that reason is no divergence. It may exceed that of
the first checkpoint's weights by a million times the latter's size, or by a million nats. Beyond that, or where it is
not finite, the weights are not saved and the run stops. So every checkpoint has a sound loss, and the newest is the one
to go on from.
"""

import math
from collections.abc import Mapping
from pathlib import Path

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
    """What went wrong in an update: in which terms of the bound, at which first row of each (-1: nowhere)."""
    where = ", ".join(f"{name} at row {place} of the sequence" for name, place in places.items() if place >= 0)
    norms = ", ".join(f"{n.split('/')[1]} {x:.3g}" for n, x in scalars.items() if n.startswith("grad_norm/"))
    return (
        f"update {update}: the loss is {scalars['loss/value']:.4g}; "
        f"not finite: {where or 'no term of the bound, so a gradient'}; gradient norms: {norms}"
    )


def diverged(words: str, checkpoints: Path) -> NonFiniteLossError:
    """The error for a run whose checkpoints lie in this folder."""
    path = checkpoints / "last.safetensors"
    try:
        kept = f"the newest checkpoint whose loss was sound is {path}, of update {read_counters(path)['updates']}"
    except CheckpointError:
        return NonFiniteLossError(f"{words}; no checkpoint had been written yet")
    return NonFiniteLossError(f"{words}; {kept}; {ADVICE}")
