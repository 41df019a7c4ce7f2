"""The hidden Markov world does what its law says, by counting."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldmodel_envs.hidden_markov import HiddenMarkov

STEPS = 40_000


def walk(env, steps=STEPS, seed=0):
    """States, actions, colours, rewards and ends of one long walk under random actions."""
    actions = np.random.default_rng(seed).integers(0, 3, steps)
    env.reset(seed=seed)
    rows = []
    for action in actions:
        before = env._state
        colour, reward, terminated, _, _ = env.step(action)
        rows.append((before, action, env._state, colour, reward, terminated))
    return [np.array(column) for column in zip(*rows, strict=True)]


def frequencies(shape, *indices):
    counts = np.zeros(shape)
    np.add.at(counts, indices, 1)
    total = counts.sum(-1, keepdims=True)
    return counts / total, total


def assert_counted(found, law):
    """Frequencies agree with probabilities within 4.5 standard errors; what cannot happen never did."""
    frequency, total = found
    assert (np.abs(frequency - law) <= 4.5 * np.sqrt(law * (1 - law) / total) + 1e-12).all()


@pytest.mark.filterwarnings("ignore:.*render.*")
@pytest.mark.parametrize("termination", [0.0, 0.3])
def test_gymnasium_accepts_it(termination):
    check_env(gymnasium.make("worldmodel/HiddenMarkov-v0", termination=termination).unwrapped)


@pytest.mark.parametrize("settings", [{}, {"states": 5, "colours": 2, "slip": 0.4, "noise": 0.3, "termination": 0.25}])
def test_what_happens_is_as_frequent_as_the_law_says(settings):
    env = HiddenMarkov(**settings)
    law = env.law
    before, action, after, colour, reward, terminated = walk(env)
    assert_counted(frequencies(law["transition"].shape, action, before, after), law["transition"])
    assert_counted(frequencies(law["emission"].shape, after, colour), law["emission"])
    ends = np.stack([1 - law["termination"], law["termination"]], -1)
    assert_counted(frequencies(ends.shape, after, terminated.astype(int)), ends)
    surprise = (reward - law["reward_mean"][after]) / law["reward_std"][after]
    assert abs(surprise.mean()) < 4 / STEPS**0.5 and abs(surprise.std() - 1) < 4 / (2 * STEPS) ** 0.5


def test_an_episode_begins_anywhere_on_the_ring():
    env = HiddenMarkov()
    env.reset(seed=0)
    starts = []
    for _ in range(4000):
        env.reset()
        starts.append(env._state)
    assert_counted(frequencies(8, np.array(starts)), env.law["initial"])


def test_neighbours_share_a_colour_and_the_moves_are_left_stay_and_right():
    law = HiddenMarkov(slip=0.0, noise=0.0).law
    assert law["emission"].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert law["transition"].argmax(-1)[:, 0].tolist() == [7, 0, 1]


def test_time_limits_truncate_and_do_not_terminate():
    env = gymnasium.make("worldmodel/HiddenMarkov-v0", max_episode_steps=5)
    env.reset(seed=0)
    ends = [env.step(1)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"states": 2}, "states: expected at least 3"),
        ({"colours": 9}, "colours: expected 2 to states = 8, got 9"),
        ({"slip": 1.5}, "slip: expected a probability, got 1.5"),
        ({"noise": -0.1}, "noise: expected a probability"),
        ({"termination": 2}, "termination: expected a probability"),
        ({"reward_std": 0.0}, "reward_std: expected a number greater than zero"),
    ],
)
def test_impossible_worlds_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        HiddenMarkov(**settings)
