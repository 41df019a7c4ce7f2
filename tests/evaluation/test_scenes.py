"""Scenes: filtered where the model has seen, imagined where it has not, the truth beside both."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from worldmodel.behaviour.imagination import dream, filter_samples
from worldmodel.data.batches import select
from worldmodel.data.policy import random_actions
from worldmodel.evaluation import scenes
from worldmodel.evaluation.scenes import make_scenes, principal_plane
from worldmodel.types import State
from worlds import MIXED_SPEC, make_batch, make_model

SETTINGS = {"context": 3, "horizon": 4, "samples": 5, "shown": 2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scenes_of(model, batch, **others):
    return make_scenes(model, batch, **{**SETTINGS, **others}, generator=seeded())


def test_the_context_is_filtered_and_what_follows_is_the_dream_of_the_same_noise():
    model, batch = make_model(MIXED_SPEC), make_batch(MIXED_SPEC, first=())
    got = scenes_of(model, batch).leaves
    shown = select(batch, slice(2))
    dreamt = dream(model, shown, context=3, horizon=4, samples=5, generator=seeded()).prediction
    states = filter_samples(model, select(shown, rows=slice(3)), 5, seeded())
    filtered = [model.decode(State(*(x[n] for x in states))) for n in range(5)]
    for name, scene in got.items():
        seen = torch.stack([likelihoods[name].mean for likelihoods in filtered]).detach()
        expected = torch.cat([seen, dreamt[name]], 2).numpy()  # [N, B, R, ...]
        if name == "reward":
            expected[:, :, 0] = np.nan  # the first row has none
        np.testing.assert_allclose(scene.mean, expected.mean(0), rtol=1e-4, atol=1e-4)
        kept = 1 if scene.leaf.kind == "image" else 5
        np.testing.assert_allclose(scene.paths, expected[:kept], rtol=1e-4, atol=1e-4)
        assert (scene.bands is not None) == (scene.leaf.kind == "vector")


def test_the_truth_is_what_was_stored_and_a_first_row_has_no_reward():
    batch = make_batch(MIXED_SPEC, first=())
    got = scenes_of(make_model(MIXED_SPEC), batch).leaves
    for path in MIXED_SPEC.observations:
        np.testing.assert_array_equal(got[path].truth, batch.obs[path][:2])
    np.testing.assert_array_equal(got["reward"].truth[:, 1:, 0], batch.reward[:2, 1:])
    assert np.isnan(got["reward"].truth[:, 0]).all() and np.isnan(got["reward"].bands[:, :, 0]).all()
    assert np.isfinite(got["reward"].bands[:, :, 1:]).all() and batch.reward.isfinite().all()
    np.testing.assert_array_equal(got["continue"].truth[..., 0], ~batch.is_terminal[:2])


def test_bands_are_quantiles_of_observations_and_not_of_their_means(monkeypatch):
    monkeypatch.setattr(scenes, "DRAWS", 4000)
    got = scenes_of(make_model(std=0.5, standardise_targets=False), make_batch(first=()), samples=1).leaves["obs"]
    expected = got.paths[0] + 0.5 * norm.ppf(scenes.QUANTILES)[:, None, None, None]
    np.testing.assert_allclose(got.bands, expected, atol=4.5 * 0.5 * 2.2 / np.sqrt(4000))  # sd of a 5 % quantile: 2.1


def test_the_model_does_not_see_what_it_is_shown_beside():
    model, batch = make_model(), make_batch(first=())
    blind = batch._replace(obs={"obs": batch.obs["obs"].clone()})
    blind.obs["obs"][:, 3:] += 100
    here, there = (scenes_of(model, rows) for rows in (batch, blind))
    np.testing.assert_array_equal(here.leaves["obs"].bands, there.leaves["obs"].bands)
    assert not np.array_equal(here.leaves["obs"].truth, there.leaves["obs"].truth)
    assert not np.array_equal(here.latents.filtered, there.latents.filtered)


def test_under_other_actions_nothing_is_known_beyond_the_context():
    model, batch = make_model(), select(make_batch(first=()), rows=slice(3))
    action = random_actions(model.spec.action, (3, 4), seeded(1))
    one, other = (scenes_of(model, batch, action=a) for a in (action, -action))
    assert one.leaves["obs"].truth.shape == (2, 3, 3)
    assert one.leaves["obs"].mean.shape == (2, 7, 3)
    assert one.latents.filtered.shape == (2, 3, 2) and one.latents.imagined.shape == (5, 2, 4, 2)
    np.testing.assert_array_equal(one.leaves["obs"].mean[:, :3], other.leaves["obs"].mean[:, :3])
    assert np.abs(one.leaves["obs"].mean - other.leaves["obs"].mean)[:, 3:].min() > 0
    with pytest.raises(ValueError, match="at most 3, the longest episode; got 7"):
        scenes_of(model, batch)


def test_the_plane_is_that_of_the_largest_eigenvalues_of_the_covariance(generator):
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.5])
    centre, axes, explained = principal_plane(x + 7)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    np.testing.assert_allclose(centre, x.numpy().mean(0) + 7)
    for i, column in enumerate((-1, -2)):
        expected = vectors[:, column] * np.sign(vectors[np.abs(vectors[:, column]).argmax(), column])
        np.testing.assert_allclose(axes[:, i], expected, atol=1e-8)
        assert explained[i].item() == pytest.approx(values[column] / values.sum())
