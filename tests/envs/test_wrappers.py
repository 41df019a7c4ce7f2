import os
import subprocess
import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

from worldmodel_envs.wrappers import ActionRepeat, MujocoRendering, use_headless_rendering, with_pixels
from worlds import Counting

IDLE = np.zeros(1, np.float32)


@pytest.mark.parametrize("times", [0, -2])
def test_an_action_cannot_be_repeated_less_than_once(times):
    with pytest.raises(ValueError, match=f"times: expected at least 1, got {times}"):
        ActionRepeat(Counting(), times)


def test_a_repeated_action_gives_the_last_observation_and_the_sum_of_rewards():
    env = ActionRepeat(Counting(), 2)
    for _ in range(3):
        env.reset()  # the third episode has four steps
    obs, reward, terminated, truncated, _ = env.step(IDLE)
    assert (obs["count"][2], reward, terminated, truncated) == (2, 21 + 22, False, False)
    obs, reward, terminated, truncated, _ = env.step(IDLE)
    assert (obs["count"][2], reward, terminated, truncated) == (4, 23 + 24, True, False)


@pytest.mark.parametrize("episode, length, flags", [(0, 2, (True, False)), (1, 3, (False, True))])
def test_an_episode_ends_in_the_middle_of_a_repeat(episode, length, flags):
    env = ActionRepeat(Counting(), 10)
    for _ in range(episode + 1):
        env.reset()
    obs, reward, *rest = env.step(IDLE)
    assert (obs["count"][2], reward) == (length, sum(10 * episode + t for t in range(1, length + 1)))
    assert tuple(rest[:2]) == flags


@pytest.mark.parametrize("only", [True, False])
def test_pixels_are_what_the_environment_renders(only):
    env = with_pixels(gymnasium.make("CartPole-v1", render_mode="rgb_array"), only=only)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        pixels = obs if only else obs["pixels"]
        np.testing.assert_array_equal(pixels, env.render())
        if not only:
            np.testing.assert_array_equal(obs["state"], np.float32(env.unwrapped.state))
        obs, *_ = env.step(0)
    env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have their own windows")
def test_rendering_goes_headless_only_where_nobody_chose_otherwise(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    use_headless_rendering()
    assert os.environ == {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "offscreen"}
    for chosen in ({"DISPLAY": ":0"}, {"MUJOCO_GL": "osmesa", "SDL_VIDEODRIVER": "dummy"}):
        monkeypatch.setattr(os, "environ", dict(chosen))
        use_headless_rendering()
        assert os.environ == chosen


def test_triton_can_be_loaded_after_a_mujoco_frame():
    pytest.importorskip("mujoco")
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    code = (
        "import gymnasium; from worldmodel_envs.wrappers import MujocoRendering, use_headless_rendering; "
        "use_headless_rendering(); "
        "MujocoRendering(gymnasium.make('InvertedPendulum-v5', render_mode='rgb_array')).close(); "
        "import triton"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # a crash would be this process's too


def test_mujoco_frames_stay_each_environments_own():
    pytest.importorskip("mujoco")
    use_headless_rendering()
    envs = [MujocoRendering(gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array")) for _ in range(2)]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    moved, still = envs
    before = [env.render() for env in envs]
    for _ in range(3):
        moved.step(np.float32([3]))
    after = [env.render() for env in envs]
    assert before[0].std() > 0
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    moved.close()
    np.testing.assert_array_equal(still.render(), after[1])  # the other's end leaves this one's frames alone
    still.close()
