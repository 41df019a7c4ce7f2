"""Episodes from arrays of one's own: the rows, the spaces that arrays show, and what is refused."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldmodel.data import from_episodes
from worldmodel.types import ActionSpec, ObservationSpec

RNG = np.random.default_rng(0)


def episode(steps=4, **others):
    obs, action = RNG.normal(size=(steps + 1, 3)), RNG.uniform(-1, 1, size=(steps, 2))
    return {"obs": obs, "action": action, "reward": np.arange(1.0, steps + 1), "terminated": True} | others


def test_row_t_holds_what_led_to_it():
    one, two = episode(4), episode(2, terminated=False)
    found = from_episodes([one, two])
    assert found.spec.observations == {"obs": ObservationSpec("vector", (3,))}
    assert found.spec.action == ActionSpec("continuous", 2) and len(found) == 2
    batch = found.batch()
    np.testing.assert_allclose(batch.obs["obs"][0], one["obs"], rtol=1e-6)
    np.testing.assert_allclose(batch.prev_action[0], np.vstack([np.zeros((1, 2)), one["action"]]), rtol=1e-6)
    assert batch.reward.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert batch.valid.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert batch.is_first[:, 0].all() and batch.is_first.sum() == 2
    assert batch.is_last.nonzero().tolist() == [[0, 4], [1, 2]] and batch.is_terminal.nonzero().tolist() == [[0, 4]]
    assert [part.reward.shape[1] for part in found.episodes()] == [5, 3]


def test_arrays_show_their_spaces_where_they_can():
    obs = {
        "camera": RNG.integers(0, 256, (3, 20, 20, 3), np.uint8),
        "arm": {"angle": RNG.normal(size=(3, 2)).astype(np.float32), "touch": np.ones((3, 4), bool)},
    }
    found = from_episodes([{"obs": obs, "action": [2, 0]}], image_size=16)
    kinds = {path: (leaf.kind, leaf.shape) for path, leaf in found.spec.observations.items()}
    assert kinds == {"camera": ("image", (16, 16, 3)), "arm/angle": ("vector", (2,)), "arm/touch": ("binary", (4,))}
    assert found.spec.action == ActionSpec("categorical", 3, (3,))
    batch = found.batch()
    assert batch.prev_action.tolist() == [[[0, 0, 0], [0, 0, 1], [1, 0, 0]]]
    assert not batch.reward.any() and not batch.is_terminal.any()


def test_spaces_that_are_named_decide():
    torque, cards = spaces.Box(-2, 2, (1,), np.float32), spaces.Discrete(5, start=1)
    found = from_episodes([{"obs": [1, 5, 3], "action": [[2.0], [-1.0]]}], observation_space=cards, action_space=torque)
    assert found.spec.observations == {"obs": ObservationSpec("categorical", (1,), (5,))}
    assert found.batch().obs["obs"].tolist() == [[[0], [4], [2]]]
    torch.testing.assert_close(found.batch().prev_action[0], torch.tensor([[0.0], [1.0], [-0.5]]))


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        ([], "episodes: expected at least one, got none"),
        ([{"obs": np.zeros((3, 2))}], r"episodes\[0\]: expected obs and action, .* got \['obs'\]"),
        ([episode(), episode(rewards=1)], r"episodes\[1\]: expected obs and action, and perhaps"),
        ([np.zeros(3)], r"episodes\[0\]: expected obs and action, .* got ndarray"),
        ([episode(obs=np.zeros((4, 3)))], r"expected 5 observations for 4 actions, got the shape \(4, 3\)"),
        ([episode(action=np.zeros((0, 2)))], "expected at least one action"),
        ([episode(reward=np.zeros(5))], r"expected 4 finite rewards, one for each action, got the shape \(5,\)"),
        ([episode(reward=np.full(4, np.nan))], "expected 4 finite rewards"),
        ([episode(terminated=np.zeros(4, bool))], "expected terminated of the whole episode"),
        ([episode(), episode(obs=np.full((5, 3), np.inf))], r"episodes\[1\]: observation 'obs': expected finite"),
        ([episode(), episode(obs=np.zeros((5, 2)))], r"episodes\[1\]: observation 'obs': expected shape \(3,\)"),
        ([episode(action=np.full((4, 2), 1.5))], "action_space: expected one for actions that are neither"),
        ([episode(action=np.zeros((4, 2), int))], "action_space: expected one"),
        ([episode(obs=np.zeros(5))], r"observation_space: expected one for 'obs', arrays \(5,\) of float64"),
        ([episode(obs=np.zeros((5, 3), int))], "observation_space: expected one"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(episodes, words):
    with pytest.raises(ValueError, match=words):
        from_episodes(episodes)
