"""Wrappers that Gymnasium does not have: action repeat, and reliable rendering without a screen."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.wrappers import AddRenderObservation


class ActionRepeat(gymnasium.Wrapper):
    """Repeats each action for several steps, or until the episode ends, and sums the rewards."""

    def __init__(self, env: gymnasium.Env, times: int) -> None:
        if times < 1:
            raise ValueError(f"times: expected at least 1, got {times}")
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step up to `times` times with one action."""
        total = 0.0
        for _ in range(self.times):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class MujocoRendering(gymnasium.Wrapper):
    """Makes MuJoCo's frames correct and fast under software rendering. Every MuJoCo environment of a process needs it.

    A thread has one current GL context, so each environment makes its own context current before it renders and before
    it frees the context; otherwise frames silently freeze or go black. Shadow maps and multisampling are switched off:
    in software they cost 60 to 90 ms a frame, against 2 ms without. The free camera is aimed at where the model is at
    the first frame, so that frame is rendered after a seeded reset.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        quality = env.unwrapped.model.vis.quality  # type: ignore[attr-defined]
        quality.shadowsize = quality.offsamples = 0
        _load_triton_first()
        env.reset(seed=0)
        env.render()

    def render(self) -> Any:
        """A frame from this environment's own context."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.make_context_current()
        return self.env.render()

    def close(self) -> None:
        """Free this environment's GL objects in its own context, then close it."""
        viewer = self._viewer()
        if viewer is not None and getattr(viewer.opengl_context, "_context", None):
            viewer.make_context_current()
            viewer.con.free()
        self.env.close()

    def _viewer(self) -> Any:
        renderer = self.env.unwrapped.mujoco_renderer  # type: ignore[attr-defined]
        return renderer._viewers.get(self.env.unwrapped.render_mode)


def with_pixels(env: gymnasium.Env, *, only: bool) -> gymnasium.Env:
    """Observe rendered frames: instead of the environment's own observations, or in a Dict beside them.

    Args:
        env: an environment made with `render_mode="rgb_array"`.
        only: whether frames replace the observations or join them as {"state": ..., "pixels": ...}.
    """
    if hasattr(env.unwrapped, "mujoco_renderer"):
        env = MujocoRendering(env)
    return AddRenderObservation(env, render_only=only, render_key="pixels", obs_key="state")


def _load_triton_first() -> None:
    """Import Triton before Mesa's software renderer: the other order ends in a segmentation fault.

    Both bring their own LLVM, and torch would import Triton with the first optimiser, long after the first frame.
    """
    if find_spec("triton") is not None:
        import_module("triton")


def use_headless_rendering() -> None:
    """Let MuJoCo (EGL) and pygame render without a screen, unless the user has chosen or there is a display."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
