"""The adapter to stable-baselines3 beside stable-baselines3's own, on the same environments and actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from worldmodel_envs.stable_baselines import StableVecEnv


def make(mode=AutoresetMode.SAME_STEP, steps=12):
    def cartpole():
        return gymnasium.make("CartPole-v1", max_episode_steps=steps)

    return cartpole, gymnasium.vector.SyncVectorEnv([cartpole] * 3, autoreset_mode=mode)


def test_it_gives_what_the_usual_environments_of_stable_baselines_give():
    cartpole, vector = make()
    ours, usual = StableVecEnv(vector), DummyVecEnv([cartpole] * 3)
    ours.seed(5), usual.seed(5)
    np.testing.assert_array_equal(ours.reset(), usual.reset())
    actions = np.random.default_rng(0).integers(2, size=(60, 3))
    ends = []
    for action in actions:
        (obs, reward, done, infos), expected = ours.step(action), usual.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(reward, expected[1])
        np.testing.assert_array_equal(done, expected[2])
        for info, other in zip(infos, expected[3], strict=True):
            assert info.keys() == other.keys() and info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            np.testing.assert_array_equal(info.get("terminal_observation", 0), other.get("terminal_observation", 0))
        ends += [info["TimeLimit.truncated"] for info, over in zip(infos, done, strict=True) if over]
    assert {True, False} == set(ends)  # of both kinds
    ours.close(), usual.close()


def test_an_agent_learns_in_it():
    envs = StableVecEnv(make()[1])
    agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    agent.learn(48)
    assert agent.num_timesteps == 48
    assert envs.env_is_wrapped(gymnasium.Wrapper) == [False] * 3 and envs.get_attr("num_envs", [0, 1]) == [3, 3]


def test_environments_that_begin_anew_in_a_step_of_their_own_are_refused():
    with pytest.raises(ValueError, match=r"env: expected environments of AutoresetMode\.SAME_STEP, got .*NEXT_STEP"):
        StableVecEnv(make(AutoresetMode.NEXT_STEP)[1])
