"""Observations and rewards seen through noise of a known size, over any environment with a Box or Discrete observation.

    x_t = observation + std * e_t                  a Box: Gaussian, every entry by itself
    x_t = observation, or with probability `error` a uniformly drawn other category        a Discrete
    r_t = reward + reward_std * e'_t

Over one of Gymnasium's classic control or table environments, whose rules are known, the wrapper states the law of its
rows: see `worldmodel_envs.stock_laws`.
"""

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldmodel_envs.known_law import require
from worldmodel_envs.stock_laws import law_of_noisy


class NoisyObservation(gymnasium.Wrapper):
    """Adds noise to what is observed and to the reward; the state, the ends and `info` stay as they are.

    The noise is drawn from the environment's own generator, so that a seeded reset decides it too.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        std: float | Sequence[float] | None = None,
        *,
        error: float | None = None,
        reward_std: float = 0.1,
    ) -> None:
        """Args:
        env: observes a Box of float numbers or a Discrete.
        std: of the noise of a Box, in the units of the observation: one number, or one for each entry.
        error: probability that a Discrete shows another category than it has.
        reward_std: of the reward's noise, in its units. Zero is refused: an exact reward has no density.
        Raises:
            ValueError: for another space, a missing or superfluous argument, or a number out of range.
        """
        super().__init__(env)
        space = env.observation_space
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            require(error is None, "error", "none, since the observation is a Box", error)
            self.std = _std(std, space)
            self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
        else:
            words = "a Box of float numbers or a Discrete with two categories or more"
            require(isinstance(space, spaces.Discrete) and int(space.n) > 1, "env.observation_space", words, space)
            require(std is None, "std", "none, since the observation is a Discrete", std)
            require(error is not None and 0 <= error < 1, "error", "a probability below one", error)
        require(0 < reward_std < np.inf, "reward_std", "a finite number greater than zero", reward_std)
        self.error, self.reward_std = error, float(reward_std)

    @property
    def law(self) -> dict[str, Any] | None:
        """The law of the rows, as `worldmodel_envs.stock_laws` says it; None over others."""
        noise = {"error": self.error} if self.error is not None else {"observation_std": self.std.ravel().copy()}
        return law_of_noisy(self.env, {**noise, "reward_std": self.reward_std})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Options that change the start leave the law, which is that of the default start."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step and see it through new noise."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        noisy = float(reward) + self.reward_std * self.env.unwrapped.np_random.standard_normal()
        return self._observe(obs), noisy, terminated, truncated, info

    def _observe(self, obs: Any) -> Any:
        space, draws = self.observation_space, self.env.unwrapped.np_random
        if isinstance(space, spaces.Box):
            return (obs + self.std * draws.standard_normal(self.std.shape)).astype(space.dtype)
        assert isinstance(space, spaces.Discrete) and self.error is not None
        if draws.random() >= self.error:
            return space.dtype.type(obs)
        return space.dtype.type(space.start + (obs - space.start + draws.integers(1, space.n)) % space.n)


def _std(std: float | Sequence[float] | None, space: spaces.Box) -> NDArray[np.floating]:
    words = f"finite numbers greater than zero, one or {space.shape} of them"
    require(std is not None, "std", words, std)
    given = np.asarray(std, np.float64)
    require(given.shape in ((), space.shape), "std", words, std)
    require(bool((np.isfinite(given) & (given > 0)).all()), "std", words, std)
    return np.broadcast_to(given, space.shape).copy()
