"""Observations that are drawn: pixel for pixel what the environment itself showed, and of nobody else anything."""

import sys

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.renderers import RENDERERS, draw, find_renderer
from worldmodel.data.rollout import Rollout

ROWS = 25


def played(env_id, hide=None, kwargs=None):
    """Rows of a first episode: observations, the actions that led to them, and what the environment showed."""
    shown = {**(kwargs or {}), "render_mode": "rgb_array"}
    with make_environments(env_id, count=1, kwargs=shown, hide=hide or {}) as one:
        rollout = Rollout(one, RandomPolicy(one.spec.action, torch.Generator().manual_seed(3)), 5)
        rows, frames = [], []
        while len(rows) < ROWS and not (rows and rows[-1].is_last[0]):
            rows.append(rollout.step())
            frames.append(one.frames()[0].copy())
    return np.stack([r.obs["obs"][0] for r in rows]), np.stack([r.prev_action[0] for r in rows]), np.stack(frames)


@pytest.mark.parametrize("env_id", RENDERERS)
def test_an_observation_is_drawn_as_the_environment_showed_it(env_id):
    obs, action, frames = played(env_id)
    drawn = list(draw(env_id, obs[1:], action[1:]))
    assert len(drawn) == len(obs) - 1 > 10
    for t, frame in enumerate(drawn):
        np.testing.assert_array_equal(frame, frames[t + 1], err_msg=f"row {t + 1}")
    assert (frames[1] != frames[-1]).any()


@pytest.mark.parametrize("env_id", RENDERERS)
def test_what_is_drawn_is_what_the_picture_depends_on(env_id):
    """Every entry in `drawn` moves the picture, and no other does."""
    obs, action, _ = played(env_id)
    last, led = obs[-1:], action[-1:]
    (whole,) = draw(env_id, last, led)
    for i in range(obs.shape[1]):
        other = last.copy()
        other[0, i] = -0.9 * other[0, i] + 0.2
        (moved,) = draw(env_id, other, led)
        assert (moved != whole).any() == (i in RENDERERS[env_id].drawn), RENDERERS[env_id].names[i]


def test_entries_that_are_hidden_and_not_drawn_are_not_missed():
    hide = {"obs": [1, 3]}
    obs, action, frames = played("CartPole-v1", hide)
    assert obs.shape[1] == 2
    np.testing.assert_array_equal(np.stack(list(draw("CartPole-v1", obs, action, hide=hide))), frames)
    with pytest.raises(ValueError, match=r"env\.hide: expected what the picture of CartPole-v1 .* got \['angle'\]"):
        find_renderer("CartPole-v1", hide={"obs": [2]})


def test_the_environment_is_made_as_the_run_made_it():
    obs, action, frames = played("MountainCar-v0", kwargs={"goal_velocity": 0.01})
    given = {"goal_velocity": 0.01, "render_mode": "human"}
    np.testing.assert_array_equal(np.stack(list(draw("MountainCar-v0", obs, action, kwargs=given))), frames)
    with pytest.raises(TypeError, match="unheard"):
        list(draw("MountainCar-v0", obs, action, kwargs={"unheard": 1}))


@pytest.mark.parametrize(
    ("env_id", "wrappers", "got"),
    [
        ("LunarLander-v3", (), "LunarLander-v3"),
        ("no_such_module:CartPole-v1", (), "no_such_module:CartPole-v1"),
        ("CartPole-v1", ("stranger:Wrapper",), "CartPole-v1 with wrappers"),
    ],
)
def test_of_others_nothing_is_drawn_and_nothing_imported(env_id, wrappers, got):
    before = set(sys.modules)
    with pytest.raises(ValueError, match=rf"^env\.id: expected a model of images, or .*Pendulum-v1.* got {got}$"):
        find_renderer(env_id, wrappers=wrappers)
    assert set(sys.modules) == before


def test_a_stranger_that_took_the_id_is_not_drawn(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Pendulum-v1", entry_point="stranger.pendulum:PendulumEnv")
    monkeypatch.setitem(gymnasium.registry, "Pendulum-v1", spec)
    with pytest.raises(ValueError, match="got Pendulum-v1"):
        find_renderer("Pendulum-v1")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0"])
def test_a_dream_that_drifts_out_of_the_picture_is_drawn_as_far_outside(env_id):
    width = {"CartPole-v1": 4, "MountainCar-v0": 2}[env_id]
    far, farther = (np.full((1, width), x, np.float32) for x in (60.0, 3e8))
    action = np.eye(1, {"CartPole-v1": 2, "MountainCar-v0": 3}[env_id], dtype=np.float32)
    frames = [next(draw(env_id, obs, action)) for obs in (far, farther)]
    np.testing.assert_array_equal(*frames)


def test_what_is_no_number_cannot_be_drawn():
    obs = np.array([[0.0, np.nan, 0.0, 0.0]], np.float32)
    with pytest.raises(ValueError, match=r"expected numbers that can be drawn, got .*nan"):
        next(draw("CartPole-v1", obs, np.eye(1, 2, dtype=np.float32)))
