"""Gymnasium's own environments seen through noise, as worlds whose exact evidence is known.

    gymnasium.make("worldmodel/NoisyPendulum-v0", std=0.1, reward_std=0.5)

Further keywords go to the environment itself, such as `is_slippery` of the two with tables. `stock_laws` says what the
law of each is. The noise is large enough to hide the state for some rows, and small beside what an episode explores.
"""

from collections.abc import Sequence
from typing import Any

from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from worldmodel_envs.known_law import require
from worldmodel_envs.noisy import NoisyObservation

Std = float | Sequence[float]


def noisy_pendulum(*, std: Std = 0.1, reward_std: float = 0.5, **kwargs: Any) -> NoisyObservation:
    """Pendulum-v1; std of (cos, sin, angular velocity)."""
    return NoisyObservation(PendulumEnv(**kwargs), std, reward_std=reward_std)


def noisy_mountain_car(*, std: Std = (0.05, 0.005), reward_std: float = 0.1, **kwargs: Any) -> NoisyObservation:
    """MountainCar-v0; std of (position, velocity)."""
    return NoisyObservation(MountainCarEnv(**kwargs), std, reward_std=reward_std)


def noisy_mountain_car_continuous(
    *, std: Std = (0.05, 0.005), reward_std: float = 0.1, **kwargs: Any
) -> NoisyObservation:
    """MountainCarContinuous-v0; std of (position, velocity)."""
    return NoisyObservation(Continuous_MountainCarEnv(**kwargs), std, reward_std=reward_std)


def noisy_cart_pole(*, std: Std = (0.02, 0.1, 0.02, 0.1), reward_std: float = 0.1, **kwargs: Any) -> NoisyObservation:
    """CartPole-v1; std of (position, velocity, angle, angular velocity)."""
    return NoisyObservation(CartPoleEnv(**kwargs), std, reward_std=reward_std)


def noisy_acrobot(*, std: Std = 0.1, reward_std: float = 0.1, **kwargs: Any) -> NoisyObservation:
    """Acrobot-v1; std of the cosine and sine of both angles and of both angular velocities."""
    return NoisyObservation(AcrobotEnv(**kwargs), std, reward_std=reward_std)


def noisy_frozen_lake(*, error: float = 0.1, reward_std: float = 0.1, **kwargs: Any) -> NoisyObservation:
    """FrozenLake-v1, by default slippery on the map of 4 x 4.

    Raises:
        ValueError: for a map that would be drawn at random here: the law would then be that of another map than the
            rows' own, since whoever asks for it makes the environment again.
    """
    desc, map_name = kwargs.get("desc"), kwargs.get("map_name", "4x4")
    require(desc is not None or map_name is not None, "map_name", "a map by name, or desc", map_name)
    return NoisyObservation(FrozenLakeEnv(**kwargs), error=error, reward_std=reward_std)


def noisy_cliff_walking(*, error: float = 0.1, reward_std: float = 1.0, **kwargs: Any) -> NoisyObservation:
    """CliffWalking-v1, by default not slippery, so that the noise alone is random."""
    return NoisyObservation(CliffWalkingEnv(**kwargs), error=error, reward_std=reward_std)
