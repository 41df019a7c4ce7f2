"""From rows back to an environment's spaces: the inverse of what `spaces` does when rows are written.

What rows say of the spaces they came from is less than what the environment says: not the bounds of its numbers, nor
the shape of its tree. `of_rows` gives what they do say, `of_world` the environment's own spaces, where these are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces
from jaxtyping import Float

from worldmodel.data.spaces import ROOT, action_spec, encode_actions, leaves, observation_specs
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec

Tree = dict[str, Any] | tuple[Any, ...] | str  # the paths of leaves, nested as a space of observations is


@dataclass(frozen=True)
class RowSpaces:
    """The spaces of one environment, and how its rows are turned into members of them."""

    spec: EnvSpec
    observation: Space
    action: Space
    paths: Tree  # of the leaves of the observation

    @classmethod
    def of_rows(cls, spec: EnvSpec) -> "RowSpaces":
        """What rows of this spec say of their environment's spaces.

        Numbers are unbounded float32, actions lie in [-1, 1], classes count from zero. A single leaf without a name is
        the observation itself; several are a flat Dict by path.
        """
        parts = {path: _leaf_space(leaf) for path, leaf in spec.observations.items()}
        action = action_space_of_rows(spec.action)
        if [*parts] == [ROOT]:
            return cls(spec, parts[ROOT], action, ROOT)
        return cls(spec, spaces.Dict(parts), action, {path: path for path in parts})

    @classmethod
    def of_world(
        cls, spec: EnvSpec, observation: Space, action: Space, *, integers: Literal["mass", "density"] = "mass"
    ) -> "RowSpaces":
        """An environment's own spaces. Text leaves are left out; resized images and leaves of which entries are hidden
        are as the rows have them.

        Args:
            spec: of the rows.
            observation, action: the environment's spaces.
            integers: how the rows hold Boxes of whole numbers; see `spaces.observation_specs`.
        Raises:
            ValueError: if rows of this spec do not come from such an environment.
        """
        sizes = [leaf.shape[0] for leaf in spec.observations.values() if leaf.kind == "image"]
        found = observation_specs(observation, image_size=sizes[0] if sizes else 64, drop_text=True, integers=integers)
        mine = spec.observations
        alike = found.keys() == mine.keys() and all(found[path].kind == leaf.kind for path, leaf in mine.items())
        if not alike or action_spec(action) != spec.action:
            expected = f"the spaces that the rows came from, {mine} and {spec.action}"
            raise ValueError(f"spaces: expected {expected}; got {observation} and {action}")
        whole = {path for path, leaf in mine.items() if found[path] == leaf}
        seen, paths = _without_text(observation, spec, whole)
        return cls(spec, seen, action, paths)

    def observations(self, rows: Mapping[str, np.ndarray]) -> Any:
        """Rows' observations [N, ...] by path as a member of `batch_space(observation, N)`.

        Numbers are clipped to the bounds of their space and cast to its dtype; whole numbers are rounded.
        """

        def fill(space: Space, tree: Tree) -> Any:
            if isinstance(space, spaces.Dict):
                assert isinstance(tree, dict)
                return {name: fill(child, tree[name]) for name, child in space.spaces.items()}
            if isinstance(space, spaces.Tuple):
                return tuple(fill(child, part) for child, part in zip(space.spaces, tree, strict=True))
            assert isinstance(tree, str)
            return _members(space, self.spec.observations[tree], rows[tree])

        return fill(self.observation, self.paths)

    def vectors(self, actions: Any) -> Float[np.ndarray, "N A"]:
        """Actions of N environments, [N, ...], as rows store them.

        Raises:
            ValueError: if they are not N members of the action space.
        """
        return encode_actions(self.action, actions)


def action_space_of_rows(spec: ActionSpec) -> Space:
    """What vectors of actions say of their space: numbers lie in [-1, 1], classes count from zero."""
    if spec.kind == "continuous":
        return spaces.Box(-1, 1, (spec.width,), np.float32)
    if spec.kind == "binary":
        return spaces.MultiBinary(spec.width)
    return spaces.Discrete(spec.classes[0]) if len(spec.classes) == 1 else spaces.MultiDiscrete(list(spec.classes))


def _leaf_space(leaf: ObservationSpec) -> Space:
    if leaf.kind == "vector":
        return spaces.Box(-np.inf, np.inf, leaf.shape, np.float32)
    if leaf.kind == "integer":
        return spaces.Box(np.array(leaf.low, leaf.dtype), np.array(leaf.high, leaf.dtype), dtype=leaf.dtype.type)
    if leaf.kind == "image":
        return spaces.Box(0, 255, leaf.shape, np.uint8)
    if leaf.kind == "binary":
        return spaces.MultiBinary(leaf.shape[0])
    return spaces.Discrete(leaf.classes[0]) if len(leaf.classes) == 1 else spaces.MultiDiscrete(list(leaf.classes))


def _without_text(space: Space, spec: EnvSpec, whole: set[str]) -> "tuple[Space, Tree]":
    """A space of the same tree as `space`, of the leaves that rows have, and the paths of its leaves."""
    found = leaves(space)

    def seen(part: Space) -> tuple[Space, Tree] | None:
        if isinstance(part, spaces.Dict):
            named = {name: built for name, child in part.spaces.items() if (built := seen(child)) is not None}
            both = (
                spaces.Dict({name: one for name, (one, _) in named.items()}),
                {n: tree for n, (_, tree) in named.items()},
            )
            return both if named else None
        if isinstance(part, spaces.Tuple):
            listed = [built for child in part.spaces if (built := seen(child)) is not None]
            return (spaces.Tuple([one for one, _ in listed]), tuple(tree for _, tree in listed)) if listed else None
        path, _ = next(found)
        return None if _is_text(part) else (_as_rows_have_it(part, spec.observations[path], path in whole), path)

    built = seen(space)
    assert built is not None, "observation_specs refuses a space without leaves"
    return built


def _as_rows_have_it(space: Space, leaf: ObservationSpec, whole: bool) -> Space:
    if not whole:
        return _leaf_space(leaf)
    if leaf.kind == "image":
        assert space.shape is not None
        return spaces.Box(0, 255, (*leaf.shape[:2], *space.shape[2:]), np.uint8)  # grey ones may have no channel
    return space


def _is_text(space: Space) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"


def _members(space: Space, leaf: ObservationSpec, x: np.ndarray) -> np.ndarray:
    """Rows of one leaf [N, ...] as N members of its space."""
    assert space.shape is not None and space.dtype is not None
    x = x.reshape(len(x), *space.shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return (x + space.start).astype(space.dtype)
    if isinstance(space, spaces.Box) and leaf.kind == "categorical":
        return (x + space.low.astype(np.int64)).astype(space.dtype)
    if isinstance(space, spaces.Box):
        x = np.rint(x) if space.dtype.kind in "iu" and x.dtype.kind == "f" else x
        return np.clip(x, space.low, space.high).astype(space.dtype)
    return x.astype(space.dtype)
