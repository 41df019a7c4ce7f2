"""Any Gymnasium VectorEnv as stable-baselines3's own kind, such as the dream of a run. Needs the extra `sb3`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv


class StableVecEnv(VecEnv):
    """A VectorEnv that begins episodes anew in the step that ends them, which is what stable-baselines3 expects."""

    def __init__(self, env: VectorEnv) -> None:
        """Raises ValueError if the environments begin anew in another step, or not by themselves."""
        if (mode := env.metadata.get("autoreset_mode")) != AutoresetMode.SAME_STEP:
            raise ValueError(f"env: expected environments of AutoresetMode.SAME_STEP, got {mode}")
        self.env, self._actions = env, np.empty(0)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """First observations; of the seed that `seed` was given, once."""
        obs, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; an ended episode's last observation is told, so that a truncated one is bootstrapped from it."""
        obs, reward, terminated, truncated, found = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        for i in np.flatnonzero(terminated | truncated):
            infos[i]["terminal_observation"] = found["final_obs"][i]
        return obs, reward.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The vector's attribute, which is that of each environment."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not there: the environments of a vector have no attributes of their own."""
        raise NotImplementedError("set_attr: the environments of a vector have no attributes of their own")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Not there, likewise."""
        raise NotImplementedError("env_method: the environments of a vector have no methods of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame of each environment."""
        return [np.asarray(frame) for frame in self.env.render() or ()]
