"""The exact evidence of episodes that an environment with a known law has written.

Such an environment states its law as plain numbers, {"kind": ..., ...}; what a kind means is said by the environment
itself. `KINDS` is the list: another world adds its function there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.types import Batch

Parts = dict[str, Float[Tensor, "B T"]]


def exact_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The log evidence of each row given the rows before it, under the actions, in nats and float64.

        log p(x_t, r_t, c_t | x_<t, r_<t, c_<t || a_<=t)

    Args:
        law: of the environment that wrote the rows, without wrappers that change what a row holds.
        batch: whole episodes from their reset, padded at the end.
    Returns:
        `total`; and the parts that it is the sum of: `continue`, which these worlds draw apart from all else, and
        `observation_and_reward`, which have one state behind them and so no evidence apart. Zero where a row is not
        valid. Summed over t it is the evidence of an episode.
    Raises:
        ValueError: if the law is of no known kind, the rows are not as the law has them, or a sequence is not one
            episode from its reset.
    """
    kind = law.get("kind")
    if kind not in KINDS:
        raise ValueError(f"law: expected one of the kinds {sorted(KINDS)}, got {kind!r}")
    first, valid = batch.is_first, batch.valid
    whole = first[:, 0] & valid[:, 0] & ~((first[:, 1:] | ~valid[:, :-1]) & valid[:, 1:]).any(1)
    if not whole.all():
        raise ValueError("batch: expected one episode a sequence, with its reset at row 0 and padding behind it alone")
    parts = {"observation_and_reward": KINDS[kind](law, batch), "continue": continue_evidence(law, batch)}
    parts = {name: torch.where(batch.valid, part, 0.0) for name, part in parts.items()}
    return {"total": torch.stack(list(parts.values())).sum(0), **parts}


def continue_evidence(law: Mapping[str, Any], batch: Batch) -> Float[Tensor, "B T"]:
    """log p(c_t): an episode ends at each row but the first with the same probability, whatever happens in it."""
    ends = torch.as_tensor(law["termination"], dtype=torch.float64)
    evidence = torch.where(batch.is_terminal, ends.log(), torch.log1p(-ends))
    return torch.where(batch.is_first, torch.where(batch.is_terminal, -torch.inf, 0.0).double(), evidence)


def linear_gaussian_evidence(law: Mapping[str, Any], batch: Batch) -> Float[Tensor, "B T"]:
    """The Kalman filter's, for the law of `envs.linear_gaussian.LinearGaussian`; no reward leads to a first row."""
    model, rows = _linear_gaussian(law, batch)
    return model.log_evidence(rows, batch.prev_action.double())


def redraw_linear_gaussian(
    law: Mapping[str, Any], batch: Batch, generator: torch.Generator | None = None
) -> Float[Tensor, "B T p"]:
    """Observation and reward from N(C m_t + .., C P_t C' + R), the Kalman filter's forecast of row t."""
    model, rows = _linear_gaussian(law, batch)
    return model.forecast(rows, batch.prev_action.double()).sample(generator)


KINDS: dict[str, Callable[[Mapping[str, Any], Batch], Tensor]] = {"linear_gaussian": linear_gaussian_evidence}


REDRAWN = {"linear_gaussian": redraw_linear_gaussian}


def can_redraw(law: Mapping[str, Any]) -> bool:
    """Whether `redraw_rows` knows this kind of law."""
    return law.get("kind") in REDRAWN


def redraw_rows(law: Mapping[str, Any], batch: Batch, *, generator: torch.Generator | None = None) -> Batch:
    """Every row drawn anew from its exact law given the rows before it, which are left as they were recorded.

    Args:
        law, batch: as `exact_evidence` has them.
        generator: source of all draws.
    Returns:
        The batch with observations and rewards replaced, all flags as they were.
    Raises:
        ValueError: if the law is of a kind whose rows are not redrawn here.
    """
    if not can_redraw(law):
        raise ValueError(f"law: expected one of the kinds {sorted(REDRAWN)}, got {law.get('kind')!r}")
    ((path, old),) = batch.obs.items()
    drawn = REDRAWN[law["kind"]](law, batch, generator)
    reward = torch.where(batch.is_first, 0.0, drawn[..., -1])
    return batch._replace(obs={path: drawn[..., :-1].to(old.dtype)}, reward=reward.to(batch.reward.dtype))


def _linear_gaussian(law: Mapping[str, Any], batch: Batch) -> tuple[LinearGaussian, Float[Tensor, "B T p"]]:
    """The model that the law is, and the rows as it reads them: observation and reward, NaN where there is none."""
    number = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in law.items() if key != "kind"}
    model = LinearGaussian.create(
        A=number["transition"],
        B=number["control"],
        C=torch.cat([number["observation"], number["reward"][None]]),
        Q=number["transition_covariance"],
        R=torch.block_diag(number["observation_covariance"], number["reward_variance"]),
        m=number["initial_mean"],
        P=number["initial_covariance"],
    )
    reward = torch.where(batch.is_first, torch.nan, batch.reward.double())
    rows = torch.cat([_only_vector(batch, len(number["observation"])), reward[..., None]], -1)
    return model, torch.where(batch.valid[..., None], rows, torch.nan)


def _only_vector(batch: Batch, width: int) -> Float[Tensor, "B T n"]:
    """The observation, in float64, where it is a single vector of this width; ValueError where it is not."""
    shapes = {path: list(x.shape[2:]) for path, x in batch.obs.items()}
    if list(shapes.values()) != [[width]]:
        raise ValueError(f"batch.obs: expected a single vector of {width} numbers, got {shapes}")
    return next(iter(batch.obs.values())).double()
