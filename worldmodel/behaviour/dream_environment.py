"""A world model's dream behind Gymnasium's interface: one dream as an Env, many side by side as a VectorEnv.

Both are `Dreams` in the spaces of the environment that the model learned. They know no run: `runs.dream` makes them of
one, under the id worldmodel/Dream-v0.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from worldmodel.behaviour.dreams import Dreams
from worldmodel.data.row_spaces import RowSpaces

CONTEXT = "context"  # the option of `reset`: rows that dreams are to begin behind, as a Batch
FRAMES_A_SECOND = 30


class DreamVectorEnv(VectorEnv):
    """N dreams that step in one forward pass. One that ends begins anew in the same step (AutoresetMode.SAME_STEP).

    What an ended dream showed last is in `info["final_obs"]`. All randomness is that of the seed given to `reset`.
    """

    def __init__(self, dreams: Dreams, spaces: RowSpaces, render_mode: str | None = None) -> None:
        """Args:
        dreams: how many, of which model, from where.
        spaces: of the environment that they stand for.
        render_mode: rgb_array, of a model of images; or None.
        Raises:
            ValueError: if there is nothing to render.
        """
        self.dreams, self.spaces, self.num_envs = dreams, spaces, dreams.count
        self.single_observation_space, self.single_action_space = spaces.observation, spaces.action
        self.observation_space = batch_space(spaces.observation, self.num_envs)
        self.action_space = batch_space(spaces.action, self.num_envs)
        self._image = next((path for path, leaf in spaces.spec.observations.items() if leaf.kind == "image"), None)
        modes = ["rgb_array"] if self._image else []
        self.metadata = {
            "render_modes": modes,
            "render_fps": FRAMES_A_SECOND,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        if render_mode is not None and render_mode not in modes:
            expected = "rgb_array or None" if modes else "None of a model that predicts no image"
            raise ValueError(f"render_mode: expected {expected}, got {render_mode!r}")
        self.render_mode = render_mode
        self._seeded = False  # whether the dreams' random numbers have begun

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all dreams, behind rows of the run, or behind those of `options={"context": Batch}`, [N, T] or [1, T].

        Args:
            seed: of everything random from here on; the random numbers go on where there is none.
            options: see above.
        Raises:
            ValueError: if there are other options, or the context does not fit.
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.dreams.seed(int(self.np_random.integers(2**63)))
            self._seeded = True
        _, obs = self.dreams.begin(context=_context(options))
        return self._members(obs), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all dreams; those that end begin anew, and `final_obs` is what they showed last."""
        obs, reward, terminated, truncated = self.dreams.step(torch.from_numpy(self.spaces.vectors(actions)))
        over, info = terminated | truncated, dict[str, Any]()
        if over.any():
            last = iterate(self.observation_space, self._members(obs))
            info["final_obs"] = np.fromiter((x if o else None for x, o in zip(last, over, strict=True)), object)
            info["_final_obs"] = over.numpy().copy()
            _, begun = self.dreams.begin(over)
            for path, x in begun.items():
                obs[path][over] = x
        return self._members(obs), reward.double().numpy(), terminated.numpy(), truncated.numpy(), info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The images [H, W, 3] that the model decodes from the newest states; None without a render mode."""
        if self.render_mode is None or self._image is None:
            return None
        assert self.dreams.state is not None, "reset first"
        with torch.no_grad():
            levels = self.dreams.model.decode(self.dreams.state, (self._image,))[self._image].mean
        pixels = levels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return tuple(x if x.shape[-1] == 3 else np.repeat(x[..., -1:], 3, -1) for x in pixels)

    def _members(self, obs: dict[str, torch.Tensor]) -> Any:
        return self.spaces.observations({path: x.numpy() for path, x in obs.items()})


class DreamEnv(gymnasium.Env):
    """One dream at a time."""

    def __init__(self, dreams: Dreams, spaces: RowSpaces, render_mode: str | None = None) -> None:
        """Arguments and errors as of `DreamVectorEnv`; of a single dream."""
        assert dreams.count == 1, dreams.count
        self._vector = DreamVectorEnv(dreams, spaces, render_mode)
        self.observation_space, self.action_space = spaces.observation, spaces.action
        self.metadata = {name: self._vector.metadata[name] for name in ("render_modes", "render_fps")}
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a dream. Arguments and errors as of `DreamVectorEnv.reset`."""
        super().reset(seed=seed)
        obs, info = self._vector.reset(seed=seed, options=options)
        return self._first(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; once the dream is over, it goes on until it is reset."""
        vector = self._vector.spaces.vectors(np.asarray(action)[None])
        obs, reward, terminated, truncated = self._vector.dreams.step(torch.from_numpy(vector))
        return self._first(self._vector._members(obs)), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The image [H, W, 3] that the model decodes from the newest state; None without a render mode."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def _first(self, members: Any) -> Any:
        return next(iter(iterate(self._vector.observation_space, members)))


def _context(options: dict[str, Any] | None) -> Any:
    unknown = sorted({*(options or {})} - {CONTEXT})
    if unknown:
        raise ValueError(f"options: expected {CONTEXT} at most, got {', '.join(unknown)}")
    return (options or {}).get(CONTEXT)
