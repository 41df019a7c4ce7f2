"""The latent families: what is sampled is what the log-probability and the KL speak of."""

import pytest
import torch
from torch.distributions import Categorical, Normal

from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worlds import CATEGORICAL, FULL, GAUSSIAN


def draw(family, generator, count=100_000):
    raw = torch.randn(family.parameters, generator=generator, dtype=torch.float64)
    distribution = family.distribution(raw.expand(count, -1))
    return distribution, distribution.rsample(family.noise(count, like=raw, generator=generator))


def test_gaussian_samples_have_the_mean_and_std_they_claim(generator):
    q, z = draw(GAUSSIAN, generator)
    error = (z.mean(0) - q.mean[0]) / (q.std[0] / len(z) ** 0.5)
    assert error.abs().max() < 4
    torch.testing.assert_close(z.std(0), q.std[0], rtol=0.01, atol=0)  # 4 standard errors of a std of 100,000 draws


def test_categorical_samples_are_one_hot_and_come_as_often_as_they_claim(generator):
    q, z = draw(CATEGORICAL, generator)
    hot = z.unflatten(-1, (3, 5))
    assert hot.eq(hot.round()).all() and hot.sum(-1).eq(1).all()
    probs = q.log_probs[0].exp()
    error = (hot.mean(0) - probs) / (probs * (1 - probs) / len(z)).sqrt()
    assert error.abs().max() < 4


def test_unimix_keeps_every_class_possible():
    q = CategoricalFamily(1, 4, 0.01).distribution(torch.tensor([1e3, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(q.log_probs.exp(), torch.tensor([[0.9925, 0.0025, 0.0025, 0.0025]]))


def test_gaussian_log_prob_and_entropy_are_torchs(generator):
    q, z = draw(GAUSSIAN, generator, count=50)
    expected = Normal(q.mean, q.std)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(q.entropy(), expected.entropy())


def test_categorical_log_prob_and_entropy_are_torchs(generator):
    q, z = draw(CATEGORICAL, generator, count=50)
    expected = Categorical(logits=q.log_probs)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z.unflatten(-1, (3, 5)).argmax(-1)))
    torch.testing.assert_close(q.entropy(), expected.entropy())


def test_the_straight_through_gradient_is_that_of_the_probabilities(generator):
    raw = torch.randn(2, CATEGORICAL.parameters, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, CATEGORICAL.width, generator=generator, dtype=torch.float64)
    noise = CATEGORICAL.noise(2, like=raw, generator=generator)
    (got,) = torch.autograd.grad((CATEGORICAL.distribution(raw).rsample(noise) * weight).sum(), raw)
    probs = 0.99 * raw.unflatten(-1, (3, 5)).softmax(-1) + 0.01 / 5
    (expected,) = torch.autograd.grad((probs.flatten(-2) * weight).sum(), raw)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("family", [GAUSSIAN, FULL, CATEGORICAL])
def test_detach_cuts_the_gradient_and_keeps_the_value(family, generator):
    raw, other = (torch.randn(2, family.parameters, generator=generator, requires_grad=True) for _ in range(2))
    q, p = family.distribution(raw), family.distribution(other)
    cut = q.detach().kl(p)
    assert torch.equal(cut, q.kl(p))
    cut.sum().backward()
    assert raw.grad is None and other.grad is not None


def test_min_std_is_a_floor():
    assert GaussianFamily(1, 0.05).distribution(torch.tensor([0.0, -100.0])).std.item() == pytest.approx(0.05)


@pytest.mark.parametrize("family", [GAUSSIAN, FULL, CATEGORICAL])
def test_a_sample_is_the_draw_of_the_same_noise_without_a_gradient(family, generator):
    raw = torch.randn(7, family.parameters, generator=generator, requires_grad=True)
    state = generator.get_state()
    drawn = family.distribution(raw).sample(generator)
    generator.set_state(state)
    expected = family.distribution(raw).rsample(family.noise(7, like=raw, generator=generator))
    assert not drawn.requires_grad
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0)
