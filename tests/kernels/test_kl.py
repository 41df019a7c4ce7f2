"""KL divergences against torch.distributions, Monte Carlo, gradcheck and their limits."""

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from worldmodel.kernels.kl import categorical_kl, gaussian_kl
from worldmodel.kernels.kl_reference import mix_uniform, split_gaussian

F64 = {"rtol": 1e-12, "atol": 1e-13}  # the two formulas differ in the order of a few float64 operations
MIN_STD, UNIMIX = 0.05, 0.01


def gaussian_pair(generator, *shape):
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_gaussian_kl_is_that_of_torch_distributions(generator):
    q, p = gaussian_pair(generator, 5, 3, 14)
    expected = kl_divergence(Normal(*split_gaussian(q, MIN_STD)), Normal(*split_gaussian(p, MIN_STD)))
    torch.testing.assert_close(gaussian_kl(q, p, min_std=MIN_STD).kl, expected, **F64)


@pytest.mark.parametrize("unimix", [0.0, UNIMIX, 0.5])
def test_categorical_kl_is_that_of_the_mixed_distributions(generator, unimix):
    q, p = (torch.randn(5, 3, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    mixed = [(1 - unimix) * x.softmax(-1) + unimix / 6 for x in (q, p)]
    expected = kl_divergence(*(Categorical(probs=x) for x in mixed))
    torch.testing.assert_close(categorical_kl(q, p, unimix=unimix).kl, expected, **F64)


def test_gaussian_kl_is_the_mean_log_ratio_of_samples(generator):
    raw_q, raw_p = gaussian_pair(generator, 8)
    q, p = Normal(*split_gaussian(raw_q, MIN_STD)), Normal(*split_gaussian(raw_p, MIN_STD))
    z = q.mean + q.stddev * torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.mean(0) - gaussian_kl(raw_q, raw_p, min_std=MIN_STD).kl
    assert (error.abs() < 4 * ratio.std(0) / len(z) ** 0.5).all()


def test_categorical_kl_is_the_mean_log_ratio_of_samples(generator):
    q, p = (torch.randn(1, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    log_q, log_p = mix_uniform(q, UNIMIX)[0], mix_uniform(p, UNIMIX)[0]
    z = torch.multinomial(log_q.exp(), 200_000, replacement=True, generator=generator)
    ratio = (log_q - log_p)[z]
    error = ratio.mean() - categorical_kl(q, p, unimix=UNIMIX).kl[0]
    assert error.abs() < 4 * ratio.std() / len(z) ** 0.5


def test_both_gradients_of_both_kls_are_right(generator):
    q, p = (x.requires_grad_() for x in gaussian_pair(generator, 2, 6))
    assert torch.autograd.gradcheck(lambda q, p: gaussian_kl(q, p, min_std=MIN_STD).kl, (q, p))
    q, p = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, p: categorical_kl(q, p, unimix=UNIMIX).kl, (q, p))


def test_identical_distributions_have_exactly_no_kl(generator):
    q = 50 * torch.randn(4, 10, generator=generator)
    assert gaussian_kl(q, q.clone(), min_std=MIN_STD).kl.eq(0).all()
    assert categorical_kl(q[:, None], q[:, None].clone(), unimix=UNIMIX).kl.eq(0).all()


def test_nearly_equal_gaussians_lose_no_digits(generator):
    q = torch.randn(6, 10, generator=generator)
    p = q + 1e-3 * torch.randn(6, 10, generator=generator)
    exact = gaussian_kl(q.double(), p.double(), min_std=MIN_STD).kl
    torch.testing.assert_close(gaussian_kl(q, p, min_std=MIN_STD).kl.double(), exact, rtol=2e-3, atol=0)
    naive = kl_divergence(Normal(*split_gaussian(q, MIN_STD)), Normal(*split_gaussian(p, MIN_STD))).double()
    assert (naive / exact - 1).abs().max() > 2e-3  # which the textbook form does


def test_a_posterior_far_narrower_than_the_prior_loses_no_digits():
    q, p = torch.tensor([[0.3, -30.0]]), torch.tensor([[0.0, 30.0]])
    exact = gaussian_kl(q.double(), p.double(), min_std=1e-6).kl
    torch.testing.assert_close(gaussian_kl(q, p, min_std=1e-6).kl.double(), exact, rtol=1e-6, atol=0)
    q = q.requires_grad_()
    gaussian_kl(q, p, min_std=1e-6).kl.sum().backward()
    assert q.grad.isfinite().all()


def test_extreme_inputs_stay_finite():
    raw = torch.tensor([[1e4, -1e4, 50.0, -50.0]])
    assert gaussian_kl(raw, -raw, min_std=MIN_STD).kl.isfinite().all()
    logits = torch.tensor([[[1e4, -1e4, 0.0]]])
    assert categorical_kl(logits, -logits, unimix=UNIMIX).kl.isfinite().all()


def test_half_precision_is_computed_in_float32(generator):
    q, p = (x.bfloat16() for x in gaussian_pair(generator, 4, 6))
    expected = gaussian_kl(q.float(), p.float(), min_std=MIN_STD).kl
    torch.testing.assert_close(gaussian_kl(q, p, min_std=MIN_STD).kl, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: gaussian_kl(x, x.double(), min_std=1.0).kl, "float dtype"),
        (lambda x: gaussian_kl(x[..., :3], x[..., :3], min_std=1.0).kl, "posterior_raw"),
        (lambda x: gaussian_kl(x, x, min_std=0.0).kl, "min_std"),
        (lambda x: categorical_kl(x, x, unimix=1.0).kl, "unimix"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(2, 3, 4))


def test_shapes_that_disagree_are_refused():
    with pytest.raises(Exception, match=r"(?i)shape|type"):  # jaxtyping sees it first while tests run
        gaussian_kl(torch.zeros(2, 4), torch.zeros(2, 6), min_std=1.0).kl
