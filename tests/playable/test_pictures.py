"""Which picture is drawn of what."""

import pytest

from worldmodel.playable.pictures import GRID, names_of, pictures
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worlds import MIXED_SPEC

ACTION = ActionSpec("categorical", 2, (2,))


def vector(n: int) -> EnvSpec:
    return EnvSpec({"obs": ObservationSpec("vector", (n,))}, ACTION)


def test_known_environments_are_drawn_by_the_entries_that_they_show():
    assert pictures("Pendulum-v1", vector(3)) == [{"kind": "pendulum", "entries": {"cosine": 0, "sine": 1}, "leaf": 0}]
    hidden = pictures("CartPole-v1", vector(2), hide={"obs": [1, 3]})
    assert hidden == [{"kind": "cartpole", "entries": {"position": 0, "angle": 1}, "leaf": 0}]
    assert names_of("CartPole-v1", "obs", vector(2).observations["obs"], [], {"obs": [1, 3]}) == ["position", "angle"]


@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        ("Pendulum-v1", {"hide": {"obs": [0]}}),
        ("Pendulum-v1", {"wrappers": ["mine:W"]}),
        ("MountainCar-v0", {}),
        ("mine:Pendulum-v1", {}),
    ],
)
def test_what_is_not_known_to_look_so_has_traces_alone(env_id, settings):
    assert pictures(env_id, vector(3), **settings) == []


def test_images_and_classes_have_a_picture_each_and_numbers_traces():
    found = pictures("Mine-v0", MIXED_SPEC)
    assert [(one["kind"], one["leaf"]) for one in found] == [("image", 0), ("bars", 1), ("bars", 3)]
    assert found[0] == {"kind": "image", "leaf": 0, "height": 16, "width": 16, "channels": 3}
    angle = MIXED_SPEC.observations["joints/angle"]
    assert names_of("Mine-v0", "joints/angle", angle, [], {}) == ["joints/angle[0]", "joints/angle[1]"]


def test_minigrids_view_is_a_grid_where_it_is_classes():
    spec = EnvSpec({"obs": ObservationSpec("categorical", (98,), (11,) * 49 + (6,) * 49)}, ACTION)
    assert pictures("MiniGrid-MemoryS7-v0", spec, wrappers=[GRID]) == [
        {"kind": "grid", "leaf": 0, "side": 7, "kinds": [11, 6]}
    ]
    for env_id, wrappers in (("MiniGrid-MemoryS7-v0", []), ("Mine-v0", [GRID])):
        assert pictures(env_id, spec, wrappers=wrappers) == [{"kind": "bars", "leaf": 0}]
