"""One Gaussian with a full covariance: torch's numbers, the moments it claims, and the diagonal family inside it."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import GaussianFamily
from worldmodel.types import BalancedLatent
from worlds import FULL, GAUSSIAN

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def raws(generator, *shape, family=FULL):
    return torch.randn(*shape, family.parameters, generator=generator, dtype=torch.float64)


def drawn(q, generator):
    return q.rsample(q.noise(generator))


def test_log_prob_entropy_and_kl_are_torchs(generator):
    q, p = (FULL.distribution(raws(generator, 7, 3)) for _ in range(2))
    assert isinstance(q, BalancedLatent)
    one, other = (MultivariateNormal(x.mean, scale_tril=x.scale_tril) for x in (q, p))
    z = drawn(q, generator)
    torch.testing.assert_close(p.log_prob(z), other.log_prob(z)[..., None], **EXACT)
    torch.testing.assert_close(q.entropy(), one.entropy()[..., None], **EXACT)
    expected = torch.distributions.kl_divergence(one, other)[..., None]
    torch.testing.assert_close(q.kl(p), expected, rtol=1e-10, atol=1e-11)


def test_samples_have_the_mean_and_covariance_they_claim(generator):
    count = 100_000
    q = FULL.distribution(raws(generator).expand(count, -1))
    z, cov = drawn(q, generator), q.scale_tril[0] @ q.scale_tril[0].mT
    error = (z.mean(0) - q.mean[0]) / (cov.diagonal() / count).sqrt()
    assert error.abs().max() < 4
    var = cov.diagonal()
    error = (z.T.cov() - cov) / ((var[:, None] * var + cov.square()) / count).sqrt()  # of a sample covariance
    assert error.abs().max() < 4
    assert (cov / (var[:, None] * var).sqrt()).tril(-1).abs().max() > 0.3  # there is something to see


def test_without_entries_beside_the_diagonal_it_is_the_diagonal_family(generator):
    """The same draws from the same stream, bit for bit, and the same density."""
    diagonal = raws(generator, 5, family=GAUSSIAN)
    full = torch.zeros(5, FULL.parameters, dtype=torch.float64)
    full[:, : GAUSSIAN.parameters] = diagonal
    assert FULL.beside_the_diagonal == slice(GAUSSIAN.parameters, None)
    q, p = FULL.distribution(full), GAUSSIAN.distribution(diagonal)
    noise = [family.noise(2, 5, like=full, generator=generator.manual_seed(1)) for family in (FULL, GAUSSIAN)]
    assert torch.equal(*noise)
    assert torch.equal(q.noise(generator.manual_seed(1)), p.noise(generator.manual_seed(1)))
    z = p.rsample(noise[0])
    assert torch.equal(q.rsample(noise[0]), z)
    torch.testing.assert_close(q.log_prob(z)[..., 0], p.log_prob(z).sum(-1), **EXACT)
    torch.testing.assert_close(q.entropy()[..., 0], p.entropy().sum(-1), **EXACT)


def test_min_std_is_a_floor_of_each_entrys_std_given_those_before_it():
    q = FullGaussianFamily(2, 0.05).distribution(torch.tensor([0.0, 0, -100, -100, 3]))
    torch.testing.assert_close(q.scale_tril, torch.tensor([[0.05, 0], [0.15, 0.05]]))


def test_gradients_reach_every_parameter_through_a_sample(generator):
    noise = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    family = FullGaussianFamily(3, 0.05)
    raw = raws(generator, 2, family=family).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: family.distribution(x).rsample(noise), raw)
    (gradient,) = torch.autograd.grad(family.distribution(raw).rsample(noise).sum(), raw)
    assert gradient.ne(0).all()


def test_under_autocast_samples_and_densities_stay_in_float32(generator):
    raw = raws(generator, 6).float()
    q = FULL.distribution(raw)
    noise = q.noise(generator)
    expected = (q.rsample(noise), q.log_prob(noise), q.kl(FULL.distribution(-raw)))
    with torch.autocast("cpu", torch.bfloat16):
        q = FULL.distribution(raw)
        got = (q.rsample(noise), q.log_prob(noise), q.kl(FULL.distribution(-raw)))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_an_offset_moves_the_raw_parameters(generator):
    raw, offset = raws(generator, 3), raws(generator)
    moved = FULL.distribution(raw).shifted(offset)
    assert moved.parameters == FULL.parameters == 14
    torch.testing.assert_close(moved.scale_tril, FULL.distribution(raw + offset).scale_tril)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_head_puts_out_what_a_distribution_reads(generator, width):
    family = FullGaussianFamily(width, 0.05)
    assert family.parameters == 2 * width + width * (width - 1) // 2
    q = family.distribution(raws(generator, 4, family=family))
    assert drawn(q, generator).shape == (4, width) and q.kl(q).shape == (4, 1)
    assert GaussianFamily(width, 0.05).noise(4, like=q.raw).shape == family.noise(4, like=q.raw).shape
