"""Exact evidence, and exact resampling of rows, for episodes of an environment that states its law.

Such an environment states its law as plain numbers, {"kind": ..., ...}; its own docstring says what they mean. A new
kind of law adds its functions to the tables `EVIDENCE` and, if its rows can be resampled, `FORECAST`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Normal

from worldmodel.data.batches import require_whole_episodes
from worldmodel.oracles.distributions import Gaussian
from worldmodel.oracles.episodes import Episode
from worldmodel.oracles.hmm import HiddenMarkov
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.random_start import integral_of, row_evidence
from worldmodel.types import Batch

Parts = dict[str, Float[Tensor, "B T"]]


def exact_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The log evidence of each row given the rows before it, under the actions, in nats and float64.

        log p(x_t, r_t, c_t | x_<t, r_<t, c_<t || a_<=t)

    Args:
        law: of the environment that wrote the rows; no wrapper may have changed what a row holds.
        batch: whole episodes from their reset, padded at the end.
    Returns:
        `total` and the parts it is the sum of, zero where a row is not valid: `observation_and_reward`, one number
        since both depend on the same state, and `continue`, given those two if the state decides when an episode ends.
        Where only the start is random there is a single part, `row`. The sum of `total` over t is the evidence of an
        episode.
    Raises:
        ValueError: if the kind of law is unknown, the rows do not fit the law, or a sequence is not one episode from
            its reset.
    """
    kind = law.get("kind")
    if kind not in EVIDENCE:
        raise ValueError(f"law: expected one of the kinds {sorted(EVIDENCE)}, got {kind!r}")
    require_whole_episodes(batch)
    parts = {name: torch.where(batch.valid, part, 0.0) for name, part in EVIDENCE[kind](law, batch).items()}
    return {"total": torch.stack(list(parts.values())).sum(0), **parts}


def can_resample(law: Mapping[str, Any]) -> bool:
    """Whether `resample_rows` knows this kind of law."""
    return law.get("kind") in FORECAST


def resample_rows(law: Mapping[str, Any], batch: Batch, *, generator: torch.Generator | None = None) -> Batch:
    """Draw every row again from its exact law given the recorded rows before it.

    The result is no episode: each row is a second draw by itself, which does not follow from the other new rows. The
    aggregate posterior of a row is an average over such draws; see `evidence.rate`.

    Args:
        law, batch: as in `exact_evidence`.
        generator: source of all draws.
    Returns:
        The batch with observations and rewards replaced and all flags as they were.
    Raises:
        ValueError: if rows of this kind of law cannot be resampled.
    """
    if not can_resample(law):
        raise ValueError(f"law: expected one of the kinds {sorted(FORECAST)}, got {law.get('kind')!r}")
    drawn = FORECAST[law["kind"]](law, batch).sample(generator)  # the observation, then the reward
    ((path, old),) = batch.obs.items()
    reward = torch.where(batch.is_first, 0.0, drawn[..., -1]).to(batch.reward.dtype)
    return batch._replace(obs={path: drawn[..., :-1].to(old.dtype)}, reward=reward)


def continue_evidence(law: Mapping[str, Any], batch: Batch) -> Float[Tensor, "B T"]:
    """log p(c_t), where every row but the first ends its episode with the same probability, whatever the state."""
    ends = torch.as_tensor(law["termination"], dtype=torch.float64)
    evidence = torch.where(batch.is_terminal, ends.log(), torch.log1p(-ends))
    return torch.where(batch.is_first, torch.where(batch.is_terminal, -torch.inf, 0.0).double(), evidence)


def linear_gaussian_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The evidence by the Kalman filter, for the law of `worldmodel_envs.linear_gaussian.LinearGaussian`.

    The first row of an episode has no reward.
    """
    model, rows = linear_gaussian(law, batch)
    evidence = model.log_evidence(rows, batch.prev_action.double())
    return {"observation_and_reward": evidence, "continue": continue_evidence(law, batch)}


def linear_gaussian_forecast(law: Mapping[str, Any], batch: Batch) -> Gaussian:
    """p(x_t, r_t | x_<t, r_<t) of every row as one Gaussian, by the Kalman filter."""
    model, rows = linear_gaussian(law, batch)
    return model.forecast(rows, batch.prev_action.double())


def linear_gaussian_model(law: Mapping[str, Any]) -> LinearGaussian:
    """The law as an oracle's model; its rows are the observation, then the reward."""
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
    """The law as a model, and the batch as rows of that model: observation and reward, NaN where there is none."""
    reward = torch.where(batch.is_first, torch.nan, batch.reward.double())
    rows = torch.cat([_only_vector(batch, len(law["observation"])), reward[..., None]], -1)
    return linear_gaussian_model(law), torch.where(batch.valid[..., None], rows, torch.nan)


def hidden_markov_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The evidence by the forward algorithm, for the law of `worldmodel_envs.hidden_markov.HiddenMarkov`.

    The first row of an episode has no reward and does not end it.
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
    impossible = without_flag == -torch.inf  # already without the flag, whose own term is then zero
    return {"observation_and_reward": without_flag, "continue": torch.where(impossible, 0.0, evidence - without_flag)}


def random_start_evidence(law: Mapping[str, Any], batch: Batch) -> Parts:
    """The evidence by quadrature over the start, for a law of `worldmodel_envs.stock_laws`.

    The sum over the rows of an episode is sure to 1e-6 nats, or there is a warning; see `random_start.row_evidence`.
    """
    observation, action = _only_vector(batch, len(law["observation_std"])), _numbers(law, batch.prev_action)
    evidence = torch.zeros(batch.valid.shape, dtype=torch.float64)
    for b, rows in enumerate(batch.valid.sum(1).tolist()):
        reward, ended = batch.reward[b, :rows].double(), bool(batch.is_terminal[b, rows - 1])
        episode = Episode(observation[b, :rows], reward, action[b, :rows].tolist(), ended)
        evidence[b, :rows] = row_evidence(integral_of(law, episode), rows)
    return {"row": evidence}


EVIDENCE: dict[str, Callable[[Mapping[str, Any], Batch], Parts]] = {
    "hidden_markov": hidden_markov_evidence,
    "linear_gaussian": linear_gaussian_evidence,
    "random_start": random_start_evidence,
}
FORECAST: dict[str, Callable[[Mapping[str, Any], Batch], Gaussian]] = {"linear_gaussian": linear_gaussian_forecast}


def _after(belief: Float[Tensor, "B T S"], log_transition: Float[Tensor, "B T S S"]) -> Float[Tensor, "B T S"]:
    return (belief[..., None] + log_transition).logsumexp(-2)


def _only_class(batch: Batch, classes: int) -> Int[Tensor, "B T"]:
    """The only observation, a category below `classes`; ValueError if it is anything else."""
    leaves = {path: (list(x.shape[2:]), x.dtype) for path, x in batch.obs.items()}
    x = next(iter(batch.obs.values()))
    if list(leaves.values()) != [([1], torch.int32)] or not bool(((x >= 0) & (x < classes)).all()):
        raise ValueError(f"batch.obs: expected a single category of {classes}, got {leaves}")
    return x[..., 0].long()


def _numbers(law: Mapping[str, Any], action: Float[Tensor, "B T A"]) -> Float[Tensor, "B T"]:
    """The one number that an action of these environments is, as `data.spaces.decode_action` gives it to them."""
    if "action_low" not in law:
        return action.argmax(-1).double()
    unit = (action[..., 0].double().clamp(-1, 1) + 1) / 2
    return ((1 - unit) * law["action_low"] + unit * law["action_high"]).float().double()


def _only_vector(batch: Batch, width: int) -> Float[Tensor, "B T n"]:
    """The only observation, a vector of this width, in float64; ValueError if it is anything else."""
    shapes = {path: list(x.shape[2:]) for path, x in batch.obs.items()}
    if list(shapes.values()) != [[width]]:
        raise ValueError(f"batch.obs: expected a single vector of {width} numbers, got {shapes}")
    return next(iter(batch.obs.values())).double()
