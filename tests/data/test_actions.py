"""Sequences of actions as a person writes them down."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldmodel.data.actions import action_sequences
from worldmodel.types import ActionSpec

CONTINUOUS = ActionSpec("continuous", 2)
CLASSES = ActionSpec("categorical", 3, (3,))
GROUPS = ActionSpec("categorical", 5, (2, 3))


def test_one_sequence_is_a_batch_of_one_and_several_stay_several():
    one = [[0.5, -1.0], [0.0, 1.0]]
    torch.testing.assert_close(action_sequences(CONTINUOUS, one), torch.tensor([one]))
    assert torch.equal(action_sequences(CONTINUOUS, torch.tensor([one, one]))[1], torch.tensor(one))


def test_classes_are_whole_numbers_or_the_vectors_that_rows_store():
    expected = torch.eye(3)[[2, 0, 1]][None]
    assert torch.equal(action_sequences(CLASSES, [2, 0, 1]), expected)
    assert torch.equal(action_sequences(CLASSES, expected), expected)
    assert action_sequences(GROUPS, [[1, 2]]).tolist() == [[[0, 1, 0, 0, 1]]]
    assert action_sequences(ActionSpec("binary", 2), [[1, 0]]).tolist() == [[[1, 0]]]


def test_an_environments_own_space_names_the_units():
    torque = spaces.Box(-2, 2, (1,), np.float32)
    assert action_sequences(ActionSpec("continuous", 1), [[2.0], [-1.0]], torque).tolist() == [[[1.0], [-0.5]]]
    assert action_sequences(CLASSES, [5, 7], spaces.Discrete(3, start=5)).tolist() == [[[1, 0, 0], [0, 0, 1]]]


@pytest.mark.parametrize(
    ("spec", "actions", "space", "words"),
    [
        (CONTINUOUS, [0.5, 0.5], None, r"actions: expected \[H, \.\.\.\] or .* got the shape \(2,\)"),
        (CONTINUOUS, np.zeros((1, 0, 2)), None, r"got the shape \(1, 0, 2\)"),
        (CONTINUOUS, [[2.0, 0.0]], None, "expected numbers within Box.*, got 0 to 2; action_space names"),
        (CONTINUOUS, [[np.nan, 0.0]], None, "expected numbers within Box"),
        (CLASSES, [3], None, "expected one of Discrete"),
        (CLASSES, [1], spaces.Discrete(4), "action_space: expected one whose actions are stored as"),
    ],
)
def test_what_is_no_sequence_of_actions_is_refused(spec, actions, space, words):
    with pytest.raises(ValueError, match=words):
        action_sequences(spec, actions, space)
