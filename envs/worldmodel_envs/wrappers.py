"""Wrappers that Gymnasium does not have: action repeat, and rendering that can be trusted."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.wrappers import AddRenderObservation


class ActionRepeat(gymnasium.Wrapper):
    """Hold each action for several steps, or until the episode ends; rewards add up."""

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
    """Makes MuJoCo frames right and fast with software rendering. Every MuJoCo environment in a process needs it.

    Several environments share one thread's GL context, so it is made current before each frame and before it is freed;
    without that, frames freeze or go black, silently. Shadow maps and multisampling are switched off: they cost 60 to
    90 ms a frame in software, against 2 ms. The free camera looks at where the model was at the first frame, so that
    frame is taken after a seeded reset.
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
    """Triton is a segmentation fault if it is loaded after Mesa's software renderer, and works if loaded before.

    Each brings an LLVM of its own; torch loads Triton when the first optimiser is made, long after the first frame.
    """
    if find_spec("triton") is not None:
        import_module("triton")


def use_headless_rendering() -> None:
    """Let MuJoCo (EGL) and pygame render without a screen, unless the user has chosen or there is a display."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
