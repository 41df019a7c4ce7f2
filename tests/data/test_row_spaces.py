"""Rows turned back into observations and actions of the spaces that they came from, or of what they say of these."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from worldmodel.data.row_spaces import RowSpaces
from worldmodel.data.spaces import action_spec, decode_action, encode_observation, observation_specs
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec

GRID = spaces.Box(np.array([[-1, 5], [2, 0]]), np.array([[1, 5], [4, 255]]), dtype=np.int64)
NESTED = spaces.Dict(
    {
        "b": spaces.Tuple((spaces.Text(5), spaces.Discrete(3, start=-1), spaces.MultiBinary((2, 2)))),
        "a": spaces.Box(-1, 1, (2, 2), np.float64),
        "reward": spaces.MultiDiscrete([[2, 3]]),
        "mission": spaces.Text(9),
        "grid": GRID,
        "picture": spaces.Box(0, 255, (16, 16), np.uint8),
        "symbols": spaces.Box(0, 255, (700,), np.uint8),
    }
)
ACTIONS = {
    "discrete": spaces.Discrete(3, start=2),
    "multi-discrete": spaces.MultiDiscrete([2, 4]),
    "multi-binary": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(np.float32([-2, 0]), np.float32([2, 10])),
}


def without_text(value):
    kept = {name: part for name, part in value.items() if name != "mission"}
    return kept | {"b": value["b"][1:]}


def spec_of(observation, action, **options):
    options = {"image_size": 16, "drop_text": True} | options
    return EnvSpec(observation_specs(observation, **options), action_spec(action))


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_what_was_observed_comes_back_as_it_was_without_its_text(action):
    spec = spec_of(NESTED, action)
    found = RowSpaces.of_world(spec, NESTED, action)
    NESTED.seed(0)
    values = [NESTED.sample() for _ in range(3)]
    rows = [encode_observation(NESTED, spec.observations, value) for value in values]
    back = found.observations({path: np.stack([row[path] for row in rows]) for path in spec.observations})
    assert back in batch_space(found.observation, 3)
    for value, one in zip(values, iterate(batch_space(found.observation, 3), back), strict=True):
        assert one in found.observation
        np.testing.assert_equal(one, {**without_text(value), "a": value["a"].astype(np.float32)})


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_actions_become_the_vectors_that_decode_to_them(space):
    batch = batch_space(space, 5)
    batch.seed(0)
    actions = batch.sample()
    vectors = RowSpaces.of_world(spec_of(GRID, space), GRID, space).vectors(actions)
    assert vectors.shape == (5, action_spec(space).width) and vectors.dtype == np.float32
    for one, vector in zip(iterate(batch, actions), vectors, strict=True):
        np.testing.assert_allclose(decode_action(space, vector), one, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "wrong"), [("discrete", [5]), ("multi-binary", [[1, 0]]), ("box", [[0.0, 1.0, 2.0]])], ids=str
)
def test_actions_of_another_space_are_refused(space, wrong):
    found = RowSpaces.of_world(spec_of(GRID, ACTIONS[space]), GRID, ACTIONS[space])
    with pytest.raises(ValueError, match="action: expected"):
        found.vectors(np.array(wrong))


def test_predictions_are_clipped_and_rounded_into_the_space():
    real = spaces.Dict({"speed": spaces.Box(-1, 1, (2,), np.float64), "floor": spaces.Box(0, 5, (1,), np.int32)})
    spec = spec_of(real, ACTIONS["box"], integers="density")
    found = RowSpaces.of_world(spec, real, ACTIONS["box"], integers="density")
    rows = {"speed": np.float32([[-3, 0.25]]), "floor": np.float32([[2.6]])}
    back = found.observations(rows)
    assert back["speed"].tolist() == [[-1.0, 0.25]] and back["floor"].tolist() == [[3]]
    assert (back["speed"].dtype, back["floor"].dtype) == (np.float64, np.int32)
    assert found.observations({**rows, "floor": np.float32([[9.7]])})["floor"].tolist() == [[5]]


def test_resized_images_and_hidden_entries_are_as_the_rows_have_them():
    real = spaces.Dict({"at": spaces.Box(-1, 1, (4,), np.float32), "seen": spaces.Box(0, 255, (40, 60), np.uint8)})
    spec = EnvSpec(
        {"at": ObservationSpec("vector", (2,)), "seen": ObservationSpec("image", (16, 16, 1))},
        action_spec(ACTIONS["box"]),
    )
    found = RowSpaces.of_world(spec, real, ACTIONS["box"])
    assert found.observation["at"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert found.observation["seen"] == spaces.Box(0, 255, (16, 16), np.uint8)
    rows = {"at": np.float32([[7, 8]]), "seen": np.full((1, 16, 16, 1), 9, np.uint8)}
    assert found.observations(rows) in batch_space(found.observation, 1)


def test_rows_say_kinds_and_widths_but_neither_bounds_nor_starts():
    leaves = {
        "z": ObservationSpec("vector", (2,)),
        "card": ObservationSpec("categorical", (1,), (4,)),
        "cards": ObservationSpec("categorical", (2,), (3, 4)),
        "bits": ObservationSpec("binary", (3,)),
        "symbols": ObservationSpec("integer", (2,), low=(0, -3), high=(255, 300)),
        "eye": ObservationSpec("image", (16, 16, 3)),
    }
    found = RowSpaces.of_rows(EnvSpec(leaves, ActionSpec("categorical", 5, (2, 3))))
    assert found.action == spaces.MultiDiscrete([2, 3])
    assert dict(found.observation.spaces) == {
        "z": spaces.Box(-np.inf, np.inf, (2,), np.float32),
        "card": spaces.Discrete(4),
        "cards": spaces.MultiDiscrete([3, 4]),
        "bits": spaces.MultiBinary(3),
        "symbols": spaces.Box(np.int32([0, -3]), np.int32([255, 300]), dtype=np.int32),
        "eye": spaces.Box(0, 255, (16, 16, 3), np.uint8),
    }
    rows = {path: np.ones((2, *leaf.shape), leaf.dtype) for path, leaf in leaves.items()}
    assert found.observations(rows) in batch_space(found.observation, 2)
    alone = {"obs": ObservationSpec("vector", (3,))}
    kinds = {
        ActionSpec("continuous", 2): spaces.Box(-1, 1, (2,), np.float32),
        ActionSpec("categorical", 4, (4,)): spaces.Discrete(4),
        ActionSpec("binary", 3): spaces.MultiBinary(3),
    }
    for action, space in kinds.items():
        found = RowSpaces.of_rows(EnvSpec(alone, action))
        assert (found.action, found.observation.shape) == (space, (3,))


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (spaces.Dict({"a": GRID}), ACTIONS["box"]),
        (spaces.Box(-1, 1, (4,), np.float32), ACTIONS["box"]),
        (GRID, ACTIONS["discrete"]),
    ],
    ids=["another path", "another kind", "another action"],
)
def test_the_spaces_of_another_environment_are_refused(observation, action):
    with pytest.raises(ValueError, match="spaces: expected the spaces that the rows came from"):
        RowSpaces.of_world(spec_of(GRID, ACTIONS["box"]), observation, action)
