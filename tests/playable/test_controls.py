"""One control for each action, with a name and keys."""

import numpy as np
from gymnasium import spaces

from worldmodel.playable.controls import controls
from worldmodel.types import ActionSpec


def test_classes_have_the_names_of_a_known_environment_and_arrows():
    (group,) = controls("CartPole-v1", ActionSpec("categorical", 2, (2,)))["groups"]
    assert group["choices"] == [
        {"name": "push left", "keys": ["1", "ArrowLeft"]},
        {"name": "push right", "keys": ["2", "ArrowRight"]},
    ]
    (grid,) = controls("MiniGrid-MemoryS7-v0", ActionSpec("categorical", 7, (7,)))["groups"]
    assert [choice["keys"][-1] for choice in grid["choices"][:3]] == ["ArrowLeft", "ArrowRight", "ArrowUp"]


def test_names_of_another_number_of_actions_are_not_believed():
    (group,) = controls("CartPole-v1", ActionSpec("categorical", 11, (11,)))["groups"]
    assert [choice["name"] for choice in group["choices"]] == [f"action {k}" for k in range(11)]
    assert [choice["keys"] for choice in group["choices"]] == [*([str(k)] for k in range(1, 10)), [], []]


def test_several_classes_have_a_group_each_and_no_keys():
    groups = controls("Mine-v0", ActionSpec("categorical", 5, (2, 3)))["groups"]
    assert [(group["name"], len(group["choices"])) for group in groups] == [("action 1", 2), ("action 2", 3)]
    assert all(not choice["keys"] for group in groups for choice in group["choices"])


def test_numbers_are_shown_in_the_units_of_the_environment():
    torque = spaces.Box(-2, 2, (1,), np.float32)
    assert controls("Pendulum-v1", ActionSpec("continuous", 1), torque)["entries"] == [
        {"name": "torque", "low": -2.0, "high": 2.0, "keys": ["ArrowLeft", "ArrowRight"]}
    ]
    three = controls("Mine-v0", ActionSpec("continuous", 3))["entries"]
    assert [entry["name"] for entry in three] == ["action 1", "action 2", "action 3"]
    assert [entry["keys"] for entry in three] == [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], []]
    assert {(entry["low"], entry["high"]) for entry in three} == {(-1.0, 1.0)}


def test_bits_are_switches():
    entries = controls("Mine-v0", ActionSpec("binary", 10))["entries"]
    assert entries[0] == {"name": "switch 1", "key": "1"} and entries[9] == {"name": "switch 10", "key": ""}
