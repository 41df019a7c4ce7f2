"""The Gaussian and the one-hot vector against torch's own, and at the edges: singular, impossible."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from oracles.gaussian_worlds import covariance, normal
from worldmodel.oracles.distributions import Gaussian, OneHot
from worldmodel.types import Latent


def pair(generator, shape=(5, 2), n=3):
    """Two Gaussians over the same batch: one covariance a sequence, one for all."""
    cov = torch.stack([covariance(generator, n) for _ in range(shape[-1])])
    return Gaussian(normal(generator, *shape, n), cov), Gaussian(normal(generator, *shape, n), covariance(generator, n))


def test_the_gaussian_is_torchs(generator):
    ours, other = pair(generator)
    theirs, their_other = (MultivariateNormal(g.mean, g.cov.expand(5, 2, 3, 3)) for g in (ours, other))
    z = normal(generator, 5, 2, 3)
    torch.testing.assert_close(ours.log_prob(z)[..., 0], theirs.log_prob(z))
    torch.testing.assert_close(ours.entropy()[..., 0], theirs.entropy())
    torch.testing.assert_close(ours.kl(other)[..., 0], kl_divergence(theirs, their_other))
    torch.testing.assert_close(other.kl(ours)[..., 0], kl_divergence(their_other, theirs))
    assert isinstance(ours, Latent)


def test_the_kl_of_a_gaussian_is_the_mean_of_its_log_ratio(generator):
    ours, other = pair(generator, shape=(1,))
    L, n = 3**0.5 * ours.scale_tril[0].mT, 3  # sigma points: exact for quadratics
    z = (ours.mean + torch.cat([L, -L]))[:, None]
    spread = lambda g: Gaussian(g.mean.expand(2 * n, 1, n), g.cov)  # noqa: E731 (one line says it)
    ratio = (spread(ours).log_prob(z) - spread(other).log_prob(z)).mean(0)
    torch.testing.assert_close(ratio, ours.kl(other))


def test_both_draws_of_a_gaussian_have_its_moments(generator):
    cov, N = covariance(generator, 3), 40_000
    many = Gaussian(normal(generator, 3).expand(N, 3), cov)
    for z in (many.sample(generator), many.rsample(normal(generator, N, 3))):
        assert ((z.mean(0) - many.mean[0]).abs() < 4.5 * (cov.diagonal() / N).sqrt()).all()
        error = ((cov.diagonal()[:, None] * cov.diagonal() + cov.square()) / N).sqrt()
        assert ((z.T.cov() - cov).abs() < 4.5 * error).all()


def test_a_singular_gaussian_can_be_drawn_from(generator):
    direction = normal(generator, 3)
    z = Gaussian(torch.zeros(10, 3).double(), torch.outer(direction, direction)).sample(generator)
    torch.testing.assert_close(z, (z @ direction / direction.square().sum())[:, None] * direction)


def test_the_one_hot_is_torchs_where_nothing_is_impossible(generator):
    p, q = (normal(generator, 4, 5).log_softmax(-1) for _ in range(2))
    theirs, their_other = (torch.distributions.Categorical(logits=logits) for logits in (p, q))
    z = OneHot(p).sample(generator)
    torch.testing.assert_close(OneHot(p).log_prob(z)[..., 0], theirs.log_prob(z.argmax(-1)))
    torch.testing.assert_close(OneHot(p).entropy()[..., 0], theirs.entropy())
    torch.testing.assert_close(OneHot(p).kl(OneHot(q))[..., 0], kl_divergence(theirs, their_other))
    assert isinstance(OneHot(p), Latent)


def test_an_impossible_class_is_never_drawn_and_costs_nothing(generator):
    probs = torch.tensor([0.25, 0.0, 0.75]).double()
    ours, wider = OneHot(probs.log().expand(20_000, 3)), OneHot(torch.full((20_000, 3), 1 / 3).double().log())
    share = ours.sample(generator).mean(0)
    assert share[1] == 0
    assert (share - probs).abs().max() < 4.5 * (0.25 * 0.75 / 20_000) ** 0.5
    entropy = -(0.25 * torch.tensor(0.25).double().log() + 0.75 * torch.tensor(0.75).double().log())
    torch.testing.assert_close(ours.entropy()[0, 0], entropy)
    torch.testing.assert_close(ours.kl(wider)[0, 0], torch.tensor(3).double().log() - entropy)
    assert wider.kl(ours)[0, 0] == torch.inf
    assert ours.log_prob(torch.eye(3).double()[[1]].expand(20_000, 3))[0, 0] == -torch.inf


def test_gradients_pass_straight_through_a_one_hot_draw(generator):
    logits = normal(generator, 4).requires_grad_()
    noise, weight = torch.rand(4, generator=generator, dtype=torch.float64), normal(generator, 4)
    z = OneHot(logits.log_softmax(-1)).rsample(noise)
    assert sorted(z.tolist()) == [0, 0, 0, 1]
    (z @ weight).backward()
    (expected,) = torch.autograd.grad(logits.softmax(-1) @ weight, logits)
    torch.testing.assert_close(logits.grad, expected)
    assert not OneHot(logits.log_softmax(-1)).sample(generator).requires_grad


def test_a_detached_distribution_has_no_gradient_behind_it(generator):
    mean = normal(generator, 3).requires_grad_()
    assert not Gaussian(mean, covariance(generator, 3)).detach().entropy().requires_grad
    assert not OneHot(mean.log_softmax(-1)).detach().entropy().requires_grad


def test_a_singular_gaussian_has_no_density(generator):
    with pytest.raises(torch.linalg.LinAlgError):
        Gaussian(torch.zeros(2).double(), torch.zeros(2, 2).double()).log_prob(torch.zeros(2).double())
