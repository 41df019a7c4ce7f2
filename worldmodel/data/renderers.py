"""Draw observations with the renderer of the environment that they are of: what is imagined looks as the world does.

An observation is drawn by an environment whose state has been set to what the observation tells of it. That takes
knowing the environment, so there is a small table of Gymnasium's own; of nobody else anything is imported or drawn.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from worldmodel.data.spaces import ROOT, decode_action
from worldmodel.data.suites import is_classic_control
from worldmodel_envs.wrappers import use_headless_rendering

Attributes = dict[str, Any]  # of the environment itself, before it renders


FARTHEST = 50.0  # far outside every picture, and within the 16 bits that its coordinates have


@dataclass(frozen=True)
class Renderer:
    """How an environment is made to show an observation."""

    names: tuple[str, ...]  # of the observation's entries
    drawn: tuple[int, ...]  # the entries that its picture depends on
    attributes: Callable[[np.ndarray, Any], Attributes]  # a whole observation, and the action that led to it


def _pendulum(obs: np.ndarray, action: np.ndarray) -> Attributes:
    return {"state": np.array([math.atan2(obs[1], obs[0]), obs[2]]), "last_u": action[0]}  # the torque is drawn too


def _acrobot(obs: np.ndarray, action: Any) -> Attributes:
    return {"state": np.array([math.atan2(obs[1], obs[0]), math.atan2(obs[3], obs[2]), obs[4], obs[5]])}


def _as_it_is(obs: np.ndarray, action: Any) -> Attributes:
    return {"state": obs}


_CAR = Renderer(("position", "speed"), (0,), _as_it_is)
_LINKS = ("cosine 1", "sine 1", "cosine 2", "sine 2", "speed 1", "speed 2")
RENDERERS = {
    "Pendulum-v1": Renderer(("cosine", "sine", "speed"), (0, 1), _pendulum),
    "CartPole-v1": Renderer(("position", "speed", "angle", "turning"), (0, 2), _as_it_is),
    "MountainCar-v0": _CAR,
    "MountainCarContinuous-v0": _CAR,
    "Acrobot-v1": Renderer(_LINKS, (0, 1, 2, 3), _acrobot),
}


def find_renderer(
    env_id: str, *, wrappers: Sequence[Any] = (), hide: Mapping[str, Sequence[int]] | None = None
) -> Renderer:
    """What draws the observations of an environment. Makes nothing, and imports nothing.

    Args:
        env_id: of a registered environment.
        wrappers: around it: they may have changed what is observed.
        hide: entries that are not in the observations, by path.
    Raises:
        ValueError: if nothing does.
    """
    known = RENDERERS.get(env_id) if is_classic_control(env_id) else None
    if known is None or wrappers:
        got = f"{env_id} with wrappers" if known else env_id
        expected = f"a model of images, or of an environment whose observations can be drawn ({', '.join(RENDERERS)})"
        raise ValueError(f"env.id: expected {expected}, got {got}")
    hidden = [known.names[i] for i in known.drawn if i in (hide or {}).get(ROOT, ())]
    if hidden:
        raise ValueError(f"env.hide: expected what the picture of {env_id} depends on to be seen, got {hidden} hidden")
    return known


def kept(renderer: Renderer, hide: Mapping[str, Sequence[int]] | None = None) -> list[int]:
    """The entries of an observation that are not hidden."""
    return [i for i in range(len(renderer.names)) if i not in (hide or {}).get(ROOT, ())]


def variables(renderer: Renderer, hide: Mapping[str, Sequence[int]] | None = None) -> dict[str, int]:
    """The names of the entries that are not hidden, those first that are drawn, and their places in rows."""
    seen = kept(renderer, hide)
    order = sorted(range(len(seen)), key=lambda k: seen[k] not in renderer.drawn)
    return {renderer.names[seen[k]]: k for k in order}


def draw(
    env_id: str,
    obs: np.ndarray,
    action: np.ndarray,
    *,
    kwargs: Mapping[str, Any] | None = None,
    hide: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[np.ndarray]:
    """What the environment shows in each state that rows tell of, [H, W, 3] bytes; what is hidden is zero there.

    Args:
        env_id: see `find_renderer`.
        obs: [T, n] observations, as rows have them.
        action: [T, A] that led to each, as rows have them.
        kwargs: that the environment is made with.
        hide: entries that are not in the observations, by path.
    Raises:
        ValueError: as `find_renderer`, or if a number is not finite.
    """
    renderer = find_renderer(env_id, hide=hide)
    seen = kept(renderer, hide)
    use_headless_rendering()
    env = gymnasium.make(env_id, **{**(kwargs or {}), "render_mode": "rgb_array"})
    try:
        env.reset(seed=0)
        for x, vector in zip(obs, action, strict=True):
            if not np.isfinite(x).all():
                raise ValueError(f"obs: expected numbers that can be drawn, got {x.tolist()}")
            whole = np.zeros(len(renderer.names))
            whole[seen] = x.clip(-FARTHEST, FARTHEST)
            for name, value in renderer.attributes(whole, decode_action(env.action_space, vector)).items():
                setattr(env.unwrapped, name, value)
            yield np.asarray(env.render())
    finally:
        env.close()
