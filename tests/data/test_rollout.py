import re

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.rollout import Rollout
from worldmodel.seeding import make_generator
from worlds import Counting, register

COUNT, STEPS, SEED = 3, 31, 40


class Staggered(Counting):
    """A Counting world whose episode e lasts 2 + (e + instance) % 3 steps, so that neighbours end at other times."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        over = self.t >= 2 + (self.episode + self.instance) % 3
        terminated = over and self.episode % 2 == 0
        return obs, reward, terminated, over and not terminated, info


@pytest.fixture(autouse=True, scope="module")
def _worlds():
    register()
    if "Staggered-v0" not in gymnasium.registry:
        gymnasium.register("Staggered-v0", Staggered, disable_env_checker=True)


def scripted_action(call, i):
    """What environment i is told at the policy's call: sixteenths, so that every number below is exact."""
    return ((call * COUNT + i) % 33 - 16) / 16


class Caller:
    """A policy whose every action is different and known; it notes what it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, rows):
        self.shown.append((rows.obs["count"].copy(), rows.is_first.copy()))
        call = len(self.shown) - 1
        return np.array([[scripted_action(call, i)] for i in range(COUNT)], np.float32)


def expected_rows(i):
    """The rows of environment i, from the rules that Staggered states."""
    rows, episode = [], 0
    while len(rows) < STEPS:
        length = 2 + (episode + SEED + i) % 3
        for t in range(length + 1):
            action = scripted_action(len(rows) - 1, i) if t else 0.0
            row = {
                "count": [SEED + i, episode, t],
                "action": [5 * action],  # the action space is [-5, 5]
                "prev_action": [action],
                "reward": 10 * episode + t if t else 0,
                "is_first": t == 0,
                "is_last": t == length,
                "is_terminal": t == length and episode % 2 == 0,
                "episode_step": t,
            }
            rows.append(row)
        episode += 1
    return rows[:STEPS]


def row_of(rows, i):
    named = {**rows.obs, **rows._asdict()}
    del named["obs"]
    return {name: x[i].tolist() for name, x in named.items()}


def collect(policy, asynchronous=False, seed=SEED, env_id="Staggered-v0"):
    with make_environments(env_id, count=COUNT, asynchronous=asynchronous) as environments:
        rollout = Rollout(environments, policy, seed)
        return [rollout.step() for _ in range(STEPS)]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["one process", "a worker each"])
def test_every_row_is_the_one_that_the_environments_made(asynchronous):
    steps = collect(Caller(), asynchronous)
    for i in range(COUNT):
        got = [row_of(rows, i) for rows in steps]
        assert got == expected_rows(i)
        assert sum(row["is_last"] and not row["is_terminal"] for row in got) >= 2  # truncated ones among them


def test_rows_have_the_dtypes_that_are_stored():
    for rows in collect(Caller())[:5]:
        assert {name: getattr(rows, name).dtype.name for name in rows._fields[1:]} == {
            "prev_action": "float32",
            "reward": "float32",
            "is_first": "bool",
            "is_last": "bool",
            "is_terminal": "bool",
            "episode_step": "int32",
        }


def test_the_policy_is_shown_each_row_before_it_acts():
    policy = Caller()
    steps = collect(policy)
    for (count, is_first), rows in zip(policy.shown, steps, strict=False):
        np.testing.assert_array_equal(count, rows.obs["count"])
        np.testing.assert_array_equal(is_first, rows.is_first)
    assert len(policy.shown) == STEPS - 1


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 2), (1, 1)])
def test_actions_of_the_wrong_shape_are_refused(shape):
    def policy(rows):
        return np.zeros(shape, np.float32)

    with make_environments("Counting-v0", count=COUNT) as environments:
        rollout = Rollout(environments, policy, seed=0)
        rollout.step()
        with pytest.raises(ValueError, match=re.escape(f"actions of shape (3, 1), got {shape}")):
            rollout.step()


VALID = {"CartPole-v1": [0.0, 1.0], "Pendulum-v1": [0.5]}


@pytest.mark.parametrize(
    ("env", "action", "expected"),
    [
        ("CartPole-v1", [0.7, 0.3], "a single one among zeros for each choice, of 2 classes"),  # probabilities
        ("CartPole-v1", [0.0, 0.0], "a single one among zeros"),
        ("CartPole-v1", [1.0, 1.0], "a single one among zeros"),
        ("Pendulum-v1", [np.nan], "finite numbers"),
    ],
)
def test_what_is_no_action_is_refused_before_it_is_executed(env, action, expected):
    with make_environments(env, count=2) as environments:
        rollout = Rollout(environments, lambda rows: [VALID[env], action], seed=0)
        rollout.step()
        with pytest.raises(ValueError, match=f"^policy: expected actions that are {expected}.*, got "):
            rollout.step()


def cartpole(seed, asynchronous=False):
    with make_environments("CartPole-v1", count=COUNT, asynchronous=asynchronous) as environments:
        policy = RandomPolicy(environments.spec.action, make_generator(seed, stream=1))
        rollout = Rollout(environments, policy, seed)
        return np.stack([rollout.step().obs["obs"] for _ in range(STEPS)])


def test_a_seed_decides_every_row_whatever_the_process():
    rows = cartpole(5)
    np.testing.assert_array_equal(rows, cartpole(5))
    np.testing.assert_array_equal(rows, cartpole(5, asynchronous=True))
    assert not np.isclose(rows[0], cartpole(6)[0]).all(-1).all()
    assert not np.isclose(rows[0, 0], rows[0, 1]).any()  # each environment has a seed of its own


def test_generators_repeat_for_the_same_seed_and_stream_and_differ_for_any_other():
    draws = {
        (seed, stream): torch.rand(4, generator=make_generator(seed, stream=stream)).tolist()
        for seed in range(3)
        for stream in range(3)
    }
    assert draws[2, 1] == torch.rand(4, generator=make_generator(2, stream=1)).tolist()
    values = np.array(list(draws.values())).ravel()
    assert len(set(values)) == len(values)  # (seed, stream) and (stream, seed) among them


def test_a_generator_of_another_rank_draws_other_numbers_and_that_of_rank_0_the_same_as_without_ranks():
    draws = [torch.rand(4, generator=make_generator(2, stream=1, rank=rank)).tolist() for rank in range(3)]
    assert draws[0] == torch.rand(4, generator=make_generator(2, stream=1)).tolist()
    assert len({x for draw in draws for x in draw}) == 12


def test_a_replaced_environment_begins_an_episode_whose_first_row_has_no_action_and_no_reward():
    with make_environments("Faulty-v0", count=1, restarts=1, kwargs={"fault": "raise"}) as environments:
        policy = RandomPolicy(environments.spec.action, make_generator(0, stream=0))
        rollout = Rollout(environments, policy, SEED)
        rows = [rollout.step() for _ in range(6)]
    # An episode of two steps, the reset of the next, and a third step that fails.
    assert [row.is_first.item() for row in rows] == [True, False, False, True, True, False]
    assert [row.is_last.item() for row in rows] == [False, False, True, False, False, False]
    assert [row.episode_step.item() for row in rows] == [0, 1, 2, 0, 0, 1]
    assert not rows[4].prev_action.any() and not rows[4].reward.any() and not rows[4].is_terminal.any()
    assert rows[5].prev_action.all()
