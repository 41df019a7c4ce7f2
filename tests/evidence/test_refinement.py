"""Refinement against closed forms: from a bad q to the best of its family, on models whose posterior is known."""

import pytest
import torch

from oracles.gaussian_worlds import normal, random_model, random_rows
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.refinement import RefinedSequence, _differentiable_bound, refine
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.oracles.distributions import Gaussian, OneHot
from worldmodel.oracles.markov_gaussian import MarkovGaussian
from worldmodel.types import LatentSequence
from worlds import CATEGORICAL, FULL, GAUSSIAN, make_batch, make_model


def world(generator):
    model = random_model(generator, n=2)
    return model, *random_rows(model, generator, B=3, T=4, missing=False)


def chain(q, refined):
    """The refined posterior of a linear-Gaussian model, as the Markov chain that it still is."""
    moved = Gaussian(q.f, q.V).shifted(refined.offset)
    return MarkovGaussian(q.F, moved.mean, moved.cov)


def test_a_zero_offset_changes_nothing_and_the_families_move_as_they_say(generator):
    for family in (GaussianFamily(4, 0.1), FullGaussianFamily(4, 0.1), CategoricalFamily(2, 4, 0.01)):
        raw, offset = (normal(generator, 5, family.parameters) for _ in range(2))
        q = family.distribution(raw)
        assert q.parameters == family.parameters
        assert not q.shifted(torch.zeros_like(raw)).kl(q).any()
        assert not q.shifted(offset).kl(family.distribution(raw + offset)).any()
    L = normal(generator, 3, 3).tril() + 3 * torch.eye(3, dtype=torch.float64)
    gaussian, onehot = Gaussian(normal(generator, 5, 3), L @ L.mT), OneHot(normal(generator, 5, 4).log_softmax(-1))
    for q in (gaussian, onehot):
        zero = torch.zeros(5, q.parameters, dtype=torch.float64)
        torch.testing.assert_close(q.shifted(zero).kl(q), torch.zeros(5, 1, dtype=torch.float64), rtol=0, atol=1e-13)
        moved = q.shifted(normal(generator, 5, q.parameters))
        assert (moved.kl(q) > 1e-3).all()


def test_refinement_closes_the_gap_of_a_family_that_holds_the_posterior(generator):
    """Exact F, but wrong means and covariances: offsets alone lead back to the smoother."""
    model, x, action = world(generator)
    exact = model.posterior(x, action)
    wrong = MarkovGaussian(exact.F, exact.f + 0.5 * normal(generator, *exact.f.shape), 4 * exact.V)
    sequence = model.given(x, action, proposal=wrong)
    before = model.log_evidence(x, action).sum(1) - model.elbo(wrong, x, action).sum(1)
    assert (before > 1).all()
    refined = refine(sequence, steps=120, samples=8, learning_rate=0.1, check=8, generator=generator)
    gap = model.log_evidence(x, action).sum(1) - model.elbo(chain(wrong, refined), x, action).sum(1)
    assert (gap < 0.05).all(), (before, gap)


def test_refinement_finds_the_best_of_a_family_that_does_not(generator):
    """q that ignores z_{t-1} is a mean field: the best has the smoothed means and V_t = 1 / precision_tt.

    Minimising KL(q || N(m, C)) over products of Gaussians: means m, covariances the inverses of C^-1's diagonal blocks.
    """
    model, x, action = world(generator)
    exact = model.posterior(x, action)
    B, T, n = exact.f.shape
    joint = exact.joint()
    precision = torch.linalg.inv(joint.cov)
    blocks = [precision[:, t * n : (t + 1) * n, t * n : (t + 1) * n] for t in range(T)]
    V = torch.stack([torch.linalg.inv(block) for block in blocks], 1)
    best = MarkovGaussian(torch.zeros_like(exact.F), joint.mean.unflatten(-1, (T, n)), V)
    start = MarkovGaussian(best.F, best.f + 0.3 * normal(generator, B, T, n), 3 * V)
    refined = refine(
        model.given(x, action, proposal=start), steps=120, samples=8, learning_rate=0.1, check=8, generator=generator
    )
    limit, reached = (model.elbo(q, x, action).sum(1) for q in (best, chain(start, refined)))
    assert (model.log_evidence(x, action).sum(1) - limit > 0.05).all()
    assert (limit - model.elbo(start, x, action).sum(1) > 1).all()
    torch.testing.assert_close(reached, limit, rtol=0, atol=0.05)


@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_a_world_models_bound_rises_and_its_weights_stay(latent, generator):
    model, batch = make_model(latent=latent), make_batch(length=4, first=())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    sequence = model.given(batch)
    refined = refine(sequence, steps=30, learning_rate=0.1, check=8, generator=generator)
    assert isinstance(refined, LatentSequence)
    before, after = (mean_elbo(q, 64, generator=generator) for q in (sequence, refined))
    assert (after - before > 0.5).all(), (before, after)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_at_the_exact_posterior_every_gradient_vanishes_and_every_draw_is_the_evidence(generator):
    model, x, action = world(generator)
    sequence = model.given(x, action)
    offset = torch.zeros(3, 4, 6, dtype=torch.float64, requires_grad=True)
    bound = _differentiable_bound(sequence, offset, 1, generator)
    (gradient,) = torch.autograd.grad(bound.sum(), offset)
    assert gradient.abs().max() < 1e-10
    exact = model.log_evidence(x, action).sum(1)
    for value in (mean_elbo(sequence, 1, generator=generator), bound.detach()):
        torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)


def test_offsets_that_do_not_help_are_dropped_and_padding_has_none(generator):
    """One step so long that it makes things worse; and rows that do not count, whose q is not moved."""
    model, x, action = world(generator)
    valid = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    exact = model.given(x, action, valid=valid)
    start = MarkovGaussian(exact.q.F, exact.q.f + 1, exact.q.V)
    sequence = model.given(x, action, valid=valid, proposal=start)
    refined = refine(sequence, steps=5, generator=generator)
    assert not refined.offset[2, 2:].any() and refined.offset[:, :2].any()
    near = MarkovGaussian(exact.q.F, exact.q.f + 0.01, exact.q.V)
    sequence = model.given(x, action, valid=valid, proposal=near)
    assert not refine(sequence, steps=1, learning_rate=3.0, generator=generator).offset.any()


def test_the_bound_is_that_of_sequence_elbo_and_mistakes_are_refused(generator):
    """The KL sampled and the KL in closed form: one bound, and the first has the smaller noise near the posterior."""
    model, x, action = world(generator)
    sequence = RefinedSequence(model.given(x, action), 0.05 * normal(generator, 3, 4, 6))
    draws = sequence_elbo(sequence, 1000, generator=generator).elbo.sum(-1)
    sampled = torch.stack([mean_elbo(sequence, 8, generator=generator) for _ in range(50)])
    error = draws.std(0) / 1000**0.5
    assert ((sampled.mean(0) - draws.mean(0)).abs() < 4 * error).all()
    assert (sampled.std(0) * 8**0.5 < 0.5 * draws.std(0)).all()
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        refine(model.given(x, action), steps=0)
    with pytest.raises(ValueError, match="learning_rate: expected a number greater than zero"):
        refine(model.given(x, action), learning_rate=0.0)
