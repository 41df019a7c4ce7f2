"""Observations seen through noise: what Gymnasium's check says, how large the noise is, and what is refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from worldmodel_envs.noisy import NoisyObservation
from worldmodel_envs.wrappers import ActionRepeat

IDS = [env_id for env_id in gymnasium.registry if env_id.startswith("worldmodel/Noisy")]


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_accepts_every_stock_environment_seen_through_noise(env_id):
    assert len(IDS) == 7
    env = gymnasium.make(env_id)
    check_env(env, skip_render_check=True)
    assert env.get_wrapper_attr("law")["kind"] in ("hidden_markov", "random_start")


def rows(env, steps, seed):
    """Observations and rewards of one walk under seeded actions, restarted where it ends."""
    env.action_space.seed(seed)
    found = [(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        obs, reward, terminated, _, _ = env.step(env.action_space.sample())
        found.append((obs, reward))
        if terminated:
            env.reset()
    return [np.array(column) for column in zip(*found, strict=True)]


def test_the_noise_has_the_size_that_it_says_and_leaves_the_state_alone():
    std = np.array([0.1, 0.2, 0.5])
    seen, rewards = [], []
    inner = PendulumEnv()
    env = NoisyObservation(inner, std.tolist(), reward_std=0.3)
    env.reset(seed=0)
    for _ in range(4000):
        angle, speed = inner.state
        obs, reward, _, _, _ = env.step(np.zeros(1, np.float32))
        cost = ((angle + np.pi) % (2 * np.pi) - np.pi) ** 2 + 0.1 * speed**2
        angle, speed = inner.state
        seen.append(obs - [np.cos(angle), np.sin(angle), speed])
        rewards.append(reward + cost)
    noise = np.column_stack([np.array(seen) / std, np.array(rewards) / 0.3])
    np.testing.assert_allclose(noise.T @ noise / len(noise), np.eye(4), atol=4.5 * (2 / len(noise)) ** 0.5)


def test_a_category_is_another_one_as_often_as_it_says_and_each_other_alike():
    env = NoisyObservation(gymnasium.make("FrozenLake-v1").unwrapped, error=0.4)
    env.reset(seed=0)
    shown = np.bincount([env._observe(5) for _ in range(20_000)], minlength=16) / 20_000
    expected = np.where(np.arange(16) == 5, 0.6, 0.4 / 15)
    assert (np.abs(shown - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 20_000)).all()


def test_a_seeded_reset_decides_the_noise():
    env = gymnasium.make("worldmodel/NoisyCartPole-v0").unwrapped
    env = NoisyObservation(env, 0.1)
    first, again, other = (rows(env, 30, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_only_wrappers_that_change_no_row_keep_the_law():
    assert NoisyObservation(TimeLimit(PendulumEnv(), 5), 0.1).law is not None
    assert NoisyObservation(ActionRepeat(PendulumEnv(), 2), 0.1).law is None
    assert NoisyObservation(gymnasium.make("worldmodel/LinearGaussian-v0"), 0.1).law is None


def test_a_map_that_is_drawn_at_random_has_no_law_and_is_refused():
    with pytest.raises(ValueError, match="map_name: expected a map by name, or desc, got None"):
        gymnasium.make("worldmodel/NoisyFrozenLake-v0", map_name=None)
    given = gymnasium.make("worldmodel/NoisyFrozenLake-v0", map_name=None, desc=["SF", "HG"])
    assert given.get_wrapper_attr("law")["emission"].shape[1] == 4


@pytest.mark.parametrize(
    ("stock", "arguments", "words"),
    [
        ("Pendulum-v1", {}, "std: expected finite numbers greater than zero, one or"),
        ("Pendulum-v1", {"std": [0.1, 0.1]}, "std: expected finite numbers"),
        ("Pendulum-v1", {"std": 0.0}, "std: expected finite numbers"),
        ("Pendulum-v1", {"std": 0.1, "error": 0.1}, "error: expected none"),
        ("Pendulum-v1", {"std": 0.1, "reward_std": 0.0}, "reward_std: expected a finite number greater than zero"),
        ("FrozenLake-v1", {"error": 1.0}, "error: expected a probability below one"),
        ("FrozenLake-v1", {"error": 0.1, "std": 0.1}, "std: expected none"),
        ("Blackjack-v1", {"std": 0.1}, "env.observation_space: expected a Box of float numbers or a Discrete"),
    ],
)
def test_what_does_not_fit_is_refused(stock, arguments, words):
    with pytest.raises(ValueError, match=words):
        NoisyObservation(gymnasium.make(stock), **arguments)
