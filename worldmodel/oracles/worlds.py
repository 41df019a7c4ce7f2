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
    return model.log_evidence(torch.where(batch.valid[..., None], rows, torch.nan), batch.prev_action.double())


KINDS: dict[str, Callable[[Mapping[str, Any], Batch], Tensor]] = {"linear_gaussian": linear_gaussian_evidence}


def _only_vector(batch: Batch, width: int) -> Float[Tensor, "B T n"]:
    """The observation, in float64, where it is a single vector of this width; ValueError where it is not."""
    shapes = {path: list(x.shape[2:]) for path, x in batch.obs.items()}
    if list(shapes.values()) != [[width]]:
        raise ValueError(f"batch.obs: expected a single vector of {width} numbers, got {shapes}")
    return next(iter(batch.obs.values())).double()
