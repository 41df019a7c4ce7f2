"""Wrappers by name: the first innermost, arguments passed on, mistakes named."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import ClipReward, RescaleObservation

from worldmodel.data.environment import make_environments
from worldmodel.types import ObservationSpec
from worldmodel_envs.wrapping import apply_wrappers


def test_wrappers_are_applied_in_order_with_their_arguments():
    inner = {"gymnasium.wrappers:ClipReward": {"max_reward": 0.25}}
    outer = {"gymnasium.wrappers:RescaleObservation": {"min_obs": np.float32(0), "max_obs": np.float32(1)}}
    env = apply_wrappers(gymnasium.make("MountainCar-v0"), [inner, outer])
    assert isinstance(env, RescaleObservation)
    assert isinstance(env.env, ClipReward)
    obs, _ = env.reset(seed=0)
    raw, _ = gymnasium.make("MountainCar-v0").reset(seed=0)
    space = gymnasium.make("MountainCar-v0").observation_space
    np.testing.assert_allclose(obs, (raw - space.low) / (space.high - space.low), rtol=1e-5)
    assert env.step(0)[1] == -1  # clipped from above only


def test_no_wrapper_leaves_the_environment_itself():
    env = gymnasium.make("CartPole-v1")
    assert apply_wrappers(env, []) is env


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            "gymnasium.wrappers:NoSuchWrapper",
            "a gymnasium.Wrapper of the module gymnasium.wrappers, got 'NoSuchWrapper'",
        ),
        ("gymnasium:make", "a gymnasium.Wrapper of the module gymnasium, got 'make'"),
        ({"gymnasium.wrappers:ClipReward": {"ceiling": 1}}, "wrappers that fit .*ClipReward with .*TypeError.*ceiling"),
        ("gymnasium.wrappers:ClipReward", "wrappers that fit .*ClipReward with {}"),
        ("no_such_module:Wrapper", "modules that are installed, got .*no_such_module"),
    ],
)
def test_a_wrapper_that_does_not_fit_is_named(entry, words):
    with pytest.raises(ValueError, match=rf"^env\.wrappers: expected {words}"):
        make_environments("CartPole-v1", count=1, wrappers=[entry])


def test_a_partial_view_arrives_as_an_image():
    wrappers = ["minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper"]
    with make_environments("MiniGrid-Empty-5x5-v0", count=1, wrappers=wrappers, image_size=32) as environments:
        assert environments.spec.observations == {"obs": ObservationSpec("image", (32, 32, 3))}
        assert environments.reset(0)["obs"].std() > 10
