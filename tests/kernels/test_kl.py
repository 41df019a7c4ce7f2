"""KL divergences against torch.distributions, Monte Carlo, gradcheck and their limits; and who computes them."""

import math
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.kernels import backend
from worldmodel.kernels.kl import (
    balanced_categorical_kl,
    balanced_full_gaussian_kl,
    balanced_gaussian_kl,
    categorical_kl,
    full_gaussian_kl,
    gaussian_kl,
)
from worldmodel.kernels.kl_reference import full_gaussian_width, mix_uniform, split_full_gaussian, split_gaussian

F64 = {"rtol": 1e-12, "atol": 1e-13}  # the two formulas differ in the order of a few float64 operations
MIN_STD, UNIMIX = 0.05, 0.01


def gaussian_pair(generator, *shape):
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_gaussian_kl_is_that_of_torch_distributions(generator):
    q, p = gaussian_pair(generator, 5, 3, 14)
    expected = kl_divergence(Normal(*split_gaussian(q, MIN_STD)), Normal(*split_gaussian(p, MIN_STD)))
    torch.testing.assert_close(gaussian_kl(q, p, min_std=MIN_STD).kl, expected, **F64)


def multivariate(raw):
    mean, factor = split_full_gaussian(raw, MIN_STD)
    return MultivariateNormal(mean, scale_tril=factor)


@pytest.mark.parametrize("width", [1, 2, 4, 9])
def test_full_gaussian_kl_and_entropies_are_those_of_torch_distributions(generator, width):
    q, p = gaussian_pair(generator, 5, 3, width * (width + 3) // 2)
    result = full_gaussian_kl(q, p, min_std=MIN_STD)
    assert result.kl.shape == result.posterior_entropy.shape == (5, 3, 1)
    expected = kl_divergence(multivariate(q), multivariate(p))[..., None]
    torch.testing.assert_close(result.kl, expected, rtol=1e-10, atol=1e-11)  # torch's squares what cancels
    for got, raw in ((result.posterior_entropy, q), (result.prior_entropy, p)):
        torch.testing.assert_close(got, multivariate(raw).entropy()[..., None], **F64)


def test_a_factor_reads_its_rows_one_after_another():
    raw = torch.tensor([1.0, 2, 3, 0, -100, -100, 4, 5, 6], dtype=torch.float64)
    mean, factor = split_full_gaussian(raw, MIN_STD)
    assert mean.tolist() == [1, 2, 3]
    std = torch.tensor([MIN_STD + math.log(2), MIN_STD, MIN_STD], dtype=torch.float64)
    expected = std[:, None] * torch.tensor([[1.0, 0, 0], [4, 1, 0], [5, 6, 1]], dtype=torch.float64)
    torch.testing.assert_close(factor, expected, **F64)


def test_a_diagonal_factor_has_the_numbers_of_the_diagonal_family(generator):
    diagonal = gaussian_pair(generator, 50, 8)
    full = [torch.cat([raw, torch.zeros(50, 6, dtype=torch.float64)], -1) for raw in diagonal]
    settings = {"min_std": MIN_STD, "dyn": 0.8, "rep": 0.1, "free_nats": 1.0}
    got, expected = balanced_full_gaussian_kl(*full, **settings), balanced_gaussian_kl(*diagonal, **settings)
    torch.testing.assert_close(got.balanced, expected.balanced, rtol=1e-14, atol=1e-14)
    for one, groups in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(one[..., 0], groups.sum(-1), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("output", ["kl", "posterior_entropy", "prior_entropy"])
def test_derivatives_of_the_full_gaussian_kl_are_right(generator, output):
    raws = [x.requires_grad_() for x in gaussian_pair(generator, 2, 9)]
    names = ("posterior", "prior")
    used = [x for x, name in zip(raws, names, strict=True) if output == "kl" or output.startswith(name)]

    def alone(*moved):
        q, p = moved if len(moved) == 2 else moved * 2
        return getattr(full_gaussian_kl(q, p, min_std=MIN_STD), output)

    assert torch.autograd.gradcheck(alone, used, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(alone, used)


def test_full_gaussians_that_are_nearly_equal_lose_few_digits(generator):
    q = torch.randn(200, 14, generator=generator)
    p = q + 1e-3 * torch.randn(200, 14, generator=generator)
    exact = full_gaussian_kl(q.double(), p.double(), min_std=MIN_STD).kl
    torch.testing.assert_close(full_gaussian_kl(q, p, min_std=MIN_STD).kl.double(), exact, rtol=5e-3, atol=0)
    naive = kl_divergence(multivariate(q), multivariate(p)).double()
    assert (naive / exact[..., 0] - 1).abs().max() > 5e-2  # which the textbook form does


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_gaussians_far_apart_are_finite_and_near_the_exact_numbers(generator, dtype):
    q, p = (5 * torch.randn(200, 14, generator=generator) for _ in range(2))
    q, p = q.to(dtype).requires_grad_(), p.to(dtype).requires_grad_()
    got = full_gaussian_kl(q, p, min_std=0.01).kl
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), full_gaussian_kl(q.double(), p.double(), min_std=0.01).kl, rtol=1e-3, atol=0
    )
    got.sum().backward()
    assert torch.isfinite(q.grad).all() and torch.isfinite(p.grad).all()


def test_full_gaussian_widths_and_their_errors(generator):
    assert [full_gaussian_width(P) for P in (2, 5, 9, 14, 560)] == [1, 2, 3, 4, 32]
    q, p = gaussian_pair(generator, 3, 14)
    for wrong in (13, 1):
        with pytest.raises(ValueError, match=r"Z \(Z \+ 3\) / 2"):
            full_gaussian_kl(q[:, :wrong], p[:, :wrong], min_std=MIN_STD)
    with pytest.raises(ValueError, match="min_std"):
        full_gaussian_kl(q, p, min_std=0.0)


def test_there_are_no_kernels_for_full_covariances(generator):
    q, p = gaussian_pair(generator, 3, 14)
    torch.testing.assert_close(
        full_gaussian_kl(q, p, min_std=MIN_STD, backend="reference"), full_gaussian_kl(q, p, min_std=MIN_STD)
    )
    with pytest.raises(ValueError, match=r"backend: .*no kernels, got 'triton'"):
        full_gaussian_kl(q, p, min_std=MIN_STD, backend="triton")
    with pytest.raises(ValueError, match=r"backend: .*no kernels, got 'triton'"):
        balanced_full_gaussian_kl(q, p, min_std=MIN_STD, dyn=1.0, rep=1.0, free_nats=0.0, backend="triton")


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


def test_entropies_are_those_of_torch_distributions(generator):
    q, p = gaussian_pair(generator, 5, 14)
    result = gaussian_kl(q, p, min_std=MIN_STD)
    for got, raw in ((result.posterior_entropy, q), (result.prior_entropy, p)):
        torch.testing.assert_close(got, Normal(*split_gaussian(raw, MIN_STD)).entropy(), **F64)
    q, p = (x.unflatten(-1, (2, 7)) for x in (q, p))
    result = categorical_kl(q, p, unimix=UNIMIX)
    for got, logits in ((result.posterior_entropy, q), (result.prior_entropy, p)):
        probs = (1 - UNIMIX) * logits.softmax(-1) + UNIMIX / 7
        torch.testing.assert_close(got, Categorical(probs=probs).entropy(), **F64)


@pytest.mark.parametrize("output", ["kl", "posterior_entropy", "prior_entropy"])
def test_first_and_second_derivatives_are_right(generator, output):
    def gaussian(q, p):
        return getattr(gaussian_kl(q, p, min_std=MIN_STD), output)

    def categorical(q, p):
        return getattr(categorical_kl(q, p, unimix=UNIMIX), output)

    for function, width in ((gaussian, (6,)), (categorical, (3, 4))):
        q, p = (torch.randn(2, *width, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
        # An output hangs on one of its inputs alone, or on both.
        used = [x for x, name in ((q, "posterior"), (p, "prior")) if output == "kl" or output.startswith(name)]
        alone = (lambda *x: function(*x)) if len(used) == 2 else (lambda x: function(x, x))  # noqa: B023
        assert torch.autograd.gradcheck(alone, used)
        assert torch.autograd.gradgradcheck(alone, used)


@pytest.mark.parametrize("unimix", [0.0, UNIMIX])
@pytest.mark.parametrize("free_nats", [0.0, 2.0])
@pytest.mark.parametrize("wanted", ["both", "posterior", "prior"])
def test_the_categorical_kl_is_its_formulas_with_first_and_second_derivatives(generator, unimix, free_nats, wanted):
    q, p = (torch.randn(30, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    q[:10] = p[:10] + 1e-3 * q[:10]  # nearly equal
    sources = [x.requires_grad_() for x, name in ((q, "posterior"), (p, "prior")) if wanted in (name, "both")]
    settings = {"unimix": unimix, "free_nats": free_nats}
    settings |= {"dyn": 0.8 * (wanted != "posterior"), "rep": 0.1 * (wanted != "prior")}
    expected, got = (balanced_categorical_kl(q, p, **settings, backend=name) for name in ("reference", "auto"))
    held = expected.balanced == (settings["dyn"] + settings["rep"]) * free_nats
    assert held.any() == (free_nats > 0) and not held.all()
    assert type(got.kl.grad_fn).__name__ == "_CategoricalKLBackward" != type(expected.kl.grad_fn).__name__
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in sources]
    derivatives = []
    for outputs in (expected, got):
        generator.manual_seed(1)
        trained = [x for x, formula in zip(outputs, expected, strict=True) if formula.requires_grad]
        weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in trained]
        once = torch.autograd.grad(trained, sources, weights, retain_graph=True)
        graph = torch.autograd.grad(trained, sources, weights, create_graph=True)
        derivatives.append((*once, *graph, *torch.autograd.grad(graph, sources, directions)))
    torch.testing.assert_close(got, expected, **F64)
    torch.testing.assert_close(derivatives[1], derivatives[0], **F64)


def test_a_forward_mode_derivative_of_the_categorical_kl_is_the_formulas_alone(generator):
    q, p = (torch.randn(2, 3, 5, generator=generator) for _ in range(2))
    with forward_ad.dual_level():
        moved = forward_ad.make_dual(q, p)
        with pytest.raises(NotImplementedError, match="must implement the jvp function"):
            categorical_kl(moved, p, unimix=UNIMIX)
        kl = categorical_kl(moved, p, unimix=UNIMIX, backend="reference").kl
        assert forward_ad.unpack_dual(kl).tangent.any()


def test_a_compiler_is_given_the_formulas_of_the_categorical_kl(monkeypatch, generator):
    q, p = (torch.randn(2, 3, 5, generator=generator, requires_grad=True) for _ in range(2))
    names = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        names.append(type(categorical_kl(q, p, unimix=UNIMIX).kl.grad_fn).__name__)
    assert names == ["_CategoricalKLBackward", "SumBackward1"]


def test_each_side_of_a_categorical_kl_is_mixed_once(generator):
    """Of the balanced value, the raw KL and both entropies, with the gradients."""
    q, p = (torch.randn(4, 3, 5, generator=generator).requires_grad_() for _ in range(2))
    mixtures = []

    class Softmaxes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "softmax" in func.__name__ and "backward" not in func.__name__:
                mixtures.append(func)
            return func(*args, **(kwargs or {}))

    with Softmaxes():
        result = balanced_categorical_kl(q, p, unimix=UNIMIX, dyn=0.5, rep=0.1, free_nats=1.0)
        (result.balanced.sum() + result.kl.sum() + result.posterior_entropy.sum()).backward()
    assert len(mixtures) == 2


@pytest.mark.parametrize("free_nats", [0.0, 2.0])
@pytest.mark.parametrize(
    ("divergence", "balanced", "width"),
    [(gaussian_kl, balanced_gaussian_kl, 6), (full_gaussian_kl, balanced_full_gaussian_kl, 5)],
    ids=["diagonal", "full"],
)
def test_balancing_is_two_divergences_that_each_train_one_side(generator, free_nats, divergence, balanced, width):
    q, p = (x.requires_grad_() for x in gaussian_pair(generator, 50, width))
    result = balanced(q, p, min_std=MIN_STD, dyn=0.8, rep=0.1, free_nats=free_nats)
    kl = divergence(q, p, min_std=MIN_STD).kl.sum(-1)
    under = kl < free_nats
    assert (under.any() and not under.all()) or free_nats == 0.0
    torch.testing.assert_close(result.balanced, 0.9 * kl.clamp(min=free_nats), **F64)
    by_q, by_p = torch.autograd.grad(kl.sum(), (q, p), retain_graph=True)
    got_q, got_p = torch.autograd.grad(result.balanced.sum(), (q, p))
    torch.testing.assert_close(got_q, 0.1 * by_q * ~under[:, None], **F64)
    torch.testing.assert_close(got_p, 0.8 * by_p * ~under[:, None], **F64)


def test_identical_distributions_have_exactly_no_kl_and_no_gradient(generator):
    for kl, width, settings in (
        (balanced_gaussian_kl, (10,), {"min_std": MIN_STD}),
        (balanced_full_gaussian_kl, (14,), {"min_std": MIN_STD}),
        (balanced_categorical_kl, (2, 5), {"unimix": 0.0}),
        (balanced_categorical_kl, (2, 5), {"unimix": UNIMIX}),
    ):
        q = (50 * torch.randn(4, *width, generator=generator)).requires_grad_()
        p = q.detach().clone().requires_grad_()
        result = kl(q, p, **settings, dyn=0.5, rep=0.5, free_nats=0.0)
        assert result.kl.eq(0).all() and result.balanced.eq(0).all()
        (result.kl.sum() + result.balanced.sum()).backward()
        assert q.grad.eq(0).all() and p.grad.eq(0).all()


@pytest.mark.parametrize("unimix", [0.0, UNIMIX])
def test_nearly_equal_categoricals_lose_few_digits_and_are_not_below_zero(generator, unimix):
    q = 3 * torch.randn(20, 4, 32, generator=generator)
    p = q + 1e-3 * torch.randn(20, 4, 32, generator=generator)
    exact = categorical_kl(q.double(), p.double(), unimix=unimix).kl
    got = categorical_kl(q, p, unimix=unimix).kl.double()
    log_q, log_p = mix_uniform(q, unimix), mix_uniform(p, unimix)
    naive = (log_q.exp() * (log_q - log_p)).sum(-1).double()
    assert (got / exact - 1).abs().max() < 5e-3 < 0.1 < (naive / exact - 1).abs().max()
    nearer = q + 1e-6 * torch.randn(20, 4, 32, generator=generator)
    assert (categorical_kl(q, nearer, unimix=unimix).kl >= -torch.finfo(torch.float32).eps).all()


def test_nearly_equal_gaussians_lose_few_digits(generator):
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
        (lambda x: gaussian_kl(x, x.float(), min_std=1.0), "float dtype"),
        (lambda x: gaussian_kl(x, x.to("meta"), min_std=1.0), "one device"),
        (lambda x: gaussian_kl(x[..., :3], x[..., :3], min_std=1.0), "posterior_raw"),
        (lambda x: gaussian_kl(x, x, min_std=0.0), "min_std"),
        (lambda x: categorical_kl(x[..., :0], x[..., :0], unimix=0.0), "posterior_logits: .*at least one"),
        (lambda x: gaussian_kl(x, x, min_std=float("nan")), "min_std"),
        (lambda x: categorical_kl(x, x, unimix=1.0), "unimix"),
        (lambda x: balanced_gaussian_kl(x, x, min_std=1.0, dyn=-1.0, rep=1.0, free_nats=0.0), "dyn"),
        (lambda x: balanced_categorical_kl(x, x, unimix=0.1, dyn=1.0, rep=1.0, free_nats=float("inf")), "free_nats"),
        (lambda x: gaussian_kl(x, x, min_std=1.0, backend="triton"), "float32"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(2, 3, 4, dtype=torch.float64))


def test_a_side_that_its_scale_would_train_must_take_a_gradient():
    q, p = torch.zeros(2, 4, requires_grad=True), torch.zeros(2, 4)
    settings = {"min_std": 1.0, "rep": 0.5, "free_nats": 0.0}
    with pytest.raises(ValueError, match="prior_raw: expected a tensor that takes a gradient"):
        balanced_gaussian_kl(q, p, dyn=0.5, **settings)
    with pytest.raises(ValueError, match="posterior_raw: expected a tensor that takes a gradient"):
        balanced_gaussian_kl(p, q, dyn=0.5, **settings)
    balanced_gaussian_kl(q, p, dyn=0.0, **settings).balanced.sum().backward()
    with torch.no_grad():
        balanced_gaussian_kl(q, p, dyn=0.5, **settings)
    balanced_gaussian_kl(p, p, dyn=0.5, **settings)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(Exception, match=r"(?i)shape|type"):  # jaxtyping sees it first while tests run
        gaussian_kl(torch.zeros(2, 4), torch.zeros(2, 6), min_std=1.0)


def test_a_cpu_gets_the_reference_unless_the_kernels_are_asked_for(monkeypatch):
    x = torch.zeros(2, 4)
    assert not backend.runs_on_triton("auto", x, x) and not backend.runs_on_triton("reference", x, x)
    monkeypatch.setattr(backend, "triton_installed", lambda: False)
    with pytest.raises(ValueError, match="expected triton to be installed"):
        gaussian_kl(x, x, min_std=1.0, backend="triton")


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # importing it fails
import torch
from worldmodel.kernels.kl import balanced_categorical_kl, balanced_gaussian_kl, categorical_kl, gaussian_kl
import worldmodel.training.learner
for backend in ("auto", "reference"):
    q, p = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    gaussian_kl(q, p, min_std=0.1, backend=backend)
    balance = {"dyn": 1.0, "rep": 0.1, "free_nats": 1.0, "backend": backend}
    balanced_gaussian_kl(q, p, min_std=0.1, **balance).balanced.sum().backward()
    q, p = (torch.randn(2, 4, 3, requires_grad=True) for _ in range(2))
    categorical_kl(q, p, unimix=0.1, backend=backend)
    balanced_categorical_kl(q, p, unimix=0.1, **balance).balanced.sum().backward()
try:
    gaussian_kl(torch.zeros(2), torch.zeros(2), min_std=0.1, backend="triton")
except ValueError as error:
    assert "triton to be installed" in str(error), error
else:
    raise AssertionError("nothing was refused")
"""


def test_without_triton_all_but_the_kernels_works():
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True)
