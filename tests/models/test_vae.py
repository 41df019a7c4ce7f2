"""The autoencoder as a sequence of one row: its evidence by quadrature, its bound, and the gap between them."""

import math

import numpy as np
import pytest
import torch

from worldmodel.data.batches import single_rows
from worldmodel.evidence.iwae import iwae
from worldmodel.evidence.smc import smc
from worldmodel.models.vae import VAE
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.objectives.loss import Objective
from worldmodel.training.learner import Learner
from worldmodel.types import LatentSequence, State

DRAWS = 4000


def make(observation="gaussian", latents=1, n=2):
    torch.manual_seed(0)
    return VAE(n, latents=latents, hidden=12, observation=observation).double()


def observations(model, batch, generator):
    with torch.no_grad():
        return model.likelihood(model.prior(batch).sample(generator)).sample(generator).double()


def quadrature(model, x, points=2001):
    """log p(x) [B], and the bound and KL(q || p(z | x)) [B] of a one-dimensional latent, by the trapezoidal rule.

    In units of q's own noise: z = m + s e, on a grid of e over ten standard deviations.
    """
    e = torch.linspace(-14, 14, points, dtype=torch.float64)[:, None, None]
    q = model.posterior(x)
    z, width = q.mean + q.std * e, 28 / (points - 1) * q.std[:, 0]
    sequence = model.given(x)
    prior = sequence.step(sequence.initial(points), 0)[2]
    rest = sequence.likelihood(State(z[..., :0], z), 0)["x"]
    log_joint, log_q = rest + prior.log_prob(z).sum(-1), q.log_prob(z).sum(-1)
    log_evidence = log_joint.logsumexp(0) + width.log()
    weight = log_q.exp() * width
    bound = (weight * rest).sum(0) - q.kl(model.prior(len(x))).sum(-1)
    kl = (weight * (log_q - (log_joint - log_evidence))).sum(0)
    return log_evidence, bound, kl


def smoothed(model):
    """Weights small enough for a posterior that q's grid covers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("observation", ["gaussian", "bernoulli"])
def test_evidence_is_bound_plus_kl_to_the_posterior(observation, generator):
    model = smoothed(make(observation))
    log_evidence, bound, kl = quadrature(model, observations(model, 5, generator))
    assert (kl > 1e-3).all()
    torch.testing.assert_close(log_evidence, bound + kl, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("observation", ["gaussian", "bernoulli"])
def test_bound_and_estimators_agree_with_quadrature(observation, generator):
    model = smoothed(make(observation))
    x = observations(model, 1, generator)
    log_evidence, bound, _ = (value.item() for value in quadrature(model, x))
    many = model.given(x.expand(DRAWS, -1))
    sampled = sequence_elbo(many, generator=generator).elbo[0, :, 0]
    assert abs(sampled.mean() - bound) < 3 * sampled.std() / DRAWS**0.5
    for estimate in (iwae(many, 8, generator=generator), smc(many, 8, generator=generator, prior_share=0.1)):
        ratio = (estimate.log_evidence - log_evidence).exp()
        assert ratio.log().var() < 0.7
        assert abs(ratio.mean() - 1) < 3 * ratio.std() / DRAWS**0.5


@torch.no_grad()
def test_bernoulli_masses_sum_to_one():
    model = make("bernoulli", n=3)
    every = torch.from_numpy(np.stack(np.unravel_index(range(8), (2, 2, 2)), -1)).double()
    z = torch.tensor([[0.3]], dtype=torch.float64)
    total = sum(model.likelihood(z).log_prob(x[None]).exp() for x in every)
    torch.testing.assert_close(total, torch.ones(1, dtype=torch.float64))


def test_training_raises_the_bound_and_both_bounds_are_one(generator):
    """The differentiable, batched bound is the sampled one on the same noise, and gradient steps on it raise it."""
    model = make(latents=2, n=3)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 1.0, 3.0])
    rows = single_rows(x)
    before, loop = sampled_bound(model, rows, generator), sequence_elbo(model.given(x), generator=generator)
    torch.testing.assert_close(before.kl_groups, loop.kl_groups[0], rtol=1e-9, atol=1e-12)
    learner = Learner(
        model,
        Objective(),
        generator,
        learning_rate=1e-2,
        warmup=1,
        final_fraction=1.0,
        total_updates=100,
        clip_norm=100.0,
        weight_decay=0.0,
        eps=1e-8,
    )
    norms = [learner.update(rows).grad_norm for _ in range(100)]
    assert set(norms[0]) == {"encoder", "decoder", "total"} and all(torch.isfinite(norm["total"]) for norm in norms)
    after = sampled_bound(model, rows, generator)
    assert after.per_step()["elbo"] > before.per_step()["elbo"] + 1


def test_it_is_a_latent_sequence_and_its_prior_is_standard_normal():
    model = make(latents=4)
    assert isinstance(model.given(torch.zeros(3, 2)), LatentSequence)
    prior = model.prior(3)
    torch.testing.assert_close(prior.std, torch.ones(3, 4, dtype=torch.float64))
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    torch.testing.assert_close(prior.entropy(), torch.full((3, 4), entropy, dtype=torch.float64))
