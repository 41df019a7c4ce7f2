"""The networks that settings name."""

import pytest

from worldmodel.build_acting import build_agent
from worldmodel.build_networks import build_model
from worldmodel.config_io import read_config
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worlds import TINY, VECTOR_SPEC


@pytest.mark.parametrize(
    ("latent", "family", "gradient"),
    [
        ("gaussian", GaussianFamily(3, 0.02), "pathwise"),
        ("gaussian_full", FullGaussianFamily(3, 0.02), "pathwise"),
        ("categorical", CategoricalFamily(3, 5, 0.01), "reinforce"),
    ],
)
def test_a_family_of_latents_is_built_from_its_name_and_the_actors_gradient_follows_from_it(latent, family, gradient):
    settings = {"rssm.latent": latent, "rssm.stoch": 3, "rssm.min_std": 0.02, "rssm.classes": 5}
    config = read_config([], TINY | settings | {"acting.policy": "actor"})
    model = build_model(config, VECTOR_SPEC)
    assert model.dynamics.latent == family
    assert build_agent(config, model).gradient == gradient
