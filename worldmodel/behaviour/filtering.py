"""Step an environment by hand, with a world model that filters every row as it comes.

env = FilteredEnv(gymnasium.make("Pendulum-v1"), model, reading=reading, generator=g)
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(action)
env.state, env.kl, env.prediction()["obs"], env.start
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.behaviour.acting import as_input
from worldmodel.behaviour.imagination import Start
from worldmodel.checks import require_positive
from worldmodel.data.environment import Canonical
from worldmodel.data.policy import executed_actions
from worldmodel.data.spaces import checked_reward, decode_action, encode_action
from worldmodel.models.world_model import WorldModel
from worldmodel.types import BalancedLatent, Carry, Latent, Policy, Rows, State


class FilteredEnv(gymnasium.Wrapper):
    """An environment that stays as it is, and what the model makes of the row it has just given.

    Nothing follows the newest row, so that a posterior that smooths filters here too.
    """

    rows: Rows
    """The newest row, as rows are stored: a batch of one environment."""
    posterior: Latent
    """q(z_t | h_t, x_t) of the newest row, [1]."""
    prior: BalancedLatent
    """p(z_t | h_t): what the model expected of z_t before it looked."""

    def __init__(
        self, env: gymnasium.Env, model: WorldModel, *, reading: Mapping[str, Any], generator: torch.Generator
    ) -> None:
        """Args:
        env: whose observations and actions the model knows.
        model: the world model.
        reading: how observations become rows: image_size, drop_text, integers and hide of `EnvConfig`.
        generator: source of the draws of z_t, on the model's device.
        Raises:
            ValueError: if the environment's rows are of another kind than the model's.
        """
        super().__init__(env)
        self.model, self.generator = model, generator
        self._encode = Canonical(env, **reading)
        if (found := self._encode.row_spec) != model.spec:
            raise ValueError(f"env: expected an environment of the rows {model.spec}, got one of {found}")
        self._state: State | None = None
        self._carry: Carry = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what was remembered of the one before is forgotten."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._look(obs, np.zeros(self.model.spec.action.width, np.float32))
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step with one of the environment's own actions.

        Raises:
            ValueError: if there was no reset yet, or it is no action of the environment.
        """
        self._require_reset()
        vector = encode_action(self.env.action_space, action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._look(obs, vector, checked_reward(reward), bool(terminated), bool(truncated))
        return obs, reward, bool(terminated), bool(truncated), info

    @property
    def state(self) -> State:
        """h_t and z_t of the newest row, [1, ...]."""
        self._require_reset()
        assert self._state is not None
        return self._state

    @property
    def start(self) -> Start:
        """The newest state with what the recurrence remembers, for `Run.imagine(start=..., actions=...)`."""
        return Start(self.state, self._carry)

    @property
    def kl(self) -> float:
        """KL(posterior || prior) of the newest row in nats: what it told the model beyond its prediction."""
        return float(self.kl_groups.sum())

    @property
    def kl_groups(self) -> Float[Tensor, " S"]:
        """The same of each latent group."""
        self._require_reset()
        assert isinstance(self.posterior, BalancedLatent)
        return self.posterior.kl(self.prior)[0]

    def reconstruction(self) -> dict[str, np.ndarray]:
        """E[x_t | h_t, z_t] of the newest row, with z_t from the posterior, by name and in the units of rows."""
        return {name: x[0] for name, x in self._means(self.state).items()}

    @torch.no_grad()
    def prediction(self, samples: int = 32) -> dict[str, np.ndarray]:
        """E[x_t | h_t], the mean over `samples` draws of z_t from the prior: what was expected before looking."""
        require_positive(samples=samples)
        noise = self.model.noise(samples, 1, self.generator)[:, 0]
        drawn = self.model.dynamics.prior(self.state.deter.expand(samples, -1)).rsample(noise)
        states = State(self.state.deter.expand(samples, -1), drawn)
        return {name: x.mean(0) for name, x in self._means(states).items()}

    def choose(self, policy: Policy) -> Any:
        """The environment's action that a policy of the run takes after the newest row; ask one with memory at every
        row, since it filters by itself.

        Raises:
            ValueError: if there was no reset yet, or what it chooses is no action of the environment.
        """
        self._require_reset()
        action = executed_actions(self.model.spec.action, policy(self.rows), over=np.zeros(1, bool))
        return decode_action(self.env.action_space, action[0])

    @torch.no_grad()
    def _look(
        self,
        obs: Any,
        action: Float[np.ndarray, " A"],
        reward: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        """Filter a row; one without a reward is an episode's first."""
        first = reward is None
        self.rows = Rows(
            {path: x[None] for path, x in self._encode.encode(obs).items()},
            prev_action=action[None],
            reward=np.array([reward or 0.0], np.float32),
            is_first=np.array([first]),
            is_last=np.array([terminated or truncated]),
            is_terminal=np.array([terminated]),
            episode_step=np.array([0 if first else self.rows.episode_step[0] + 1], np.int32),
        )
        given = tree_map(lambda x: as_input(self.model, x), self.rows)
        carry = self.model.dynamics.initial(1) if self._carry is None else self._carry
        noise = self.model.noise(1, 1, self.generator)[:, 0]
        found = self.model.step(carry, given.obs, given.prev_action, given.is_first, noise, given.reward)
        self._carry, self._state, self.posterior = found
        self.prior = self.model.dynamics.prior(self._state.deter)

    @torch.no_grad()
    def _means(self, states: State) -> dict[str, np.ndarray]:
        return {name: p.mean.float().cpu().numpy() for name, p in self.model.decode(states).items()}

    def _require_reset(self) -> None:
        if self._state is None:
            raise ValueError("env: expected a reset before anything else")
