"""Episodes from arrays of one's own, to train on, to filter and to measure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces

from worldmodel.data.batches import pad_episodes, whole_episode
from worldmodel.data.spaces import SMALLEST_IMAGE, action_spec, encode_actions, encode_observations, observation_specs
from worldmodel.types import Batch, EnvSpec

KEYS = ("obs", "action", "reward", "terminated")


@dataclass(frozen=True)
class Episodes:
    """Whole episodes in memory: an `EpisodeSource`, and a batch of rows for a model."""

    spec: EnvSpec
    parts: tuple[Batch, ...]  # of one episode each, [1, T, ...]

    def episodes(self) -> Iterator[Batch]:
        """Every episode, as a batch of one."""
        return iter(self.parts)

    def batch(self) -> Batch:
        """All of them as one padded batch [B, T, ...]."""
        return pad_episodes(self.parts, max(part.reward.shape[1] for part in self.parts))

    def __len__(self) -> int:
        return len(self.parts)


def from_episodes(
    episodes: Iterable[Any],
    *,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    image_size: int = 64,
    integers: Literal["mass", "density"] = "mass",
) -> Episodes:
    """Episodes from arrays. Each is a mapping with

        obs         [T + 1, ...] x_0 .. x_T, an array or a dict of arrays
        action      [T, ...] a_0 .. a_{T-1}; a_t leads from x_t to x_{t+1}
        reward      [T] r_1 .. r_T, received on arriving at x_1 .. x_T; zero where left out
        terminated  whether the world ended at x_T, rather than the recording; False where left out

    Args:
        episodes: the mappings, in any order.
        observation_space: of one observation. Left out, real numbers are a vector without bounds, bytes [H, W, C] of
            at least 16 x 16 an image, and bools bits; anything else needs it.
        action_space: of one action. Left out, whole numbers are classes from zero up to the largest one found, and real
            numbers must lie in [-1, 1]; anything else needs it.
        image_size: height and width that images are resized to.
        integers: what Boxes of whole numbers are, see `spaces.observation_specs`.
    Raises:
        ValueError: if there is no episode, or one does not fit the others or the spaces; the message names it.
    """
    found = [_checked(index, episode) for index, episode in enumerate(episodes)]
    if not found:
        raise ValueError("episodes: expected at least one, got none")
    observation = _observed_space("obs", found[0]["obs"]) if observation_space is None else observation_space
    action = _acted_space([episode["action"] for episode in found]) if action_space is None else action_space
    specs = observation_specs(observation, image_size=image_size, drop_text=True, integers=integers)
    spec = EnvSpec(specs, action_spec(action))
    return Episodes(spec, tuple(_episode(i, one, spec, observation, action) for i, one in enumerate(found)))


def _checked(index: int, episode: Any) -> dict[str, Any]:
    """An episode as arrays, with everything that was left out; its lengths are right."""
    name = f"episodes[{index}]"
    if not isinstance(episode, Mapping) or not {"obs", "action"} <= episode.keys() <= {*KEYS}:
        got = sorted(episode) if isinstance(episode, Mapping) else type(episode).__name__
        raise ValueError(f"{name}: expected obs and action, and perhaps reward and terminated, got {got}")
    action = np.asarray(episode["action"])
    steps = len(action) if action.ndim else 0
    reward = np.asarray(episode.get("reward", np.zeros(steps)), np.float64)
    obs, terminated = _arrays(episode["obs"]), episode.get("terminated", False)
    if steps < 1:
        raise ValueError(f"{name}: expected at least one action, got the shape {action.shape}")
    if reward.shape != (steps,) or not np.isfinite(reward.astype(np.float32)).all():
        raise ValueError(f"{name}: expected {steps} finite rewards, one for each action, got the shape {reward.shape}")
    if np.ndim(terminated):
        raise ValueError(f"{name}: expected terminated of the whole episode, True or False, got {terminated!r}")
    for x in _leaves(obs):
        if x.ndim < 1 or len(x) != steps + 1:
            raise ValueError(f"{name}: expected {steps + 1} observations for {steps} actions, got the shape {x.shape}")
    return {"obs": obs, "action": action, "reward": reward, "terminated": bool(terminated)}


def _episode(index: int, episode: dict[str, Any], spec: EnvSpec, observation: Space, action: Space) -> Batch:
    try:
        obs = encode_observations(observation, spec.observations, episode["obs"])
        actions = encode_actions(action, episode["action"])
    except ValueError as error:
        raise ValueError(f"episodes[{index}]: {error}") from error
    if not np.isfinite(actions).all():
        raise ValueError(f"episodes[{index}]: expected finite actions, found others")
    return whole_episode(obs, actions, episode["reward"], terminated=episode["terminated"])


def _arrays(obs: Any) -> Any:
    return {name: _arrays(x) for name, x in obs.items()} if isinstance(obs, Mapping) else np.asarray(obs)


def _leaves(obs: Any) -> Iterator[np.ndarray]:
    if isinstance(obs, dict):
        for x in obs.values():
            yield from _leaves(x)
    else:
        yield obs


def _observed_space(path: str, obs: Any) -> Space:
    """The space of observations that arrays show, [T, ...] each."""
    if isinstance(obs, dict):
        return spaces.Dict({name: _observed_space(name, x) for name, x in obs.items()})
    shape = obs.shape[1:] or (1,)
    if obs.dtype.kind == "f" and obs.ndim > 1:
        return spaces.Box(-np.inf, np.inf, shape, np.float64 if obs.dtype.itemsize > 4 else np.float32)
    if obs.dtype == bool and obs.ndim > 1:
        return spaces.MultiBinary(shape)
    if obs.dtype == np.uint8 and obs.ndim == 4 and min(shape[:2]) >= SMALLEST_IMAGE:
        return spaces.Box(0, 255, shape, np.uint8)
    raise ValueError(f"observation_space: expected one for {path!r}, arrays {obs.shape} of {obs.dtype} do not say it")


def _acted_space(actions: list[np.ndarray]) -> Space:
    """The space of actions that arrays show, [T, ...] each."""
    first = actions[0]
    if first.dtype.kind in "iu" and first.ndim == 1 and all(x.dtype.kind in "iu" and x.min() >= 0 for x in actions):
        return spaces.Discrete(int(max(x.max() for x in actions)) + 1)
    if first.dtype.kind == "f" and first.ndim > 1 and all((np.abs(x) <= 1).all() for x in actions):
        return spaces.Box(-1, 1, first.shape[1:], np.float32)
    expected = "one for actions that are neither real numbers in [-1, 1], [T, ...], nor classes from zero, [T]"
    raise ValueError(f"action_space: expected {expected}, got {first.dtype} of the shape {first.shape}")
