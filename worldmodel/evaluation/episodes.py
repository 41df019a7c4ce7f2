"""A policy in its environment: what it earns in whole episodes, and what its model had expected.

Start seeds are fixed by one seed and do not depend on the policy, so that policies are compared on the same starts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from worldmodel.behaviour.acting import FilteringPolicy, Planning
from worldmodel.checks import require_positive
from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation import scoring_rules as rules
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Policy, Rows

SIDE_BY_SIDE = 32  # environments, at most
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
class Calibration:
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
    calibration: Calibration | None  # of a policy that plans
    cpu_seconds: float  # of the policy, per action: of one environment among those side by side


def side_by_side(episodes: int) -> int:
    """How many environments play so many episodes, in as few rounds as may be."""
    require_positive(episodes=episodes)
    rounds = -(-episodes // SIDE_BY_SIDE)
    return -(-episodes // rounds)


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
    require_positive(episodes=episodes)
    first = first_start(seed)
    forecast = _Forecast.of(policy, seed)
    timed, rounds = _Timed(policy), []
    for begin in range(0, episodes, environments.count):
        wanted = min(environments.count, episodes - begin)
        rounds.append(_play_round(Rollout(environments, timed, first + begin), forecast, wanted, at))
    returns = np.concatenate([one.reward.sum(0) for one in rounds])
    lengths = np.concatenate([one.lengths for one in rounds])
    calibration = None
    if forecast is not None:
        horizon, discount = forecast.planning.planner.horizon, forecast.planning.discount
        real = np.concatenate([_discounted(one.reward, horizon, discount) for one in rounds])
        predicted = np.concatenate([one.predicted for one in rounds])
        calibration = Calibration(horizon, discount, predicted, real)
    return Played(returns, lengths, calibration, timed.seconds / timed.actions)


def first_start(seed: int) -> int:
    """The start seed of the first episode; the next one's is greater by one. Raises ValueError for a negative seed."""
    return int(torch.randint(2**31, (1,), generator=make_generator(seed, stream=Stream.STARTS)))


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
    rollout.step()
    running = np.ones(wanted, bool)
    rewards: list[np.ndarray] = []
    lengths, predicted = np.zeros(wanted, np.int64), np.full(wanted, np.nan)
    while running.any():
        rows = rollout.step()
        if forecast is not None and not rewards:  # the policy has just planned, in the episodes' first states
            predicted = forecast.returns()[:wanted]
        rewards.append(np.where(running, rows.reward[:wanted], 0.0))
        lengths += running
        running &= ~rows.is_last[:wanted]
        at(f"{len(rewards)} steps, {wanted - int(running.sum())} of {wanted} episodes over")
    return _Round(np.stack(rewards), lengths, predicted)


def _discounted(reward: Float[np.ndarray, "T E"], horizon: int, discount: float) -> Float[np.ndarray, " E"]:
    first = reward[:horizon]
    return (discount ** np.arange(len(first))[:, None] * first).sum(0)
