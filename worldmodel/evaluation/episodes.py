"""A policy in its environment: what it earns in whole episodes, and what its model had expected."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from worldmodel.behaviour.acting import FilteringPolicy, Planning
from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation import scoring_rules as rules
from worldmodel.evaluation.rounds import play_round, rounds
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Policy, Rows

COVERAGE = 0.95  # of the bootstrap intervals
FUTURES = 64  # of each start, for the predicted return


class Summary(NamedTuple):
    """A number of every episode: its mean with a bootstrap interval over episodes, and how it is spread."""

    mean: float
    low: float  # of the central 95 %; NaN where there is a single episode
    high: float
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class PlanForecast:
    """What a planner's model expected of its first plan in every episode, beside what came."""

    horizon: int  # steps that are counted
    discount: float
    predicted: Float[np.ndarray, " E"]  # the discounted rewards of the plan, by the model
    real: Float[np.ndarray, " E"]  # the discounted rewards of the first `horizon` steps, in which it planned anew


@dataclass(frozen=True)
class Played:
    """E whole episodes of a policy."""

    returns: Float[np.ndarray, " E"]  # the sum of an episode's rewards
    lengths: Int[np.ndarray, " E"]  # its actions
    calibration: PlanForecast | None  # of a policy that plans
    cpu_seconds: float  # of the policy, per action: of one environment among those side by side


def play(
    environments: Environments,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    at: Callable[[str], None] = lambda words: None,
) -> Played:
    """Play whole episodes, each from a start seed of its own.

    Args:
        environments: N of them; rounds of N episodes are played until there are enough.
        policy: acts; where it plans (`Planning`), what its model expects is noted at each start.
        episodes: how many (E).
        seed: of the starts, and of the futures that returns are predicted from.
        at: told how far it is.
    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if episodes is not positive, or the seed negative.
    """
    forecast, timed = _Forecast.of(policy, seed), _Timed(policy)
    played = [
        _play_round(Rollout(environments, timed, start), forecast, wanted, at)
        for start, wanted in rounds(episodes, environments.count, seed)
    ]
    returns = np.concatenate([one.reward.sum(0) for one in played])
    lengths = np.concatenate([one.lengths for one in played])
    calibration = None
    if forecast is not None:
        horizon, discount = forecast.planning.planner.horizon, forecast.planning.discount
        real = np.concatenate([_discounted(one.reward, horizon, discount) for one in played])
        predicted = np.concatenate([one.predicted for one in played])
        calibration = PlanForecast(horizon, discount, predicted, real)
    return Played(returns, lengths, calibration, timed.seconds / timed.actions)


def summary(values: np.ndarray) -> Summary:
    """The mean of a number of every episode with its interval, the median and the extremes."""
    total = torch.from_numpy(np.asarray(values, np.float64))
    resamples = rules.resample(len(total), torch.Generator().manual_seed(0))
    counted = torch.ones(len(total), dtype=torch.int64)
    band = rules.bootstrap(total[:, None], counted, resamples, COVERAGE)
    middle = (float(band.mean[0]), float(band.low[0]), float(band.high[0]))
    return Summary(*middle, float(np.median(values)), float(np.min(values)), float(np.max(values)))


class _Round(NamedTuple):
    reward: Float[np.ndarray, "T E"]  # zero behind an episode's end
    lengths: Int[np.ndarray, " E"]
    predicted: Float[np.ndarray, " E"]  # NaN of a policy that does not plan


class _Timed:
    """A policy, and the CPU time that it takes."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.seconds, self.actions = policy, 0.0, 0

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """The policy's actions."""
        began = time.process_time()
        action = self.policy(rows)
        self.seconds += time.process_time() - began
        self.actions += len(rows.is_first)
        return action


@dataclass(frozen=True)
class _Forecast:
    """What the model of a policy that plans expects of its newest plans."""

    policy: FilteringPolicy
    planning: Planning
    generator: torch.Generator  # of the futures

    @classmethod
    def of(cls, policy: Policy, seed: int) -> "_Forecast | None":
        """The forecast of a policy; none of one that does not plan."""
        if not isinstance(policy, FilteringPolicy) or not isinstance(policy.chooser, Planning):
            return None
        planning = policy.chooser
        generator = make_generator(seed, stream=Stream.IMAGINATION, device=planning.model.device)
        return cls(policy, planning, generator)

    def returns(self) -> Float[np.ndarray, " N"]:
        """The discounted rewards of the newest plan in each of N environments."""
        assert self.policy.newest is not None
        return self.planning.predicted_return(self.policy.newest, FUTURES, self.generator).double().cpu().numpy()


def _play_round(rollout: Rollout, forecast: _Forecast | None, wanted: int, at: Callable[[str], None]) -> _Round:
    """The first episodes of the first `wanted` environments, with the forecast of their returns if there is one."""
    rewards, last, predicted = list[np.ndarray](), list[np.ndarray](), np.full(wanted, np.nan)
    for rows in play_round(rollout, wanted, at=at):
        rewards.append(rows.reward[:wanted])
        last.append(rows.is_last[:wanted])
        if forecast is not None and len(rewards) == 2:  # the policy has just planned, in the episodes' first states
            predicted = forecast.returns()[:wanted]
    ends = np.cumsum(last, 0) - last  # before each row
    return _Round(np.where(ends == 0, rewards, 0.0)[1:], (ends == 0).sum(0) - 1, predicted)


def _discounted(reward: Float[np.ndarray, "T E"], horizon: int, discount: float) -> Float[np.ndarray, " E"]:
    first = reward[:horizon]
    return (discount ** np.arange(len(first))[:, None] * first).sum(0)
