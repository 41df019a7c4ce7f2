"""MiniGrid's view as classes: every cell's object and colour, and nothing else."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldmodel.data.environment import make_environments
from worldmodel_envs.grids import GridClasses

pytest.importorskip("minigrid")


def test_each_cell_has_its_object_and_its_colour():
    env = GridClasses(gymnasium.make("MiniGrid-MemoryS7-v0"))
    obs, _ = env.reset(seed=1)
    image = env.unwrapped.gen_obs()["image"]
    np.testing.assert_array_equal(obs[:49].reshape(7, 7), image[..., 0])
    np.testing.assert_array_equal(obs[49:].reshape(7, 7), image[..., 1])
    assert len(set(obs[:49])) > 2  # walls, floor and something to remember


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_it_is_a_sound_environment_of_classes_with_a_mass():
    check_env(GridClasses(gymnasium.make("MiniGrid-MemoryS7-v0")), skip_render_check=True)
    wrappers = ["worldmodel_envs.grids:GridClasses"]
    with make_environments("MiniGrid-MemoryS7-v0", count=1, wrappers=wrappers) as environments:
        (leaf,) = environments.spec.observations.values()
        assert (leaf.kind, leaf.classes) == ("categorical", (11,) * 49 + (6,) * 49)


def test_other_observations_are_refused():
    with pytest.raises(ValueError, match=r"^env: expected a Dict with an image of 3 numbers a cell, got Box"):
        GridClasses(gymnasium.make("CartPole-v1"))
