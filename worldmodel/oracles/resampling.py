"""Rows drawn anew from their exact law given the rows before them, for environments that state their law.

Every row of the result has another x_t, given the *recorded* rows before it: it is no episode, but a second draw of
each row by itself. That is what the aggregate posterior of one row is an average over; see `evidence.rate`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.worlds import linear_gaussian
from worldmodel.types import Batch


def can_resample(law: Mapping[str, Any]) -> bool:
    """Whether `resample_rows` knows this kind of law."""
    return law.get("kind") in KINDS


def resample_rows(law: Mapping[str, Any], batch: Batch, *, generator: torch.Generator | None = None) -> Batch:
    """Every row drawn anew from its exact law given the rows before it, which are left as they were recorded.

    Args:
        law, batch: as `worlds.exact_evidence` has them.
        generator: source of all draws.
    Returns:
        The batch with observations and rewards replaced, all flags as they were.
    Raises:
        ValueError: if the law is of a kind whose rows are not redrawn here.
    """
    if not can_resample(law):
        raise ValueError(f"law: expected one of the kinds {sorted(KINDS)}, got {law.get('kind')!r}")
    obs, reward = KINDS[law["kind"]](law, batch, generator)
    ((path, old),) = batch.obs.items()
    reward = torch.where(batch.is_first, 0.0, reward).to(batch.reward.dtype)
    return batch._replace(obs={path: obs.to(old.dtype)}, reward=reward)


def resample_linear_gaussian(
    law: Mapping[str, Any], batch: Batch, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "B T n"], Float[Tensor, "B T"]]:
    """Observation and reward from N(C m_t + .., C P_t C' + R), the Kalman filter's forecast of row t."""
    model, rows = linear_gaussian(law, batch)
    drawn = model.forecast(rows, batch.prev_action.double()).sample(generator)
    return drawn[..., :-1], drawn[..., -1]


KINDS: dict[str, Callable[[Mapping[str, Any], Batch, torch.Generator | None], tuple[Tensor, Tensor]]] = {
    "linear_gaussian": resample_linear_gaussian
}
