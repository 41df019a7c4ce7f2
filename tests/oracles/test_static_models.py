"""Mixture, factor analysis and random effects: closed forms against brute force, the identity, and EM."""

import dataclasses

import pytest
import torch
from torch.distributions import MultivariateNormal

from latent_paths import discrete_elbo_and_gap, gaussian_elbo, log_weights
from oracles.gaussian_worlds import covariance, gaussian_kl, normal
from worldmodel.oracles.distributions import Gaussian
from worldmodel.oracles.factor_analysis import FactorAnalysis, one_step, probabilistic_pca
from worldmodel.oracles.hierarchical import RandomEffects
from worldmodel.oracles.mixture import GaussianMixture
from worldmodel.types import LatentSequence

EXACT = {"rtol": 1e-10, "atol": 1e-10}
ROUNDING = 1e-9  # of sums over a few hundred data points, where EM has come to rest


def mixture(generator, K=3, D=2):
    cov = torch.stack([covariance(generator, D) for _ in range(K)])
    return GaussianMixture(normal(generator, K).softmax(-1), 2 * normal(generator, K, D), cov)


def factors(generator, n=2, D=4):
    return FactorAnalysis(normal(generator, D, n), normal(generator, D), 0.1 + normal(generator, D).square())


def effects(generator, D=2):
    between, within = (0.2 + normal(generator).square() for _ in range(2))
    return RandomEffects(normal(generator, D), between, within)


def grouped(model, generator, B=6, n=4):
    """Groups of unequal size, one of them empty."""
    x = model.simulate(B, n, generator)[1]
    x[1, 2:] = x[2, 0] = x[3] = torch.nan
    return x


def random_q(generator, B, n):
    return Gaussian(normal(generator, B, n), torch.stack([covariance(generator, n) for _ in range(B)]))


def gaussian_case(name, generator):
    """A model with Gaussian latents and data for it: factor analysis with all entries seen, or random effects."""
    model = factors(generator) if name == "factors" else effects(generator)
    return model, model.simulate(6, generator)[1] if name == "factors" else grouped(model, generator)


def test_the_evidence_of_a_mixture_is_the_sum_over_its_components(generator):
    model = mixture(generator)
    x = model.simulate(50, generator)[1]
    density = sum(model.weight[k] * MultivariateNormal(model.mean[k], model.cov[k]).log_prob(x).exp() for k in range(3))
    torch.testing.assert_close(model.log_evidence(x), density.log(), **EXACT)
    torch.testing.assert_close(model.posterior(x).sum(-1), torch.ones(50).double(), **EXACT)


def test_the_bound_of_a_mixture_plus_the_gap_is_its_evidence(generator):
    model = mixture(generator)
    x, q = model.simulate(6, generator)[1], normal(generator, 6, 3).softmax(-1)
    bound, gap, evidence = discrete_elbo_and_gap(model.given(x, proposal=q), 3)
    kl = (q * (q.log() - model.posterior(x).log())).sum(-1)
    torch.testing.assert_close(bound + kl, model.log_evidence(x), **EXACT)
    torch.testing.assert_close((gap, evidence), (kl, model.log_evidence(x)), **EXACT)
    torch.testing.assert_close(model.elbo(q, x), bound, **EXACT)
    assert isinstance(model.given(x), LatentSequence)
    exact, gap, _ = discrete_elbo_and_gap(model.given(x), 3)
    torch.testing.assert_close(exact, model.log_evidence(x), **EXACT)
    assert (gap.abs() < 1e-12).all()


def test_the_evidence_of_random_effects_is_that_of_one_dense_gaussian(generator):
    model = effects(generator)
    x = grouped(model, generator)
    for b, group in enumerate(x):
        rows = group[~torch.isnan(group[:, 0])]
        size, D = rows.shape
        if size == 0:
            assert model.log_evidence(x)[b] == 0
            continue
        effect = model.between * torch.ones(size, size).double() + model.within * torch.eye(size).double()
        cov = torch.kron(effect, torch.eye(D).double())
        expected = MultivariateNormal(model.mean.repeat(size), cov).log_prob(rows.flatten())
        torch.testing.assert_close(model.log_evidence(x)[b], expected, **EXACT)


@pytest.mark.parametrize("name", ["factors", "effects"])
def test_closed_forms_agree_with_the_kalman_filter(name, generator):
    model, x = gaussian_case(name, generator)
    chain = model.chain() if name == "factors" else model.chain(x.shape[1])
    rows = x.flatten(1)[:, None]
    torch.testing.assert_close(model.log_evidence(x), chain.log_evidence(rows)[:, 0], **EXACT)
    smoothed, posterior = chain.smooth(rows), model.posterior(x)
    torch.testing.assert_close(smoothed.mean[:, 0], posterior.mean, **EXACT)
    torch.testing.assert_close(smoothed.cov[:, 0], posterior.cov, **EXACT)


@pytest.mark.parametrize("name", ["factors", "effects"])
def test_the_bound_plus_the_gap_is_the_evidence(name, generator):
    model, x = gaussian_case(name, generator)
    exact, q = model.posterior(x), random_q(generator, 6, model.posterior(x).mean.shape[-1])
    bound = gaussian_elbo(model.given(x, proposal=q), q)[:, 0]
    kl = torch.stack([gaussian_kl(q.mean[b], q.cov[b], exact.mean[b], exact.cov[b]) for b in range(6)])
    torch.testing.assert_close(bound + kl, model.log_evidence(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.elbo(q, x), bound, rtol=1e-9, atol=1e-9)
    assert isinstance(model.given(x), LatentSequence)
    z = normal(generator, 3, 6, 1, q.mean.shape[-1])
    evidence = model.log_evidence(x).expand(3, -1)
    torch.testing.assert_close(log_weights(model.given(x), z)[..., 0], evidence, **EXACT)
    torch.testing.assert_close(log_weights(model.given(x, proposal=exact), z)[..., 0], evidence, **EXACT)


def em_steps(model, x, steps, **options):
    """EM, asserting at every step what makes it coordinate ascent on the bound; the last model."""
    evidence = model.log_evidence(x).sum()
    for _ in range(steps):
        q = model.posterior(x)
        closed = model.elbo(q, x).sum()
        torch.testing.assert_close(closed, evidence, rtol=1e-10, atol=1e-9)
        model = model.m_step(q, x, **options)
        raised = model.elbo(q, x).sum()
        evidence = model.log_evidence(x).sum()
        assert closed < raised + ROUNDING and raised < evidence + ROUNDING
    return model


@pytest.mark.parametrize("make", [mixture, factors, effects])
def test_em_is_coordinate_ascent_on_the_bound(make, generator):
    truth, model = make(generator), make(generator)
    x = grouped(truth, generator, B=60) if make is effects else truth.simulate(200, generator)[1]
    fitted = em_steps(model, x, 15)
    assert fitted.log_evidence(x).sum() - model.log_evidence(x).sum() > 5


@pytest.mark.parametrize("make", [mixture, factors, effects])
def test_the_m_step_is_a_maximum_of_the_bound(make, generator):
    model = make(generator)
    x = grouped(model, generator) if make is effects else model.simulate(20, generator)[1]
    q = model.posterior(x)
    best = model.m_step(q, x)
    top = best.elbo(q, x).sum()
    for field in dataclasses.fields(best):
        value = getattr(best, field.name)
        for _ in range(5):
            if field.name == "weight":
                changed = (value.log() + 0.01 * normal(generator, *value.shape)).softmax(-1)
            elif field.name == "cov":
                changed = value * (1 + 0.01 * normal(generator, 1))
            elif field.name in ("noise", "between", "within"):
                changed = value * (0.01 * normal(generator, *value.shape)).exp()
            else:
                changed = value + 0.01 * normal(generator, *value.shape)
            assert dataclasses.replace(best, **{field.name: changed}).elbo(q, x).sum() < top, field.name


def test_probabilistic_pca_is_where_isotropic_em_ends(generator):
    x = factors(generator).simulate(300, generator)[1]
    best = probabilistic_pca(x, 2)
    start = dataclasses.replace(factors(generator), noise=torch.ones(4).double())
    fitted = em_steps(start, x, 30, isotropic=True)
    for _ in range(600):
        fitted = fitted.m_step(fitted.posterior(x), x, isotropic=True)
    torch.testing.assert_close(fitted.log_evidence(x).sum(), best.log_evidence(x).sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(fitted.W @ fitted.W.mT, best.W @ best.W.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [mixture, factors, effects])
def test_simulated_data_have_the_moments_of_the_model(make, generator):
    model, N = make(generator), 40_000
    if make is effects:
        x = model.simulate(N, 2, generator)[1].flatten(1)
        pair = model.between * torch.ones(2, 2).double() + model.within * torch.eye(2).double()
        mean, cov = model.mean.repeat(2), torch.kron(pair, torch.eye(2).double())
    elif make is factors:
        x, marginal = model.simulate(N, generator)[1], model.marginal(1)
        mean, cov = marginal.mean[0], marginal.cov
    else:
        x, mean = model.simulate(N, generator)[1], model.weight @ model.mean
        apart = model.mean - mean
        cov = torch.einsum("k,kij->ij", model.weight, model.cov + apart[:, :, None] * apart[:, None])
    centred = x - mean
    assert (centred.mean(0).abs() < 4.5 * (cov.diagonal() / N).sqrt()).all()
    products = centred[:, :, None] * centred[:, None]
    assert ((products.mean(0) - cov).abs() < 4.5 * products.std(0) / N**0.5).all()


def test_an_entry_of_factor_analysis_may_be_missing(generator):
    model = factors(generator)
    x = model.simulate(3, generator)[1]
    x[0, 1] = torch.nan
    seen = torch.tensor([0, 2, 3])
    marginal = model.marginal(1)
    expected = MultivariateNormal(marginal.mean[0, seen], marginal.cov[seen][:, seen]).log_prob(x[0, seen])
    weights = log_weights(model.given(x), normal(generator, 2, 3, 1, 2))[:, 0, 0]
    torch.testing.assert_close(weights, expected.expand(2), **EXACT)


def test_one_step_is_a_chain_of_one(generator):
    q = random_q(generator, 4, 3)
    joint = one_step(q).joint()
    torch.testing.assert_close((joint.mean, joint.cov), (q.mean, q.cov))


def test_what_does_not_fit_is_refused(generator, unannotated):
    model, groups = mixture(generator), effects(generator)
    with pytest.raises(ValueError, match="weight: expected probabilities that sum to one"):
        dataclasses.replace(model, weight=2 * model.weight)
    with pytest.raises(ValueError, match=r"cov\[0\]: expected a positive definite matrix"):
        dataclasses.replace(model, cov=-model.cov)
    with pytest.raises(ValueError, match=r"x: expected shape \[any, 2\], got \[5, 3\]"):
        model.log_evidence(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="noise: expected finite positive numbers"):
        dataclasses.replace(factors(generator), noise=torch.zeros(4).double())
    with pytest.raises(ValueError, match="between: expected finite positive numbers"):
        dataclasses.replace(groups, between=-groups.between)
    with pytest.raises(ValueError, match="got a mixed row"):
        groups.log_evidence(torch.tensor([[[0.0, torch.nan]]]))
    with pytest.raises(ValueError, match="width: expected a number from 1 to 3, got 4"):
        probabilistic_pca(torch.zeros(5, 4), 4)
