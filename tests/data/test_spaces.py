import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.data.spaces import (
    UnsupportedSpaceError,
    action_spec,
    decode_action,
    encode_action,
    encode_observation,
    encode_observations,
    observation_specs,
    text_leaves,
)
from worldmodel.types import ActionSpec, ObservationSpec

UNIT = spaces.Box(-1, 1, (2,), np.float32)
# (space, value, the leaf it becomes, what is stored)
LEAVES = {
    "discrete": (spaces.Discrete(4), np.int64(3), ObservationSpec("categorical", (1,), (4,)), [3]),
    "discrete from 5": (spaces.Discrete(3, start=5), np.int64(7), ObservationSpec("categorical", (1,), (3,)), [2]),
    "discrete from -2": (spaces.Discrete(3, start=-2), np.int64(-2), ObservationSpec("categorical", (1,), (3,)), [0]),
    "multi-discrete": (
        spaces.MultiDiscrete([2, 5, 3]),
        np.array([1, 4, 0]),
        ObservationSpec("categorical", (3,), (2, 5, 3)),
        [1, 4, 0],
    ),
    "multi-discrete grid from 1": (
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [1, 1]]),
        np.array([[1, 2], [3, 5]]),
        ObservationSpec("categorical", (4,), (2, 3, 4, 5)),
        [0, 1, 2, 4],
    ),
    "multi-binary": (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), ObservationSpec("binary", (3,)), [1, 0, 1]),
    "multi-binary grid": (
        spaces.MultiBinary([2, 2]),
        np.array([[1, 0], [0, 1]], np.int8),
        ObservationSpec("binary", (4,)),
        [1, 0, 0, 1],
    ),
    "double grid": (
        spaces.Box(-np.inf, np.inf, (2, 1, 2), np.float64),
        np.array([[[0.1, -2]], [[3, 4]]]),
        ObservationSpec("vector", (4,)),
        np.float32([0.1, -2, 3, 4]),
    ),
    "number": (spaces.Box(0, 1, (), np.float32), np.array(0.25, np.float32), ObservationSpec("vector", (1,)), [0.25]),
    "few whole numbers": (
        spaces.Box(-9, 9, (2,), np.int64),
        np.array([-9, 8]),
        ObservationSpec("categorical", (2,), (19, 19)),
        [0, 17],
    ),
    "whole numbers of other bounds each": (
        spaces.Box(np.array([[-1, 5], [2, 0]]), np.array([[1, 5], [4, 255]]), dtype=np.int64),
        np.array([[1, 5], [2, 255]]),
        ObservationSpec("categorical", (4,), (3, 1, 3, 256)),
        [2, 0, 0, 255],
    ),
    "yes or no": (
        spaces.Box(0, 1, (2, 2), bool),
        np.array([[True, False], [False, True]]),
        ObservationSpec("binary", (4,)),
        [1, 0, 0, 1],
    ),
    "zero or one": (spaces.Box(0, 1, (3,), np.int8), np.int8([1, 0, 1]), ObservationSpec("binary", (3,)), [1, 0, 1]),
    "symbols": (
        spaces.Box(0, 255, (2, 2, 2), np.uint8),
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2) + 200,
        ObservationSpec("integer", (8,), low=(0,) * 8, high=(255,) * 8),
        np.uint8(np.arange(200, 208)),
    ),
    "a counter": (
        spaces.Box(0, np.inf, (1,), np.int32),
        np.int32([2**31 - 1]),
        ObservationSpec("integer", (1,), low=(0,), high=(2**31 - 1,)),
        np.int32([2**31 - 1]),
    ),
    "any whole number": (
        spaces.Box(-np.inf, np.inf, (2,), np.int64),
        np.array([-(2**53), 2**53 - 1]),
        ObservationSpec("integer", (2,), low=(-(2**53),) * 2, high=(2**53,) * 2),
        np.array([-(2**53), 2**53 - 1]),
    ),
    "any whole number from zero": (
        spaces.Box(0, 2**64 - 1, (1,), np.uint64),
        np.uint64([2**53]),
        ObservationSpec("integer", (1,), low=(0,), high=(2**53,)),
        np.array([2**53]),
    ),
}
STORED_AS = {"vector": np.float32, "image": np.uint8, "categorical": np.int32, "binary": np.uint8}


@pytest.mark.parametrize("space, value, spec, stored", LEAVES.values(), ids=LEAVES)
def test_a_bare_leaf_is_named_obs_and_stored_as_its_kind_says(space, value, spec, stored):
    assert space.contains(value)
    specs = observation_specs(space, image_size=16)
    assert specs == {"obs": spec}
    encoded = encode_observation(space, specs, value)
    assert list(encoded) == ["obs"]
    assert encoded["obs"].dtype == (stored.dtype if spec.kind == "integer" else STORED_AS[spec.kind])
    assert encoded["obs"].dtype == spec.dtype
    np.testing.assert_array_equal(encoded["obs"], stored, strict=False)
    assert encoded["obs"].shape == spec.shape


def test_nested_leaves_are_named_by_their_paths_and_get_their_own_values():
    space = spaces.Dict(
        {
            "goal": spaces.Tuple((spaces.Discrete(3), spaces.Dict({"at": UNIT, "held": spaces.MultiBinary(1)}))),
            "speed": spaces.Box(-1, 1, (), np.float32),
        }
    )
    value = {"goal": (np.int64(2), {"at": np.float32([0.5, -0.5]), "held": np.int8([1])}), "speed": np.float32(-1)}
    specs = observation_specs(space, image_size=16)
    assert {path: spec.kind for path, spec in specs.items()} == {
        "goal/0": "categorical",
        "goal/1/at": "vector",
        "goal/1/held": "binary",
        "speed": "vector",
    }
    encoded = encode_observation(space, specs, value)
    assert {path: x.tolist() for path, x in encoded.items()} == {
        "goal/0": [2],
        "goal/1/at": [0.5, -0.5],
        "goal/1/held": [1],
        "speed": [-1],
    }


def test_a_tuple_at_the_root_names_leaves_by_their_place():
    space = spaces.Tuple((spaces.Discrete(2), UNIT))
    specs = observation_specs(space, image_size=16)
    encoded = encode_observation(space, specs, (np.int64(1), np.float32([0.25, 0.75])))
    assert {path: x.tolist() for path, x in encoded.items()} == {"0": [1], "1": [0.25, 0.75]}


def picture(*shape):
    """Bytes with no symmetry, far enough from 0 and 255 to be shifted a little."""
    return np.random.default_rng(0).integers(16, 236, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_an_image_is_resized_to_the_average_of_the_pixels_under_each_new_one(channels):
    small = picture(16, 16, *channels)
    offsets = np.array([[-9, 2, 7], [1, 8, -9]]).reshape(2, 3, *(1 for _ in channels))  # average zero in every row
    large = np.repeat(np.repeat(small, 2, 0), 3, 1) + np.tile(offsets, (16, 16, *channels))
    space = spaces.Box(0, 255, (32, 48, *channels), np.uint8)
    specs = observation_specs(space, image_size=16)
    assert specs == {"obs": ObservationSpec("image", (16, 16, *(channels or (1,))))}
    encoded = encode_observation(space, specs, large.astype(np.uint8))["obs"]
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, small.reshape(16, 16, -1))


def test_an_image_of_the_right_size_is_kept_exactly():
    space, image = spaces.Box(0, 255, (16, 16), np.uint8), picture(16, 16)
    encoded = encode_observation(space, observation_specs(space, image_size=16), image)["obs"]
    np.testing.assert_array_equal(encoded, image[..., None])


def test_an_image_is_enlarged_by_repeating_pixels():
    space, image = spaces.Box(0, 255, (16, 16, 3), np.uint8), picture(16, 16, 3)
    encoded = encode_observation(space, observation_specs(space, image_size=32), image)["obs"]
    np.testing.assert_array_equal(encoded, np.repeat(np.repeat(image, 2, 0), 2, 1))


@pytest.mark.parametrize(
    "shape, kind", [((16, 16), "image"), ((16, 16, 3), "image"), ((15, 40, 3), "integer"), ((16, 2, 16), "integer")]
)
def test_only_byte_boxes_of_at_least_16_a_side_are_images(shape, kind):
    assert observation_specs(spaces.Box(0, 255, shape, np.uint8), image_size=16)["obs"].kind == kind
    assert observation_specs(spaces.Box(0, 1, shape, np.float32), image_size=16)["obs"].kind == "vector"


def test_two_leaves_of_one_path_are_refused():
    space = spaces.Dict({"arm/angle": UNIT, "arm": spaces.Dict({"angle": spaces.Discrete(2)})})
    with pytest.raises(UnsupportedSpaceError, match=r"'arm/angle'.*got two"):
        observation_specs(space, image_size=16)


def test_names_of_a_dict_need_not_be_strings():
    space = spaces.Dict({3: UNIT, 4: spaces.Discrete(2)})
    encoded = encode_observation(space, observation_specs(space, image_size=16), {3: np.float32([0, 1]), 4: 1})
    assert {path: x.tolist() for path, x in encoded.items()} == {"3": [0, 1], "4": [1]}


def test_text_is_refused_by_name_or_dropped():
    space = spaces.Dict({"inner": spaces.Dict({"words": spaces.Text(8)}), "x": UNIT})
    with pytest.raises(UnsupportedSpaceError, match=r"'inner/words'.*text.*env\.drop_text"):
        observation_specs(space, image_size=16)
    specs = observation_specs(space, image_size=16, drop_text=True)
    assert list(specs) == ["x"]
    encoded = encode_observation(space, specs, {"inner": {"words": "abc"}, "x": np.float32([0, 1])})
    assert {path: x.tolist() for path, x in encoded.items()} == {"x": [0, 1]}


def test_text_that_is_left_out_may_have_the_path_of_another_leaf():
    space = spaces.Dict({"a": spaces.Dict({"b": UNIT}), "a/b": spaces.Text(8)})
    specs = observation_specs(space, image_size=16, drop_text=True)
    encoded = encode_observation(space, specs, {"a": {"b": np.float32([0.5, 1])}, "a/b": "abc"})
    assert {path: x.tolist() for path, x in encoded.items()} == {"a/b": [0.5, 1]}


def test_a_space_of_nothing_but_text_is_refused():
    with pytest.raises(UnsupportedSpaceError, match="at least one leaf that is not text"):
        observation_specs(spaces.Text(8), image_size=16, drop_text=True)


def test_a_minigrid_mission_is_text_and_its_grid_whole_numbers():
    env = gymnasium.make("minigrid:MiniGrid-Empty-8x8-v0")
    with pytest.raises(UnsupportedSpaceError, match="'mission'"):
        observation_specs(env.observation_space, image_size=16)
    assert text_leaves(env.observation_space) == ["mission"]
    specs = observation_specs(env.observation_space, image_size=16, drop_text=True)
    assert {path: spec.kind for path, spec in specs.items()} == {"direction": "categorical", "image": "integer"}
    obs, _ = env.reset(seed=0)
    encoded = encode_observation(env.observation_space, specs, obs)
    np.testing.assert_array_equal(encoded["image"], obs["image"].ravel())
    np.testing.assert_array_equal(encoded["direction"], [obs["direction"]])
    env.close()


@pytest.mark.parametrize(
    "leaf", [spaces.Sequence(UNIT), spaces.Graph(UNIT, None), spaces.OneOf((UNIT, spaces.Discrete(2)))], ids=type
)
def test_other_observation_spaces_are_refused_with_their_path(leaf):
    space = spaces.Dict({"x": UNIT, "outer": spaces.Tuple((UNIT, spaces.Dict({"inner": leaf})))})
    with pytest.raises(UnsupportedSpaceError, match=f"'outer/1/inner': {type(leaf).__name__}"):
        observation_specs(space, image_size=16)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (16, 16, 0)])
def test_spaces_without_a_number_are_refused(shape):
    box = spaces.Box(0, 255, shape, np.uint8)
    with pytest.raises(UnsupportedSpaceError, match=r"'none'.*at least one number"):
        observation_specs(spaces.Dict({"none": box, "x": UNIT}), image_size=16)
    with pytest.raises(UnsupportedSpaceError, match=r"action space.*at least one number"):
        action_spec(box)


@pytest.mark.parametrize("space", [spaces.Discrete(2**40), spaces.MultiDiscrete([2**20, 2])], ids=type)
def test_more_classes_than_a_network_can_read_are_refused(space):
    with pytest.raises(UnsupportedSpaceError, match=r"'big'.*at most 1048576 classes"):
        observation_specs(spaces.Dict({"big": space}), image_size=16)
    with pytest.raises(UnsupportedSpaceError, match=r"action space.*at most 1048576 classes"):
        action_spec(space)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_channels_first_images_are_refused_with_their_path(channels):
    space = spaces.Dict({"camera": spaces.Box(0, 255, (channels, 32, 32), np.uint8)})
    with pytest.raises(UnsupportedSpaceError, match=r"'camera'.*channels first"):
        observation_specs(space, image_size=16)


@pytest.mark.parametrize(
    "space, words",
    [
        (spaces.Box(-np.inf, 1, (2,), np.float32), "bounded above and below"),
        (spaces.Box(0, np.inf, (2,), np.float32), "bounded above and below"),
        (spaces.Dict({"arm": UNIT}), "Discrete, a bounded Box, MultiDiscrete or MultiBinary at the root"),
        (spaces.Tuple((UNIT,)), "at the root"),
    ],
)
def test_other_action_spaces_are_refused(space, words):
    with pytest.raises(UnsupportedSpaceError, match=words):
        action_spec(space)


@pytest.mark.parametrize("dtype", [np.int64, np.int8])
def test_every_discrete_action_comes_back_from_its_one_hot_vector(dtype):
    space = spaces.Discrete(4, start=-1, dtype=dtype)
    assert action_spec(space) == ActionSpec("categorical", 4, (4,))
    decoded = [decode_action(space, row) for row in np.eye(4, dtype=np.float32)]
    assert decoded == [-1, 0, 1, 2]
    assert all(space.contains(action) for action in decoded)


def test_every_multi_discrete_action_comes_back_from_its_one_hot_groups():
    space = spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 5], [7, -1]])
    assert action_spec(space) == ActionSpec("categorical", 10, (2, 3, 1, 4))
    for index in np.ndindex(2, 3, 1, 4):
        groups = [np.eye(n, dtype=np.float32)[i] for n, i in zip((2, 3, 1, 4), index, strict=True)]
        decoded = decode_action(space, np.concatenate(groups))
        assert space.contains(decoded)
        np.testing.assert_array_equal(decoded, np.reshape(index, (2, 2)) + space.start)


def test_every_binary_action_comes_back():
    space = spaces.MultiBinary([2, 2])
    assert action_spec(space) == ActionSpec("binary", 4)
    for bits in np.ndindex(2, 2, 2, 2):
        decoded = decode_action(space, np.float32(bits))
        assert space.contains(decoded)
        np.testing.assert_array_equal(decoded, np.reshape(bits, (2, 2)))


def test_continuous_actions_are_linear_with_exact_ends_and_clipped_beyond_them():
    low, high = np.float32([[-0.1, 3], [1e-3, -7]]), np.float32([[0.7, 1e3], [0.3, -1 / 3]])
    space = spaces.Box(low, high, dtype=np.float32)
    assert action_spec(space) == ActionSpec("continuous", 4)
    for vector, expected in ((-1, low), (1, high), (-1.5, low), (40, high)):
        decoded = decode_action(space, np.full(4, vector, np.float32))
        assert space.contains(decoded)
        np.testing.assert_array_equal(decoded, expected, strict=True)
    vector = np.linspace(-1, 1, 4, dtype=np.float32)
    expected = np.interp(vector.astype(np.float64), [-1, 1], [0, 1]).reshape(2, 2) * (np.float64(high) - low) + low
    np.testing.assert_allclose(decode_action(space, vector), expected, rtol=1e-6)  # float32 rounding


def test_double_actions_end_exactly_at_their_bounds():
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(size=(2, 1000)) * 10.0 ** rng.uniform(-3, 3, (1, 1000)), 0)
    space = spaces.Box(low, high, dtype=np.float64)
    np.testing.assert_array_equal(decode_action(space, -np.ones(1000, np.float32)), low)
    np.testing.assert_array_equal(decode_action(space, np.ones(1000, np.float32)), high)


def test_a_double_action_never_leaves_a_box_that_is_one_point():
    rng = np.random.default_rng(0)
    point = rng.normal(size=1000)
    space = spaces.Box(point, point, dtype=np.float64)
    np.testing.assert_array_equal(decode_action(space, rng.uniform(-1, 1, 1000).astype(np.float32)), point)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_that_floats_do_not_hold_are_refused_as_actions(dtype):
    with pytest.raises(UnsupportedSpaceError, match=r"within 2\^53"):
        action_spec(spaces.Box(np.iinfo(dtype).min, np.iinfo(dtype).max, (1,), dtype))
    widest = spaces.Box(0, 2**53, (1,), dtype)
    assert action_spec(widest).width == 1
    assert decode_action(widest, np.ones(1, np.float32)) == [2**53]


def test_the_widest_box_has_a_middle():
    limit = np.finfo(np.float64).max
    assert decode_action(spaces.Box(-limit, limit, (1,), np.float64), np.zeros(1, np.float32)) == [0]


def test_whole_number_actions_are_rounded_to_the_nearest():
    space = spaces.Box(-2, 2, (9,), np.int32)
    vector = np.float32([-1, -0.8, -0.7, -0.2, 0, 0.2, 0.7, 0.8, 1])
    assert decode_action(space, vector).tolist() == [-2, -2, -1, 0, 0, 0, 1, 2, 2]


def test_a_leaf_never_takes_the_name_of_another_term_of_the_bound():
    space = spaces.Dict({"reward": spaces.Discrete(3), "kl": spaces.Discrete(2), "x": spaces.Discrete(4)})
    specs = observation_specs(space, image_size=16)
    assert set(specs) == {"obs/reward", "obs/kl", "x"}
    encoded = encode_observation(space, specs, {"reward": 2, "kl": 1, "x": 3})
    assert {path: x.tolist() for path, x in encoded.items()} == {"obs/reward": [2], "obs/kl": [1], "x": [3]}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 5], [7, -1]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
        spaces.Box(-2, 2, (2, 2), np.int32),
        spaces.Box(np.array([-7, 0, 250]), np.array([300, 1, 255]), dtype=np.int64),
        spaces.Box(0, 255, (3,), np.uint8),
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(-4, 4, (2, 2), np.float32),
    ],
    ids=repr,
)
def test_an_action_comes_back_exactly_from_its_vector(space):
    space.seed(0)
    for _ in range(100):
        action = space.sample()
        vector = encode_action(space, action)
        assert vector.shape == (action_spec(space).width,)
        assert vector.dtype == np.float32
        decoded = decode_action(space, vector)
        assert space.contains(decoded)
        np.testing.assert_array_equal(decoded, action, strict=True)


@pytest.mark.parametrize(
    "space, vectors",
    [
        (spaces.Discrete(3, start=7), np.eye(3)),
        (spaces.MultiDiscrete([2, 1, 2]), [[1, 0, 1, 0, 1], [0, 1, 1, 1, 0]]),
        (spaces.MultiBinary([3, 1]), list(np.ndindex(2, 2, 2))),
        (spaces.Box(-2, 2, (3,), np.float32), [[-1, 0, 1], [0.1, -0.7, 1e-3]]),
        (spaces.Box(0, 8, (2,), np.int64), [[-1, -0.75], [0.25, 1]]),
    ],
    ids=lambda x: repr(x)[:20],
)
def test_a_vector_comes_back_exactly_from_its_action(space, vectors):
    for vector in np.asarray(vectors, np.float32):
        np.testing.assert_array_equal(encode_action(space, decode_action(space, vector)), vector, strict=True)


def test_in_a_uniform_box_even_the_smallest_action_is_its_vector():
    tiny = np.float32([1e-30, -3e-39, 0.1, -1])
    np.testing.assert_array_equal(encode_action(spaces.Box(-1, 1, (4,), np.float32), tiny), tiny, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_box_comes_back_to_rounding_and_its_bounds_exactly(dtype):
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(size=(2, 1000)) * 10.0 ** rng.uniform(-3, 3, (1, 1000)), 0).astype(dtype)
    space = spaces.Box(low, high, dtype=dtype)
    np.testing.assert_array_equal(encode_action(space, low), -np.ones(1000))
    np.testing.assert_array_equal(encode_action(space, high), np.ones(1000))
    np.testing.assert_array_equal(encode_action(space, low - 1), -np.ones(1000))  # beyond: clipped
    np.testing.assert_array_equal(encode_action(space, high + 1), np.ones(1000))
    action = (low + rng.random(1000) * (high - low)).astype(dtype)
    error = np.abs(decode_action(space, encode_action(space, action)).astype(np.float64) - action)
    # Half a unit of the vector, over half the range, and one of the action's own dtype.
    assert (error <= 2.0**-25 * (high - low) + np.spacing(np.abs(action))).all()


def test_a_box_without_width_and_the_widest_box_have_a_vector_for_every_action():
    point, limit = np.float32([3.5]), np.finfo(np.float64).max
    space = spaces.Box(point, point, dtype=np.float32)
    assert encode_action(space, point) == [0]
    np.testing.assert_array_equal(decode_action(space, encode_action(space, point)), point)
    widest = spaces.Box(-limit, limit, (3,), np.float64)
    np.testing.assert_array_equal(encode_action(widest, np.array([-limit, 0, limit / 2])), [-1, 0, 0.5])


@pytest.mark.parametrize(
    "space, action, words",
    [
        (spaces.Discrete(3), 3, "expected one of Discrete"),
        (spaces.Discrete(3, start=1), 0, "expected one of Discrete"),
        (spaces.MultiDiscrete([2, 3]), [1, -1], "expected one of MultiDiscrete"),
        (spaces.Discrete(3), [1], r"expected the shape \(\) .* got \(1,\)"),
        (UNIT, np.zeros((2, 1)), r"expected the shape \(2,\) .* got \(2, 1\)"),
    ],
)
def test_what_is_no_action_of_the_space_has_no_vector(space, action, words):
    with pytest.raises(ValueError, match=words):
        encode_action(space, action)


def test_stacked_observations_are_encoded_one_by_one():
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (32, 32, 3), np.uint8),
            "inner": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2, 2), np.float64))),
            "lamp": spaces.MultiBinary(2),
        }
    )
    space.seed(0)
    values = [space.sample() for _ in range(5)]
    stacked = {
        "camera": np.stack([value["camera"] for value in values]),
        "inner": tuple(np.stack([value["inner"][i] for value in values]) for i in range(2)),
        "lamp": np.stack([value["lamp"] for value in values]),
    }
    specs = observation_specs(space, image_size=16)
    encoded = encode_observations(space, specs, stacked)
    for t, value in enumerate(values):
        for path, x in encode_observation(space, specs, value).items():
            np.testing.assert_array_equal(encoded[path][t], x, strict=True)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-3, 5, (2, 2), np.int8),
        spaces.Box(np.array([-1, 4]), np.array([1, 4]), dtype=np.int64),
        spaces.Box(10, 265, (1,), np.int32),
        spaces.Box(10, 266, (1,), np.int32),
        spaces.Box(0, 255, (5,), np.uint8),
        spaces.Box(-(2**40), 2**40, (3,), np.int64),
        spaces.Box(0, 1, (2,), bool),
    ],
    ids=str,
)
def test_every_whole_number_of_a_box_comes_back_from_what_is_stored(space):
    """Classes count from the lower bound, everything else is stored as it is."""
    space.seed(0)
    specs = observation_specs(space, image_size=16)
    spec = specs["obs"]
    assert spec.kind == ("integer" if sum(spec.classes) == 0 and space.dtype != bool else spec.kind)
    for value in (space.low, space.high, *(space.sample() for _ in range(20))):
        stored = encode_observation(space, specs, value)["obs"].astype(np.int64)
        if spec.kind == "categorical":
            assert (stored >= 0).all() and (stored < spec.classes).all()
            stored = stored + space.low.ravel()
        np.testing.assert_array_equal(stored, value.astype(np.int64).ravel())


def test_few_values_are_classes_and_many_are_integers():
    kinds = {}
    for values, entries in ((256, 4), (257, 1), (3, 341), (3, 342), (256, 5)):
        space = spaces.Box(5, 4 + values, (entries,), np.int64)
        kinds[values, entries] = observation_specs(space, image_size=16)["obs"].kind
    assert kinds == {
        (256, 4): "categorical",
        (257, 1): "integer",
        (3, 341): "categorical",
        (3, 342): "integer",
        (256, 5): "integer",
    }


def test_whole_numbers_have_a_density_if_asked_for():
    for space, kind in ((spaces.Box(0, 3, (2,), np.int8), "vector"), (spaces.Box(0, 255, (16, 16), np.uint8), "image")):
        assert observation_specs(space, image_size=16, integers="density")["obs"].kind == kind
    space = spaces.Box(0, 3, (2,), np.int8)
    specs = observation_specs(space, image_size=16, integers="density")
    np.testing.assert_array_equal(
        encode_observation(space, specs, np.int8([-7, 100]))["obs"], np.float32([-7, 100]), strict=True
    )


@pytest.mark.parametrize(
    "space, value",
    [
        (spaces.Box(0, 1, (2,), np.int8), np.int8([0, 2])),
        (spaces.Box(-1, 1, (2,), np.int64), np.array([-2, 0])),
        (spaces.Box(0, 255, (9,), np.int32), np.arange(9, dtype=np.int32) - 1),
        (spaces.Box(-np.inf, np.inf, (1,), np.int64), np.array([2**53 + 1])),
        (spaces.Box(0, 2**64 - 1, (1,), np.uint64), np.uint64([2**63])),
    ],
    ids=str,
)
def test_whole_numbers_that_have_no_mass_are_refused_with_their_path(space, value):
    specs = observation_specs(spaces.Dict({"at": space}), image_size=16)
    with pytest.raises(ValueError, match=r"'at': expected whole numbers within the bounds of Box.*env\.integers"):
        encode_observation(spaces.Dict({"at": space}), specs, {"at": value})


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 1e39])
def test_numbers_that_a_row_cannot_hold_are_refused_with_their_path(number):
    space = spaces.Dict({"at": spaces.Box(-np.inf, np.inf, (2,), np.float64)})
    specs = observation_specs(space, image_size=16)
    with pytest.raises(ValueError, match="'at': expected finite numbers within float32"):
        encode_observation(space, specs, {"at": np.array([0, number])})
