"""The exact evidence of episodes that an environment with a known law has written.

Such an environment states its law as plain numbers, {"kind": ..., ...}; what a kind means is said by the environment
itself. `KINDS` is the list: another world adds its function there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Normal

from worldmodel.data.batches import require_whole_episodes
from worldmodel.oracles.hmm import HiddenMarkov
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
        `total`; and the parts that it is the sum of: `observation_and_reward`, which have one state behind them and so
        no evidence apart, and `continue`, given those two where the state has a say in it. Zero where a row is not
        valid. Summed over t it is the evidence of an episode.
    Raises:
        ValueError: if the law is of no known kind, the rows are not as the law has them, or a sequence is not one
            episode from its reset.
    """
    kind = law.get("kind")
    if kind not in KINDS:
        raise ValueError(f"law: expected one of the kinds {sorted(KINDS)}, got {kind!r}")
    require_whole_episodes(batch)
    parts = {name: torch.where(batch.valid, part, 0.0) for name, part in KINDS[kind](law, batch).items()}
    return {"total": torch.stack(list(parts.values())).sum(0), **parts}


def continue_evidence(law: Mapping[str, Any], batch: Batch) -> Float[Tensor, "B T"]:
    """log p(c_t): an episode ends at each row but the first with the same probability, whatever happens in it."""
    ends = torch.as_tensor(law["termination"], dtype=torch.float64)
    evidence = torch.where(batch.is_terminal, ends.log(), torch.log1p(-ends))
    return torch.where(batch.is_first, torch.where(batch.is_terminal, -torch.inf, 0.0).double(), evidence)


def linear_gaussian_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The Kalman filter's, for the law of `worldmodel_envs.linear_gaussian.LinearGaussian`.

    No reward leads to a first row.
    """
    model, rows = linear_gaussian(law, batch)
    evidence = model.log_evidence(rows, batch.prev_action.double())
    return {"observation_and_reward": evidence, "continue": continue_evidence(law, batch)}


def linear_gaussian_model(law: Mapping[str, Any]) -> LinearGaussian:
    """The model that the law is; its rows are the observation, then the reward."""
    number = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in law.items() if key != "kind"}
    return LinearGaussian.create(
        A=number["transition"],
        B=number["control"],
        C=torch.cat([number["observation"], number["reward"][None]]),
        Q=number["transition_covariance"],
        R=torch.block_diag(number["observation_covariance"], number["reward_variance"]),
        m=number["initial_mean"],
        P=number["initial_covariance"],
    )


def linear_gaussian(law: Mapping[str, Any], batch: Batch) -> tuple[LinearGaussian, Float[Tensor, "B T p"]]:
    """The model that the law is, and the rows as it reads them: observation and reward, NaN where there is none."""
    reward = torch.where(batch.is_first, torch.nan, batch.reward.double())
    rows = torch.cat([_only_vector(batch, len(law["observation"])), reward[..., None]], -1)
    return linear_gaussian_model(law), torch.where(batch.valid[..., None], rows, torch.nan)


def hidden_markov_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The forward algorithm's, for the law of `worldmodel_envs.hidden_markov.HiddenMarkov`.

    No reward leads to a first row, and no episode ends there.
    """
    number = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in law.items() if key != "kind"}
    model = HiddenMarkov(number["initial"], number["transition"])
    later = (batch.valid & ~batch.is_first)[..., None]
    colour = number["emission"].log().mT[_only_class(batch, number["emission"].shape[1])]  # [B, T, S]
    reward = Normal(number["reward_mean"], number["reward_std"]).log_prob(batch.reward.double()[..., None])
    seen = torch.where(batch.valid[..., None], colour, 0.0) + torch.where(later, reward, 0.0)
    ends = number["termination"]
    flag = torch.where(later, torch.where(batch.is_terminal[..., None], ends.log(), torch.log1p(-ends)), 0.0)
    action = torch.where(later, batch.prev_action.double(), torch.eye(len(number["transition"]))[0].double())
    belief, evidence = model.forward(seen + flag, action)
    arrival = model.log_transition(seen.shape[:2], action)[:, 1:]
    predicted = torch.cat([model.initial.log().expand_as(belief[:, :1]), _after(belief[:, :-1], arrival)], 1)
    without_flag = (predicted + seen).logsumexp(-1)
    impossible = without_flag == -torch.inf  # whatever the flag, which then has nothing to add
    return {"observation_and_reward": without_flag, "continue": torch.where(impossible, 0.0, evidence - without_flag)}


KINDS: dict[str, Callable[[Mapping[str, Any], Batch], Parts]] = {
    "hidden_markov": hidden_markov_evidence,
    "linear_gaussian": linear_gaussian_evidence,
}


def _after(belief: Float[Tensor, "B T S"], log_transition: Float[Tensor, "B T S S"]) -> Float[Tensor, "B T S"]:
    return (belief[..., None] + log_transition).logsumexp(-2)


def _only_class(batch: Batch, classes: int) -> Int[Tensor, "B T"]:
    """The observation where it is a single category of so many; ValueError where it is not."""
    leaves = {path: (list(x.shape[2:]), x.dtype) for path, x in batch.obs.items()}
    x = next(iter(batch.obs.values()))
    if list(leaves.values()) != [([1], torch.int32)] or not bool(((x >= 0) & (x < classes)).all()):
        raise ValueError(f"batch.obs: expected a single category of {classes}, got {leaves}")
    return x[..., 0].long()


def _only_vector(batch: Batch, width: int) -> Float[Tensor, "B T n"]:
    """The observation, in float64, where it is a single vector of this width; ValueError where it is not."""
    shapes = {path: list(x.shape[2:]) for path, x in batch.obs.items()}
    if list(shapes.values()) != [[width]]:
        raise ValueError(f"batch.obs: expected a single vector of {width} numbers, got {shapes}")
    return next(iter(batch.obs.values())).double()
