"""Gymnasium spaces <-> stored rows: nested observations as named flat leaves, actions as one vector.

A leaf is named by its path, such as "position" or "goal/0"; the only leaf of a space that is not nested is "obs".
Spaces that cannot be modelled are refused with their path.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces
from jaxtyping import Float
from PIL import Image

from worldmodel.types import ActionSpec, ObservationSpec

ROOT = "obs"
RESERVED = {"reward", "continue", "elbo", "kl"}  # other terms of the bound: a leaf with such a name is "obs/NAME"
EXACT_INTEGERS = 2**53  # a float64 holds every whole number up to here, and not every one beyond
MOST_CLASSES = 2**20  # of a leaf or an action: each class is a number that networks read and that rows of actions store
SMALLEST_IMAGE = 16  # pixels a side; smaller uint8 grids hold symbols rather than pictures, and are whole numbers
MOST_ONE_HOT = 1024  # one-hot entries of a Box of whole numbers that is read as classes; a larger one stays numbers
MOST_VALUES = 256  # classes of one entry of such a Box


class UnsupportedSpaceError(ValueError):
    """A space that the model cannot read or act in; the message names the space and its path."""


class UnexpectedValueError(ValueError):
    """A value that does not fit the environment's space; the message names the key, the space and the value."""


def observation_specs(
    space: Space, *, image_size: int, drop_text: bool = False, integers: Literal["mass", "density"] = "mass"
) -> dict[str, ObservationSpec]:
    """The leaves of an observation space by path.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these, nested.
        image_size: height and width that images (uint8 Boxes [H, W] or [H, W, C], at least 16 a side) are resized to.
        drop_text: leave text leaves out instead of refusing them.
        integers: what Boxes of whole numbers are, other than images: bits, classes or integers, which have a mass, or
            vectors of real numbers, which have a density.
    Raises:
        UnsupportedSpaceError: for any other space, an empty leaf, or a space with nothing but text.
    """
    specs = {}
    for path, leaf in leaves(space):
        if _is_text(leaf):
            if drop_text:
                continue
            raise UnsupportedSpaceError(
                f"observation {path!r}: {leaf} is text, which the model cannot read; env.drop_text leaves it out"
            )
        if path in specs:
            raise UnsupportedSpaceError(f"observation {path!r}: expected one leaf of that path, got two")
        specs[path] = _observation_spec(path, leaf, image_size, integers)
    if not specs:
        raise UnsupportedSpaceError(f"observation space {space}: expected at least one leaf that is not text")
    return specs


def leaf_space(spec: ObservationSpec) -> spaces.Box:
    """The Box of the arrays that a leaf is stored as."""
    if spec.kind == "vector":
        return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
    if spec.kind == "integer":
        return spaces.Box(np.array(spec.low, spec.dtype), np.array(spec.high, spec.dtype), spec.shape, spec.dtype)
    highest = {"image": 255, "binary": 1}.get(spec.kind) or max(spec.classes) - 1
    return spaces.Box(0, highest, spec.shape, spec.dtype)


def text_leaves(space: Space) -> list[str]:
    """The paths of the leaves that are text."""
    return [path for path, leaf in leaves(space) if _is_text(leaf)]


def leaves(space: Space, path: str = "") -> Iterator[tuple[str, Space]]:
    """The leaves of a nested observation space, each with its path."""
    for name, child in _children(space):
        yield from leaves(child, _join(path, name))
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield path or ROOT, space


def encode_observation(space: Space, specs: Mapping[str, ObservationSpec], value: Any) -> dict[str, np.ndarray]:
    """One observation as the arrays that `specs` describes.

    Raises:
        UnexpectedValueError: if a leaf is missing, has another shape or dtype than its space, holds a number that is
            not finite in float32, or a class or a whole number outside its space.
    """
    return {path: _encode_leaf(path, leaf, specs[path], part) for path, leaf, part in _parts(space, value)}


def encode_observations(space: Space, specs: Mapping[str, ObservationSpec], values: Any) -> dict[str, np.ndarray]:
    """T observations with stacked leaves, [T, ...] each, as the arrays [T, ...] that `specs` describes.

    Raises:
        UnexpectedValueError: as `encode_observation`.
    """
    return {
        path: np.stack([_encode_leaf(path, leaf, specs[path], value) for value in part])
        for path, leaf, part in _parts(space, values)
    }


def checked_reward(value: Any) -> float:
    """A reward as a finite float.

    Raises:
        UnexpectedValueError: if it is anything else.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise UnexpectedValueError(f"reward: expected a number, got {value!r}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.float32(array.item()))
    if not finite:
        raise UnexpectedValueError(f"reward: expected a finite number within float32, got {array.item()!r}")
    return float(array.item())


def checked_flag(name: str, value: Any) -> bool:
    """`terminated` or `truncated` as a bool.

    Raises:
        UnexpectedValueError: if it is not a bool of Python or NumPy, even if Python could read it as one.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind != "b":
        raise UnexpectedValueError(f"{name}: expected True or False, got {value!r}")
    return bool(array.item())


def action_spec(space: Space) -> ActionSpec:
    """The layout of an action space as a vector of numbers.

    Raises:
        UnsupportedSpaceError: unless the space is Discrete, a bounded Box, MultiDiscrete or MultiBinary, and not empty.
    """
    if _is_empty(space):
        raise UnsupportedSpaceError(f"action space {space}: expected at least one number, got the shape {space.shape}")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        classes = _classes(f"action space {space}", space)
        return ActionSpec("categorical", sum(classes), classes)
    if isinstance(space, spaces.MultiBinary):
        return ActionSpec("binary", int(np.prod(space.shape)))
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise UnsupportedSpaceError(f"action space {space}: expected a Box that is bounded above and below")
        if space.dtype.kind in "iu" and max(-int(space.low.min()), int(space.high.max())) > EXACT_INTEGERS:
            raise UnsupportedSpaceError(f"action space {space}: expected whole numbers within 2^53, which floats hold")
        return ActionSpec("continuous", int(np.prod(space.shape)))
    raise UnsupportedSpaceError(
        f"action space {space}: expected Discrete, a bounded Box, MultiDiscrete or MultiBinary at the root"
    )


def decode_action(space: Space, vector: Float[np.ndarray, " A"]) -> Any:
    """The environment's action for a vector that `action_spec` lays out."""
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start + vector.argmax())
    if isinstance(space, spaces.MultiDiscrete):
        ends = np.cumsum(space.nvec.flatten())[:-1]
        index = np.array([part.argmax() for part in np.split(vector, ends)], dtype=space.dtype)
        return index.reshape(space.shape) + space.start
    if isinstance(space, spaces.MultiBinary):
        return (vector > 0.5).astype(space.dtype).reshape(space.shape)
    assert isinstance(space, spaces.Box)
    unit = (np.minimum(np.maximum(vector, -1), 1).reshape(space.shape).astype(np.float64) + 1) / 2
    action = (1 - unit) * space.low + unit * space.high  # exact at both ends
    action = action if space.dtype.kind == "f" else np.rint(action)
    # Rounding may have gone beyond the bounds. This runs at every step, and np.clip would take three times as long.
    return np.minimum(np.maximum(action, space.low), space.high).astype(space.dtype)


def encode_action(space: Space, action: Any) -> Float[np.ndarray, " A"]:
    """The vector for an environment's action, as `action_spec` lays it out: the inverse of `decode_action`.

    For a Box, decoding the vector gives the number back to float32 rounding, a bound exactly, and the nearest bound for
    a number outside.

    Raises:
        ValueError: if the action has another shape than the space, or is not one of its choices.
    """
    if np.shape(action) != space.shape:
        raise ValueError(f"action: expected the shape {space.shape} of {space}, got {np.shape(action)}")
    return encode_actions(space, np.asarray(action)[None])[0]


def encode_actions(space: Space, actions: Any) -> Float[np.ndarray, "N A"]:
    """The vectors for N actions side by side, [N, ...]; see `encode_action`."""
    count = len(actions)
    if space.shape is None or np.shape(actions) != (count, *space.shape):
        raise ValueError(f"action: expected the shape [N, ...] of {space}, got {np.shape(actions)}")
    flat = np.asarray(actions).reshape(count, -1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        classes = action_spec(space).classes
        index = flat.astype(np.int64) - np.ravel(space.start)
        if (index < 0).any() or (index >= classes).any():
            raise ValueError(f"action: expected one of {space}, got {actions if count > 1 else actions[0]}")
        return np.concatenate([np.eye(n, dtype=np.float32)[i] for n, i in zip(classes, index.T, strict=True)], -1)
    if isinstance(space, spaces.MultiBinary):
        return flat.astype(np.float32)
    assert isinstance(space, spaces.Box)
    low, high = space.low.astype(np.float64).ravel() / 2, space.high.astype(np.float64).ravel() / 2
    half = high - low  # of the range, since the full range of the widest Box is beyond float64
    offset = flat.astype(np.float64) - (low + high)
    return np.clip(np.divide(offset, half, out=np.zeros_like(offset), where=half > 0), -1, 1).astype(np.float32)


def _parts(space: Space, value: Any) -> Iterator[tuple[str, Space, Any]]:
    """The path, the space and the value of every leaf that is not text."""
    for (path, leaf), part in zip(leaves(space), _values(space, value), strict=True):
        if not _is_text(leaf):  # by kind, not by path: a text that is left out may have the path of another leaf
            yield path, leaf, part


def _values(space: Space, value: Any, path: str = "") -> Iterator[Any]:
    """The values of all leaves, in the order of `leaves`."""
    for name, child in _children(space):
        try:
            part = value[name]
        except (KeyError, IndexError, TypeError) as error:
            expected = f"observation {_join(path, name)!r}: expected a value in the {type(space).__name__} around it"
            raise UnexpectedValueError(f"{expected}, got {_short(value)}") from error
        yield from _values(child, part, _join(path, name))
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield value


def _join(path: str, name: Any) -> str:
    joined = f"{path}/{name}" if path else str(name)
    return f"{ROOT}/{joined}" if joined in RESERVED else joined


def _children(space: Space) -> list[tuple[Any, Space]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return list(enumerate(space.spaces))
    return []


def _is_text(space: Space) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"  # Text, and spaces such as MiniGrid's missions


def _is_empty(space: Space) -> bool:
    return space.shape is not None and 0 in space.shape


def _observation_spec(
    path: str, space: Space, image_size: int, integers: Literal["mass", "density"]
) -> ObservationSpec:
    if _is_empty(space):
        raise UnsupportedSpaceError(
            f"observation {path!r}: {space}; expected at least one number, got the shape {space.shape}"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        classes = _classes(f"observation {path!r}: {space}", space)
        return ObservationSpec("categorical", (len(classes),), classes)
    if isinstance(space, spaces.MultiBinary):
        return ObservationSpec("binary", (int(np.prod(space.shape)),))
    if isinstance(space, spaces.Box):
        if _is_channels_first(space):
            raise UnsupportedSpaceError(
                f"observation {path!r}: {space} looks like channels first; expected (H, W) or (H, W, C)"
            )
        if _is_image(space):
            channels = 1 if len(space.shape) == 2 else space.shape[2]
            return ObservationSpec("image", (image_size, image_size, channels))
        if integers == "mass" and space.dtype.kind in "biu":
            return _integer_spec(space)
        return ObservationSpec("vector", (int(np.prod(space.shape)),))
    raise UnsupportedSpaceError(
        f"observation {path!r}: {space}; expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these"
    )


def _integer_spec(space: spaces.Box) -> ObservationSpec:
    """Whole numbers within bounds, which have a mass: bits, classes if they are few, or integers if they are many.

    Each class costs a network an input and an output: a board of 9 cells with 3 values is 27 numbers, but MiniGrid's
    7 x 7 x 3 bytes would be 37,632, of which hardly one in thirty ever occurs.
    """
    low, high = _bounds(space)
    if not any(low) and all(bound == 1 for bound in high):
        return ObservationSpec("binary", (len(low),))
    classes = tuple(last - first + 1 for first, last in zip(low, high, strict=True))
    if max(classes) <= MOST_VALUES and sum(classes) <= MOST_ONE_HOT:
        return ObservationSpec("categorical", (len(low),), classes)
    return ObservationSpec("integer", (len(low),), low=low, high=high)


def _bounds(space: spaces.Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The bounds of a Box of whole numbers, cut to those that a float64 holds."""

    def within(bounds: np.ndarray) -> tuple[int, ...]:
        return tuple(max(-EXACT_INTEGERS, min(EXACT_INTEGERS, int(bound))) for bound in bounds.flat)

    return within(space.low), within(space.high)


def _classes(words: str, space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[int, ...]:
    counts = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.flatten()
    classes = tuple(int(n) for n in counts)
    if sum(classes) > MOST_CLASSES:
        raise UnsupportedSpaceError(f"{words}: expected at most {MOST_CLASSES} classes, got {sum(classes)}")
    return classes


def _is_image(space: spaces.Box) -> bool:
    if space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) >= SMALLEST_IMAGE


def _is_channels_first(space: spaces.Box) -> bool:
    if space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return space.shape[0] < SMALLEST_IMAGE <= min(space.shape[1:])


def _checked(path: str, space: Space, spec: ObservationSpec, value: Any) -> np.ndarray:
    """A leaf's value as an array, or UnexpectedValueError if it does not fit the leaf's space."""
    array = np.asarray(value)
    assert space.dtype is not None
    if array.shape != space.shape:
        raise UnexpectedValueError(f"observation {path!r}: expected shape {space.shape}, got {array.shape}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise UnexpectedValueError(f"observation {path!r}: expected dtype {space.dtype}, got {array.dtype}")
    if isinstance(space, spaces.Box) and spec.kind in ("binary", "categorical", "integer"):
        if not ((array >= space.low) & (array <= space.high) & _is_exact(array)).all():
            raise UnexpectedValueError(
                f"observation {path!r}: expected whole numbers within the bounds of {space}, and within 2^53, got "
                f"{_short(value)}; env.integers: density takes any"
            )
    elif isinstance(space, spaces.Box):
        with np.errstate(over="ignore"):
            finite = space.dtype == np.uint8 or np.isfinite(array.astype(np.float32)).all()
        if not finite:
            raise UnexpectedValueError(
                f"observation {path!r}: expected finite numbers within float32, got {_short(value)}"
            )
    elif not space.contains(value if isinstance(space, spaces.Discrete) else array.astype(space.dtype)):
        raise UnexpectedValueError(f"observation {path!r}: expected a member of {space}, got {_short(value)}")
    return array


def _is_exact(array: np.ndarray) -> np.ndarray | bool:
    """Which entries of whole numbers are within those that a float64 holds exactly."""
    if array.dtype.itemsize < 8:
        return True
    return (array <= EXACT_INTEGERS) & (array >= (-EXACT_INTEGERS if array.dtype.kind == "i" else 0))


def _short(value: Any) -> str:
    return np.array2string(value, threshold=8) if isinstance(value, np.ndarray) else repr(value)[:200]


def _encode_leaf(path: str, space: Space, spec: ObservationSpec, value: Any) -> np.ndarray:
    value = _checked(path, space, spec, value)
    if spec.kind == "image":
        return _resize(value, spec.shape[0])
    if spec.kind == "binary":
        return value.astype(np.uint8).reshape(spec.shape)
    if spec.kind == "categorical":
        assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box)
        start = space.low if isinstance(space, spaces.Box) else space.start
        return (value.astype(np.int64) - np.asarray(start, np.int64)).reshape(spec.shape).astype(np.int32)
    return np.asarray(value, spec.dtype).reshape(spec.shape)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """[H, W] or [H, W, C] bytes -> [size, size, C], where a new pixel is the mean of those that it covers."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[:2] == (size, size):
        return image
    channels = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize((size, size), Image.Resampling.BOX)) for c in channels], -1)
