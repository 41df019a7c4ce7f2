"""Run environments with a policy: one row of each environment at every step."""

import numpy as np

from worldmodel.data.environment import Environments
from worldmodel.data.policy import executed_actions
from worldmodel.types import Policy, Rows


class Rollout:
    """Steps environments with a policy, without end; every call of `step` returns the next row of each.

    The first call resets all environments. After the last row of an episode comes the first row of the next one, so
    every observation of an environment becomes exactly one row, an episode's last observation included.
    """

    def __init__(self, environments: Environments, policy: Policy, seed: int) -> None:
        self.environments, self.policy, self.seed = environments, policy, seed
        self._last: Rows | None = None

    def step(self) -> Rows:
        """The next rows.

        Raises:
            EnvironmentFailureError: if an environment fails and may not be replaced. If it is replaced, the row begins
                a new episode, although the row before did not end one.
            ValueError: if the policy's actions are none of the environments', see `executed_actions`.
        """
        self._last = self._begin() if self._last is None else self._advance(self._last)
        return self._last

    def _begin(self) -> Rows:
        obs = self.environments.reset(self.seed)
        n, width = self.environments.count, self.environments.spec.action.width
        none = np.zeros(n, bool)
        return Rows(
            obs=obs,
            prev_action=np.zeros((n, width), np.float32),
            reward=np.zeros(n, np.float32),
            is_first=np.ones(n, bool),
            is_last=none,
            is_terminal=none,
            episode_step=np.zeros(n, np.int32),
        )

    def _advance(self, last: Rows) -> Rows:
        action = executed_actions(self.environments.spec.action, self.policy(last), over=last.is_last)
        obs, reward, terminated, truncated, restarted = self.environments.step(action)
        is_first = last.is_last | restarted  # these were just reset and did not use their action
        return Rows(
            obs=obs,
            prev_action=np.where(is_first[:, None], np.float32(0), action),
            reward=np.where(is_first, 0, reward).astype(np.float32),
            is_first=is_first,
            is_last=terminated | truncated,
            is_terminal=terminated,
            episode_step=np.where(is_first, 0, last.episode_step + 1).astype(np.int32),
        )
