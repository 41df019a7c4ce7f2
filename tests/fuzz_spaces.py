"""Random spaces, environments that emit what their spaces allow and note it, and what the rows should then hold."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

LARGEST = 1e6  # of the numbers that are emitted, unless a space's own bounds are narrower
SHAPES = [(), (1,), (2,), (3,), (7,), (2, 3), (1, 1), (4, 1, 2), (1, 1, 1, 2), (2, 2, 2, 2, 2), (33,)]
EMPTY_SHAPES = [(0,), (2, 0), (0, 3)]
KINDS = ["bounded", "bounded", "point", "widest", "below", "above", "unbounded", "mixed"]
IMAGE_SHAPES = [(16, 16), (16, 16, 3), (17, 31, 1), (40, 16, 4), (16, 33, 2), (16, 16, 16), (19, 23)]
NEAR_IMAGE_SHAPES = [(15, 40, 3), (3, 32, 32), (1, 16, 16), (16, 2, 16), (16, 15), (2, 2, 16, 16), (16, 16, 0)]
FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
NAMES = ["a", "b", "a/b", "b/a", "x.y", "two words", "größe", "观", "", "/", "a/", "obs", "obs/reward", "0", "1", "\n"]
RESERVED = ["reward", "continue", "elbo", "kl", "obs:kl", "number", "is_first", "scale", "__class__", "%s", "{}", "a:b"]


@st.composite
def boxes(draw, shapes=SHAPES, kinds=KINDS):
    """Boxes of every dtype: bounded, half bounded, unbounded, as wide as the dtype, or a single point."""
    shape, dtype = draw(st.sampled_from(shapes)), np.dtype(draw(st.sampled_from([*FLOATS, *FLOATS, *INTEGERS, bool])))
    if dtype.kind == "b":
        return spaces.Box(0, 1, shape, bool)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    largest = min(LARGEST, float(limits.max))
    ends = rng.uniform(-1, 1, (2, *shape)) * draw(st.sampled_from([largest, 1.0, 100.0, 1e-3]))
    if dtype.kind == "u":
        ends = np.abs(ends)
    low, high = np.sort(ends, 0).astype(dtype)
    kind = draw(st.sampled_from(kinds))
    if kind == "point":
        high = low
    elif kind == "widest":
        share = 2 if dtype.kind == "f" else 1  # Gymnasium cannot sample where high - low overflows
        low, high = np.full(shape, limits.min // share, dtype), np.full(shape, limits.max // share, dtype)
    elif dtype.kind == "i" and kind != "bounded":  # Gymnasium takes an infinite bound of integers as a number only
        low = low if kind == "below" else -np.inf
        high = high if kind == "above" else np.inf
        return spaces.Box(low, high, shape, dtype)
    elif dtype.kind == "f" and kind != "bounded":
        none = rng.random((2, *shape)) < {"mixed": 0.5}.get(kind, 1.0)
        low = np.where(none[0] & (kind != "below"), -np.inf, low).astype(dtype)
        high = np.where(none[1] & (kind != "above"), np.inf, high).astype(dtype)
    return spaces.Box(np.array(low), np.array(high), shape, dtype)


IMAGES = st.sampled_from(3 * IMAGE_SHAPES + NEAR_IMAGE_SHAPES).map(lambda shape: spaces.Box(0, 255, shape, np.uint8))
DISCRETE = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-(10**9), 10**9))


@st.composite
def multi_discretes(draw):
    """MultiDiscrete of one to three dimensions, with and without starts, of several dtypes."""
    shape = draw(st.sampled_from([(1,), (3,), (2, 2), (1, 2, 2), (6,)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = rng.integers(-3, 100, shape) if draw(st.booleans()) else None
    return spaces.MultiDiscrete(rng.integers(1, 6, shape), draw(st.sampled_from([np.int64, np.int32])), start=start)


BINARY = st.sampled_from([1, 4, [2], [2, 3], [1, 1, 2]]).map(spaces.MultiBinary)
REFUSED = st.one_of(
    st.sampled_from(
        [
            spaces.Sequence(spaces.Discrete(2)),
            spaces.Graph(spaces.Box(-1, 1, (2,), np.float32), None),
            spaces.OneOf((spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32))),
            spaces.Dict({}),
        ]
    ),
    boxes(EMPTY_SHAPES),
)
SIMPLE = st.one_of(boxes(), boxes(), DISCRETE, multi_discretes(), BINARY)
LEAVES = st.one_of(*[SIMPLE] * 8, IMAGES, IMAGES, st.just(spaces.Text(5)))
KEYS = st.one_of(st.sampled_from(NAMES), st.sampled_from(RESERVED), st.text(max_size=5), st.integers(0, 3))


def _containers(children):
    return st.one_of(
        st.dictionaries(KEYS, children, min_size=1, max_size=4).map(spaces.Dict),
        st.lists(children, min_size=1, max_size=3).map(spaces.Tuple),
    )


def mostly(usual, rare):
    """Nine times in ten the first; `one_of` would count the branches inside."""
    return st.integers(0, 9).flatmap(lambda die: rare if die == 9 else usual)


TREES = st.recursive(LEAVES, _containers, max_leaves=5)
OBSERVATIONS = mostly(mostly(TREES, LEAVES), st.recursive(st.one_of(REFUSED, LEAVES), _containers))
BOUNDED = boxes(SHAPES, ["bounded", "bounded", "point", "widest"])
ACTIONS = mostly(st.one_of(BOUNDED, BOUNDED, DISCRETE, multi_discretes(), BINARY), st.one_of(boxes(), TREES, REFUSED))


def leaves(space, value: Any = None) -> Iterator[tuple[spaces.Space, Any]]:
    """The leaves of a space in the order of its tree, each with its part of a value."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from leaves(child, None if value is None else value[key])
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from leaves(child, None if value is None else value[i])
    else:
        yield space, value


def containers(space) -> Iterator[spaces.Dict | spaces.Tuple]:
    """Every Dict and Tuple of a space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        yield space
        for child in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from containers(child)


def numbers(space) -> int:
    """How many numbers a value of a leaf is."""
    return int(np.prod(space.shape, dtype=int))


def readable(space, drop_text: bool) -> bool:
    """Whether an observation space is one that the README says can be observed, its names aside."""
    kept = [leaf for leaf, _ in leaves(space) if not (drop_text and isinstance(leaf, spaces.Text))]
    full = all(len(container.spaces) for container in containers(space))  # Gymnasium itself refuses empty ones
    return full and bool(kept) and all(_readable_leaf(leaf) for leaf in kept)


def _readable_leaf(leaf) -> bool:
    if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return False
    channels_first = leaf.dtype == np.uint8 and len(leaf.shape) == 3 and leaf.shape[0] < 16 <= min(leaf.shape[1:])
    return numbers(leaf) > 0 and not channels_first


def names_may_collide(space) -> bool:
    """Whether a name of a Dict could be read as a path, or be taken: only then may two leaves have one path."""
    names = [key for d in containers(space) if isinstance(d, spaces.Dict) for key in d.spaces]
    return any(not isinstance(n, str) or n == "" or "/" in n or n in ("obs", *RESERVED) for n in names)


def actable(space) -> bool:
    """Whether an action space is one that the README says can be acted in."""
    if isinstance(space, spaces.Box):
        exact = space.dtype.kind == "f" or max(abs(int(x)) for x in (*space.low.flat, *space.high.flat, 0)) <= 2**53
        return bool(space.bounded_below.all() and space.bounded_above.all()) and numbers(space) > 0 and exact
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


class Event(NamedTuple):
    """What an environment was told and what it said; `action` is None at a reset."""

    action: Any
    obs: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


class FuzzWorld(gymnasium.Env):
    """Emits values of its observation space, extremes among them, in episodes of random lengths; `log` has it all."""

    def __init__(self, observation_space, action_space, lengths, reward_scale):
        self.observation_space, self.action_space = observation_space, action_space
        self.lengths, self.reward_scale = lengths, reward_scale
        self.log: list[Event] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed % 2**31)
        self.left = self.np_random.choice(self.lengths)
        self.log.append(Event(None, emit(self.observation_space, self.np_random)))
        return self.log[-1].obs, {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        self.left -= 1
        terminated, truncated = [(False, False), (True, False), (False, True), (True, True)][
            self.np_random.integers(1, 4) if self.left <= 0 else 0
        ]
        obs, reward = emit(self.observation_space, self.np_random), self.reward_scale * self.np_random.normal()
        self.log.append(Event(action, obs, float(reward), terminated, truncated))
        return obs, reward, terminated, truncated, {}


def emit(space, rng) -> Any:
    """A value of a space: a sample, or for a Box sometimes its bounds, in all or in some places."""
    if isinstance(space, spaces.Dict):
        return {key: emit(child, rng) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(emit(child, rng) for child in space.spaces)
    value = space.sample()
    if not isinstance(space, spaces.Box) or space.dtype == bool:
        return value
    extreme = rng.choice(4, p=[0.7, 0.1, 0.1, 0.1])
    if extreme:
        chosen = [space.low, space.high, np.where(rng.random(space.shape) < 0.5, space.low, space.high)]
        value = chosen[extreme - 1]
    narrow = min(LARGEST, float((np.finfo if space.dtype.kind == "f" else np.iinfo)(space.dtype).max))
    lowest = 0 if space.dtype.kind == "u" else -narrow
    value = np.clip(np.asarray(value, np.float64), lowest, narrow).astype(space.dtype)
    value = np.clip(value, space.low, space.high).astype(space.dtype)  # again: the bounds may lie beyond
    return value


class Row(NamedTuple):
    """A row as it should be stored; `actions` are what the environment was told on the way to it."""

    obs: Any
    actions: list[Any]
    reward: np.float32
    is_first: bool
    is_last: bool
    is_terminal: bool
    episode_step: int


def expected_rows(log: list[Event], action_repeat: int, time_limit: int | None) -> list[Row]:
    """What one environment's rows should be, from its own notes and the rules in `types`."""
    rows: list[Row] = []
    for event in log:
        if event.action is None:
            rows.append(Row(event.obs, [], np.float32(0), True, False, False, 0))
            steps, held = 0, []
            continue
        steps, held = steps + 1, [*held, event]
        truncated = event.truncated or steps == time_limit
        if event.terminated or truncated or len(held) == action_repeat:
            reward = np.float32(sum(e.reward for e in held))
            flags = (False, event.terminated or truncated, event.terminated)
            rows.append(Row(event.obs, [e.action for e in held], reward, *flags, rows[-1].episode_step + 1))
            held = []
    return rows
