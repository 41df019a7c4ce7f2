"""The laws of Gymnasium's own environments seen through noise, as numbers; `worldmodel_envs.stock` makes them.

In classic control only the reset is random, so that under known noise the evidence of an episode is an integral over
its start. Such a law has the kind "random_start" and

    dynamics               pendulum, mountain_car, mountain_car_continuous, cart_pole or acrobot
    constants              of the dynamics, by the names of Gymnasium's attributes
    start_low, start_high  [n]  the start is uniform in this box; an entry with equal bounds is known
    action_low, action_high     of a continuous action
    observation_std        [d]  Gaussian noise of every entry of the observation
    reward_std                  of the reward, from the second row on

The two table environments state their `P` and `initial_state_distrib`. Their rows are a hidden Markov model whose
states are outcomes (cell, reward of arriving there, end of the episode), since a reward belongs to a step rather than
to a cell. The law has the kind "hidden_markov", as `worldmodel_envs.hidden_markov` says it.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

HARMLESS = (OrderEnforcing, PassiveEnvChecker, TimeLimit)  # wrappers that change no row
ANGLE = np.pi
# Of each environment: the name of its dynamics, the names of their constants, and the bounds of the start.
STARTS: dict[type, tuple[str, tuple[str, ...], list[float], list[float]]] = {
    PendulumEnv: ("pendulum", ("g", "m", "l", "dt", "max_speed"), [-ANGLE, -1.0], [ANGLE, 1.0]),
    MountainCarEnv: (
        "mountain_car",
        ("force", "gravity", "min_position", "max_position", "max_speed", "goal_position", "goal_velocity"),
        [-0.6, 0.0],
        [-0.4, 0.0],
    ),
    Continuous_MountainCarEnv: (
        "mountain_car_continuous",
        ("power", "min_position", "max_position", "max_speed", "goal_position", "goal_velocity"),
        [-0.6, 0.0],
        [-0.4, 0.0],
    ),
    CartPoleEnv: (
        "cart_pole",
        (
            *("gravity", "masspole", "total_mass", "length", "polemass_length", "force_mag", "tau"),
            *("theta_threshold_radians", "x_threshold", "_sutton_barto_reward"),
        ),
        [-0.05] * 4,
        [0.05] * 4,
    ),
    AcrobotEnv: (
        "acrobot",
        (
            *("LINK_LENGTH_1", "LINK_MASS_1", "LINK_MASS_2", "LINK_COM_POS_1", "LINK_COM_POS_2", "LINK_MOI"),
            *("MAX_VEL_1", "MAX_VEL_2", "dt"),
        ),
        [-0.1] * 4,
        [0.1] * 4,
    ),
}
TABLES = (CliffWalkingEnv, FrozenLakeEnv)


def law_of_noisy(env: gymnasium.Env, noise: Mapping[str, Any]) -> dict[str, Any] | None:
    """The law of an environment's rows under noise; None if it is not one of this module, or changed by a wrapper.

    Args:
        env: what is seen through the noise.
        noise: `observation_std` of a Box or `error` of a Discrete, and `reward_std`.
    """
    while isinstance(env, HARMLESS):
        env = env.env
    if type(env) in STARTS and _as_published(env):
        return _random_start(env, noise)
    return _table(env, noise["error"], noise["reward_std"]) if type(env) in TABLES else None


def _as_published(env: Any) -> bool:
    """Whether switches that the laws do not have are as Gymnasium sets them."""
    book = getattr(env, "book_or_nips", "book") == "book" and getattr(env, "torque_noise_max", 0) == 0
    return book and getattr(env, "kinematics_integrator", "euler") == "euler"


def _random_start(env: gymnasium.Env, noise: Mapping[str, Any]) -> dict[str, Any]:
    name, constants, low, high = STARTS[type(env)]
    law = {
        "kind": "random_start",
        "dynamics": name,
        "constants": {constant: float(getattr(env, constant)) for constant in constants},
        "start_low": np.array(low),
        "start_high": np.array(high),
        **noise,
    }
    if isinstance(env.action_space, spaces.Box):
        law |= {"action_low": float(env.action_space.low[0]), "action_high": float(env.action_space.high[0])}
    return law


def _table(env: Any, error: float, reward_std: float) -> dict[str, Any]:
    cells, actions = int(env.observation_space.n), int(env.action_space.n)
    begins = [(cell, 0.0, False) for cell in np.flatnonzero(env.initial_state_distrib)]
    steps = [step for choices in env.P.values() for results in choices.values() for step in results]
    outcomes = list(dict.fromkeys([*begins, *(_outcome(step) for step in steps)]))
    index = {outcome: k for k, outcome in enumerate(outcomes)}
    initial, transition = np.zeros(len(outcomes)), np.zeros((actions, len(outcomes), len(outcomes)))
    for begin in begins:
        initial[index[begin]] = env.initial_state_distrib[begin[0]]
    for k, (cell, _, _) in enumerate(outcomes):
        for action in range(actions):
            for step in env.P[cell][action]:
                transition[action, k, index[_outcome(step)]] += step[0]
    shown = np.eye(cells)[np.array([cell for cell, _, _ in outcomes])]
    return {
        "kind": "hidden_markov",
        "initial": initial,
        "transition": transition,
        "emission": (1 - error) * shown + error * (1 - shown) / (cells - 1),
        "reward_mean": np.array([reward for _, reward, _ in outcomes]),
        "reward_std": np.full(len(outcomes), float(reward_std)),
        "termination": np.array([float(ended) for _, _, ended in outcomes]),
    }


def _outcome(step: tuple[float, Any, float, bool]) -> tuple[int, float, bool]:
    return int(step[1]), float(step[2]), bool(step[3])
