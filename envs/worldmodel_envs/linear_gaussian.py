"""Damped oscillators under random forces: an environment whose exact evidence a Kalman filter computes.

Each oscillator has a position and a velocity, and is pushed by its own action, held for one step of time:

    d position = velocity dt
    d velocity = (-stiffness position - damping velocity + action) dt + force_noise dW
    x_t = positions + observation_noise e_t,    r_t = sum of velocities + reward_noise e'_t

Sampled every `interval`, this is exactly s_{t+1} = A s_t + B a_t + w_t with w_t ~ N(0, Q).
"""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldmodel_envs.known_law import KnownLaw, require, require_positive


class LinearGaussian(KnownLaw):
    """Noisy positions of damped oscillators, forces in [-1, 1] as actions, a noisy sum of the velocities as reward.

    An episode starts from the Gaussian that is stationary under independent uniform actions, so that under a random
    policy all rows have the same mean and covariance. It ends by a time limit, or with a fixed probability at every
    step, whatever the state.

    Its `law` has the kind "linear_gaussian" and the numbers of

        s_1 ~ N(initial_mean, initial_covariance)
        s_t = transition s_{t-1} + control a_t + N(0, transition_covariance)
        x_t = observation s_t + N(0, observation_covariance)
        r_t = reward . s_t + N(0, reward_variance), from t = 2

    where a_t is the action that led to row t. From row 2 on, a row ends the episode with probability `termination`.
    """

    def __init__(
        self,
        oscillators: int = 2,
        *,
        stiffness: float = 1.0,
        damping: float = 0.3,
        interval: float = 0.3,
        force_noise: float = 0.5,
        observation_noise: float = 0.3,
        reward_noise: float = 0.5,
        termination: float = 0.0,
    ) -> None:
        """Args:
        oscillators: how many (n); positions, actions and half of the state are n numbers.
        stiffness, damping: of all of them; damping^2 < 4 stiffness, so that they oscillate.
        interval: time between two rows.
        force_noise: strength of the Brownian force.
        observation_noise, reward_noise: standard deviations.
        termination: probability that a step ends the episode.
        Raises:
            ValueError: for numbers outside these ranges.
        """
        require_positive(stiffness=stiffness, damping=damping, interval=interval, force_noise=force_noise)
        require_positive(oscillators=oscillators, observation_noise=observation_noise, reward_noise=reward_noise)
        limit = 2 * math.sqrt(stiffness)
        require(damping**2 < 4 * stiffness, "damping", f"less than 2 sqrt(stiffness) = {limit:g}", damping)
        require(0 <= termination < 1, "termination", "a probability in [0, 1)", termination)
        blocks = oscillator(stiffness, damping, interval, force_noise)
        uniform = blocks[1] @ blocks[1].T / 3  # what a uniform action, of variance 1/3, adds to the covariance
        initial = stationary_covariance(blocks[0], blocks[2] + uniform)
        transition, control, covariance, initial, observation = (
            np.kron(np.eye(oscillators), block) for block in (*blocks, initial, [[1.0, 0.0]])
        )
        self._law = {
            "kind": "linear_gaussian",
            "initial_mean": np.zeros(2 * oscillators),
            "initial_covariance": initial,
            "transition": transition,
            "control": control,
            "transition_covariance": covariance,
            "observation": observation,
            "observation_covariance": observation_noise**2 * np.eye(oscillators),
            "reward": np.tile([0.0, 1.0], oscillators),
            "reward_variance": reward_noise**2,
            "termination": termination,
        }
        self.observation_noise, self.reward_noise, self.termination = observation_noise, reward_noise, termination
        # One product with (state, action, noise) a step; three products would take three times as long.
        self._advance = np.hstack([transition, control, np.linalg.cholesky(covariance)])
        self.observation_space = spaces.Box(-np.inf, np.inf, (oscillators,), np.float32)
        self.action_space = spaces.Box(-1, 1, (oscillators,), np.float32)
        self._state = np.zeros(2 * oscillators)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode from the stationary Gaussian."""
        super().reset(seed=seed)
        noise = self.np_random.standard_normal(len(self._state))
        self._state = np.linalg.cholesky(self._law["initial_covariance"]) @ noise
        return self._observe(self.np_random.standard_normal(len(self._state) // 2)), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hold a force for one interval; the reward depends on the state that it leads to."""
        width = len(self._state)
        noise = self.np_random.standard_normal(width + width // 2 + 1)  # of the state, the observation, the reward
        force = np.minimum(np.maximum(action, -1), 1)
        self._state = self._advance @ np.concatenate([self._state, force, noise[:width]])
        reward = self._law["reward"] @ self._state + self.reward_noise * noise[-1]
        terminated = self.termination > 0 and self.np_random.random() < self.termination
        return self._observe(noise[width:-1]), float(reward), terminated, False, {}

    def _observe(self, noise: NDArray[np.floating]) -> NDArray[np.float32]:
        return (self._state[::2] + self.observation_noise * noise).astype(np.float32)


def oscillator(
    stiffness: float, damping: float, interval: float, force_noise: float
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """One oscillator, (position, velocity), over one interval: the transition A, the effect B of a held force, and Q.

    With F = [[0, 1], [-k, -c]] and w^2 = k - c^2 / 4,

        A = exp(F dt) = exp(-c dt / 2) (cos(w dt) I + sin(w dt) / w (F + c / 2 I)),    B = F^-1 (A - I) (0, 1)'
        Q = P - A P A',    P = diag(1 / k, 1) force_noise^2 / (2 c)  the stationary covariance without actions

    Source: Uhlenbeck and Ornstein 1930, Physical Review 36, 823, section on the harmonically bound particle.
    """
    drift = np.array([[0.0, 1.0], [-stiffness, -damping]])
    frequency = math.sqrt(stiffness - damping**2 / 4)
    swing = math.sin(frequency * interval) / frequency * (drift + damping / 2 * np.eye(2))
    transition = math.exp(-damping * interval / 2) * (math.cos(frequency * interval) * np.eye(2) + swing)
    control = np.linalg.solve(drift, (transition - np.eye(2)) @ [[0.0], [1.0]])
    undriven = np.diag([1 / stiffness, 1.0]) * force_noise**2 / (2 * damping)
    return transition, control, undriven - transition @ undriven @ transition.T


def stationary_covariance(transition: NDArray[np.floating], covariance: NDArray[np.floating]) -> NDArray[np.floating]:
    """P with P = A P A' + Q, by solving the linear equations (I - A kron A) vec P = vec Q."""
    n = len(transition)
    system = np.eye(n * n) - np.kron(transition, transition)
    return np.linalg.solve(system, covariance.reshape(-1)).reshape(n, n)
