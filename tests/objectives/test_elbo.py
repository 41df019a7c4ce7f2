"""The bound against closed forms: a VAE of one step, and a model whose latent can be integrated."""

import math

import pytest
import torch
from torch.distributions import Normal

from worldmodel.models.latents import GaussianFamily
from worldmodel.models.likelihoods import Normal as NormalLikelihood
from worldmodel.objectives.elbo import Bound, elbo, masked_mean
from worldmodel.types import State
from worlds import CATEGORICAL, GAUSSIAN, make_batch, make_model

MIN_STD = 1e-3


def raw(mean, std):
    """What a head must put out for this mean and standard deviation."""
    unconstrained = torch.log(torch.expm1(std - MIN_STD))
    return torch.stack([mean, unconstrained], -1)


def linear_world(generator):
    """p(z) = N(m, s^2), p(x | z) = N(a z + b, r^2): evidence and posterior in closed form. [B, T] = [4, 5], S = 1."""
    shape = (4, 5)
    m, a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    s, r = (0.3 + torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    evidence = Normal(a * m + b, (a.square() * s.square() + r.square()).sqrt()).log_prob(x)
    precision = 1 / s.square() + a.square() / r.square()
    posterior = ((m / s.square() + a * (x - b) / r.square()) / precision, precision.rsqrt())
    return {"m": m, "s": s, "a": a, "b": b, "r": r, "x": x}, evidence, posterior


def bound_under(world, q_mean, q_std, z):
    """The bound of the linear world under q, at latents z [N, 4, 5] drawn from it."""
    family = GaussianFamily(1, MIN_STD)
    spread = lambda x: x.expand(len(z), 4, 5).flatten(0, 1)  # noqa: E731 (one line says it)
    posterior = family.distribution(spread_raw(raw(q_mean, q_std), len(z)))
    prior = family.distribution(spread_raw(raw(world["m"], world["s"]), len(z)))
    mean = spread(world["a"]) * z.flatten(0, 1) + spread(world["b"])
    likelihood = NormalLikelihood(mean[..., None], spread(world["r"])[..., None])
    valid = torch.ones(len(z) * 4, 5, dtype=torch.bool)
    return elbo({"x": likelihood}, {"x": spread(world["x"])[..., None]}, posterior, prior, valid=valid)


def spread_raw(x, count):
    return x.expand(count, 4, 5, 2).flatten(0, 1)


def expected_bound(world, q_mean, q_std, generator):
    """E_q of the bound by Gauss-Hermite quadrature: exact for a quadratic integrand."""
    nodes, weights = torch.from_numpy(hermite()).double()
    z = q_mean + q_std * nodes[:, None, None]
    bound = bound_under(world, q_mean, q_std, z)
    return (bound.elbo.unflatten(0, (len(nodes), 4)) * weights[:, None, None]).sum(0)


def hermite():
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    return np.stack([nodes, weights / math.sqrt(2 * math.pi)])


def test_the_bound_is_the_evidence_when_q_is_the_posterior(generator):
    world, evidence, (mean, std) = linear_world(generator)
    torch.testing.assert_close(expected_bound(world, mean, std, generator), evidence, rtol=1e-9, atol=1e-9)


def test_the_gap_is_the_kl_to_the_posterior_for_any_q(generator):
    world, evidence, (mean, std) = linear_world(generator)
    q_mean, q_std = mean + 0.3, std * 1.7
    gap = evidence - expected_bound(world, q_mean, q_std, generator)
    kl = torch.distributions.kl_divergence(Normal(q_mean, q_std), Normal(mean, std))
    assert (gap > 0).all()
    torch.testing.assert_close(gap, kl, rtol=1e-8, atol=1e-9)


def test_one_sample_bounds_average_to_the_bound(generator):
    world, _, (mean, std) = linear_world(generator)
    q_mean, q_std = mean + 0.3, std * 1.7
    z = q_mean + q_std * torch.randn(4000, 4, 5, generator=generator, dtype=torch.float64)
    samples = bound_under(world, q_mean, q_std, z).elbo.unflatten(0, (4000, 4))
    error = samples.mean(0) - expected_bound(world, q_mean, q_std, generator)
    assert (error.abs() < 4 * samples.std(0) / 4000**0.5).all()


def test_one_step_of_the_world_model_is_a_vae_bound(generator):
    """T = 1: log p(x|z) - KL(N(m, s) || N(mu, sigma)), written out from the model's own heads."""
    model, batch = make_model().double(), make_batch(batch=6, length=1, first=(), dtype=torch.float64)
    noise = model.dynamics.noise(6, 1, generator)
    (_, posterior, prior, _), likelihoods = model(batch, noise)
    bound = elbo(likelihoods, model.targets(batch), posterior, prior, valid=batch.valid, observed=model.observed(batch))
    _, h = model.dynamics.step(model.dynamics.initial(6), batch.prev_action[:, 0], batch.is_first[:, 0])
    q, p = model.dynamics.posterior(h, model.dynamics.project(model.embed(batch.obs)[:, 0])), model.dynamics.prior(h)
    z = q.mean + q.std * noise[:, 0]
    kl = (p.std / q.std).log() + (q.std.square() + (q.mean - p.mean).square()) / (2 * p.std.square()) - 0.5
    decoded = model.decode(State(h, z))
    x = decoded["obs"]
    log_x = Normal(x.mean, x.std).log_prob(batch.obs["obs"][:, 0]).sum(-1)
    log_continue = decoded["continue"].mean.log().squeeze(-1)  # no reward leads to a first row
    torch.testing.assert_close(bound.elbo[:, 0], log_x + log_continue - kl.sum(-1), rtol=1e-9, atol=1e-10)


def gridded_evidence(model, batch, points=4001):
    """log p(x_1) of a one-step model with a single latent, by the trapezoidal rule over z."""
    _, h = model.dynamics.step(model.dynamics.initial(1), batch.prev_action[:, 0], batch.is_first[:, 0])
    prior = model.dynamics.prior(h)
    z = torch.linspace(-12, 12, points, dtype=torch.float64)[:, None] * prior.std + prior.mean
    decoded = model.decode(State(h.expand(points, -1), z))
    targets = {name: x[:, 0].expand(points, -1) for name, x in model.targets(batch).items()}
    log_joint = prior.log_prob(z).sum(-1) + sum(
        p.log_prob(targets[name]) for name, p in decoded.items() if name != "reward"
    )
    width = (z[1, 0] - z[0, 0]).log()
    return (torch.logsumexp(log_joint, 0) + width).item(), z, log_joint


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_world_models_bound_stays_below_its_integrated_evidence(seed):
    """Averaged over many draws of z, since a single one may be lucky."""
    model = make_model(latent=GaussianFamily(1, 0.05), seed=seed).double()
    batch = make_batch(batch=1, length=1, first=(), seed=seed, dtype=torch.float64)
    evidence, z, log_joint = gridded_evidence(model, batch)
    draws = 20_000
    many = type(batch)(
        {k: x.expand(draws, -1, -1) for k, x in batch.obs.items()}, *(x.expand(draws, *x.shape[1:]) for x in batch[1:])
    )
    noise = model.dynamics.noise(draws, 1, torch.Generator().manual_seed(seed))
    (_, posterior, prior, _), likelihoods = model(many, noise)
    bound = elbo(likelihoods, model.targets(many), posterior, prior, valid=many.valid, observed=model.observed(many))
    mean, error = bound.elbo.mean().item(), bound.elbo.std().item() / draws**0.5
    q = torch.distributions.Normal(posterior.mean[0, 0], posterior.std[0, 0])
    log_q = q.log_prob(z).sum(-1)
    width = (z[1, 0] - z[0, 0]).item()
    kl = (log_q.exp() * (log_q - (log_joint - evidence))).sum().item() * width
    assert kl > 1e-3 and abs(evidence - mean - kl) < 4 * error


def test_kl_is_kept_per_group_and_step_and_means_skip_invalid_rows(generator):
    for latent in (GAUSSIAN, CATEGORICAL):
        model, batch = make_model(latent=latent), make_batch()
        batch = batch._replace(valid=torch.rand(3, 7, generator=generator) < 0.6)
        (_, posterior, prior, _), likelihoods = model(batch, model.dynamics.noise(3, 7, generator))
        bound = elbo(likelihoods, model.targets(batch), posterior, prior, valid=batch.valid)
        assert torch.equal(bound.kl_groups, posterior.kl(prior))
        torch.testing.assert_close(bound.per_step()["kl"], bound.kl[batch.valid].mean())
        torch.testing.assert_close(bound.elbo, sum(bound.log_likelihood.values()) - bound.kl_groups.sum(-1))


def test_invalid_rows_may_hold_anything():
    x = torch.tensor([[1.0, float("nan"), 3.0]], requires_grad=True)
    valid = torch.tensor([[True, False, True]])
    mean = masked_mean(x, valid)
    mean.backward()
    assert mean.item() == 2.0 and x.grad.tolist() == [[0.5, 0.0, 0.5]]


def test_names_must_match(generator):
    model, batch = make_model(), make_batch()
    (_, posterior, prior, _), likelihoods = model(batch, model.dynamics.noise(3, 7, generator))
    with pytest.raises(ValueError, match="reward"):
        elbo(likelihoods, batch.obs, posterior, prior, valid=batch.valid)


def test_a_bound_is_plain_arithmetic():
    kl = torch.tensor([[[0.5, 0.25]]])
    bound = Bound({"x": torch.tensor([[-1.0]]), "y": torch.tensor([[-2.0]])}, kl, torch.tensor([[True]]))
    assert bound.elbo.item() == -3.75 and bound.per_step()["elbo"].item() == -3.75
