"""A policy in its environment: what it earns in whole episodes, and what its model had expected."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation import scoring_rules as rules
from worldmodel.evaluation.plan_forecast import PlanForecast
from worldmodel.evaluation.rounds import play_round, rounds
from worldmodel.types import Policy, Rows

COVERAGE = 0.95  # of the bootstrap intervals


class Summary(NamedTuple):
    """A number of every episode: its mean with a bootstrap interval over episodes, and how it is spread."""

    mean: float
    low: float  # of the central 95 %; NaN where there is a single episode
    high: float
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class PlanCalibration:
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
    calibration: PlanCalibration | None  # of a policy that plans
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
    forecast, timed = PlanForecast.of(policy, seed), _Timed(policy)
    played = [
        _play_round(Rollout(environments, timed, start), forecast, wanted, at)
        for start, wanted in rounds(episodes, environments.count, seed)
    ]
    returns = np.concatenate([one.reward.sum(0) for one in played])
    lengths = np.concatenate([one.lengths for one in played])
    calibration = None
    if forecast is not None:
        real = np.concatenate([forecast.real(one.reward) for one in played])
        planning = forecast.planning
        calibration = PlanCalibration(planning.planner.horizon, planning.discount, forecast.predicted, real)
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


def _play_round(rollout: Rollout, forecast: PlanForecast | None, wanted: int, at: Callable[[str], None]) -> _Round:
    """The first episodes of the first `wanted` environments."""
    rewards, last = list[np.ndarray](), list[np.ndarray]()
    played = play_round(rollout, wanted, at=at)
    for rows in played if forecast is None else forecast.noting(played, wanted):
        rewards.append(rows.reward[:wanted])
        last.append(rows.is_last[:wanted])
    ends = np.cumsum(last, 0) - last  # before each row
    return _Round(np.where(ends == 0, rewards, 0.0)[1:], (ends == 0).sum(0) - 1)
