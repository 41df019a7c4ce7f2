"""The latent head: kernels against the formulas in float64, and those against closed forms.

The kernels are interpreted where there is no GPU.
"""

import math
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.kernels import kl, kl_triton, latent, latent_reference, latent_triton, launch_triton
from worldmodel.kernels.backend import runs_on_triton
from worldmodel.kernels.kl_reference import mix_uniform, mix_uniform_probs
from worldmodel.kernels.latent import (
    categorical_head,
    categorical_head_on_triton,
    gaussian_head,
    gaussian_head_on_triton,
)
from worldmodel.kernels.launch_triton import Tile
from worldmodel.models.latents import CategoricalFamily, GaussianFamily

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MIN_STD, UNIMIX = 0.1, 0.01
# Of the largest number of a tensor, or of 1 where mean and noise may cancel. Inputs are converted exactly, the maths is
# float32: a few roundings of 6e-8.
FORWARD = 5e-7
# Gradients are rounded to the inputs' dtype; the interpreter cuts bfloat16 off instead, a whole step of 2^-8 in [1, 2).
GRADIENT = {torch.float32: 1e-6, torch.float16: 2**-11 + 1e-6, torch.bfloat16: 2**-7}
DTYPES = list(GRADIENT)
GAUSSIAN_SHAPES = [(3, 2, 5), (7, 1), (1,), (2, 33), (300, 3)]
CATEGORICAL_SHAPES = [(3, 2, 5, 7), (4, 1, 9), (2, 3, 1), (1, 1), (33, 48, 10), (2, 1, 1000)]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory comes filled with NaN, so that an output that was not written shows."""
    new_empty = torch.Tensor.new_empty

    def poisoned_empty(like, *size, **kwargs):
        made = new_empty(like, *size, **kwargs)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned_empty)


def gaussian_inputs(shape, dtype, generator, scale=1.0):
    raw = scale * torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)
    return raw.to(DEVICE, dtype).requires_grad_(), torch.randn(*shape, generator=generator).to(DEVICE)


def categorical_inputs(shape, dtype, generator, scale=1.0):
    logits = scale * torch.randn(*shape, generator=generator)
    return logits.to(DEVICE, dtype).requires_grad_(), torch.rand(*shape, generator=generator).to(DEVICE)


INPUTS = ("raw_ptr", "logits_ptr", "q_ptr", "p_ptr")
HEADS = {
    "gaussian": (gaussian_head, {"min_std": MIN_STD}, gaussian_inputs, (5, 3, 6)),
    "categorical": (categorical_head, {"unimix": UNIMIX}, categorical_inputs, (5, 3, 4, 6)),
}


def exact(head, source, noise, **setting):
    """The formulas in float64, on the very numbers that the kernel read."""
    wide = source.detach().double().requires_grad_()
    return wide, head(wide, noise, backend="reference", **setting)


def assert_near(got, expected, tolerance, scale=1e-30):
    assert got.shape == expected.shape
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=scale)


def assert_gradients_near(sample, source, expected, wide, generator, tolerance):
    cotangent = torch.randn(sample.shape, generator=generator).to(DEVICE)
    (got,) = torch.autograd.grad(sample, source, cotangent)
    (want,) = torch.autograd.grad(expected, wide, cotangent.double())
    assert got.dtype == source.dtype
    assert_near(got, want, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GAUSSIAN_SHAPES)
def test_gaussian_head_is_the_formula(shape, dtype, generator):
    raw, noise = gaussian_inputs(shape, dtype, generator)
    got = gaussian_head(raw, noise, min_std=MIN_STD, backend="triton")
    wide, expected = exact(gaussian_head, raw, noise, min_std=MIN_STD)
    assert got.dtype == torch.float32
    assert_near(got, expected, FORWARD, scale=1.0)
    assert_gradients_near(got, raw, expected, wide, generator, GRADIENT[dtype])


@pytest.mark.parametrize("unimix", [0.0, UNIMIX])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CATEGORICAL_SHAPES)
def test_categorical_head_is_the_formula(shape, dtype, unimix, generator):
    logits, noise = categorical_inputs(shape, dtype, generator)
    got = categorical_head(logits, noise, unimix=unimix, backend="triton")
    wide, expected = exact(categorical_head, logits, noise, unimix=unimix)
    assert got.dtype == torch.float32
    assert torch.equal(got.double(), expected.detach())
    if shape[-1] > 1:
        assert_gradients_near(got, logits, expected, wide, generator, GRADIENT[dtype])


def test_one_class_has_no_gradient(generator):
    logits, noise = categorical_inputs((3, 2, 1), torch.float32, generator)
    got = categorical_head(logits, noise, unimix=UNIMIX, backend="triton")
    (gradient,) = torch.autograd.grad(got.square().sum(), logits)
    assert got.eq(1).all() and gradient.eq(0).all()


@pytest.mark.parametrize("family", [GaussianFamily(6, MIN_STD), CategoricalFamily(4, 6, UNIMIX)])
def test_a_kernels_sample_is_that_of_the_distribution(family, generator):
    raw = torch.randn(500, family.parameters, generator=generator)
    noise = family.noise(500, like=raw, generator=generator)
    expected = family.distribution(raw.requires_grad_()).rsample(noise)  # on the CPU, where no kernel runs
    cotangent = torch.randn(expected.shape, generator=generator)
    gradients = [torch.autograd.grad(expected, raw, cotangent)[0]]
    raw, noise = raw.detach().to(DEVICE).requires_grad_(), noise.to(DEVICE)
    if isinstance(family, GaussianFamily):
        got = gaussian_head(raw, noise, min_std=MIN_STD, backend="triton")
    else:
        got = categorical_head(raw.unflatten(-1, (4, 6)), noise, unimix=UNIMIX, backend="triton")
        assert torch.equal(got.cpu(), expected)
    gradients.append(torch.autograd.grad(got, raw, cotangent.to(DEVICE))[0].cpu())
    torch.testing.assert_close(got.cpu(), expected)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)  # two float32 roads to the same


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", [GaussianFamily(6, MIN_STD), CategoricalFamily(4, 6, UNIMIX)])
def test_half_precision_reaches_the_kernels_and_all_else_is_float32(monkeypatch, family, half, generator):
    """As under autocast on a GPU: what a head puts out is handed on as it is, and drawn from exactly."""
    for module in (latent, kl):
        monkeypatch.setattr(module, "runs_on_triton", lambda *_: True)
    read = []
    for module in (latent_triton, kl_triton):
        launch = module.launch
        monkeypatch.setattr(
            module, "launch", lambda kernel, tile, extent, arguments, launch=launch: (
                read.append({arguments[name].dtype for name in INPUTS if name in arguments}),
                launch(kernel, tile, extent, arguments),
            )
        )  # fmt: skip
    raws = [torch.randn(50, family.parameters, generator=generator).to(DEVICE, half).requires_grad_() for _ in range(2)]
    posterior, prior = (family.distribution(raw) for raw in raws)
    noise = family.noise(50, like=raws[0].float()).to(DEVICE)
    sample = posterior.rsample(noise)
    balanced = posterior.balanced_kl(prior, dyn=0.5, rep=0.1, free_nats=0.0)
    divergence = posterior.divergence(prior)
    (sample.square().sum() + balanced.balanced.sum() + divergence.kl.sum()).backward()
    drawn = 2 * isinstance(family, CategoricalFamily)  # a Gaussian sample is its formula
    assert read == [{half}] * (drawn + 4)  # forward and backward of each
    assert all(raw.grad.dtype == half for raw in raws)
    assert all(x.dtype == torch.float32 for x in (sample, *balanced, *divergence))
    assert posterior.noise().dtype == posterior.log_prob(sample).dtype == posterior.entropy().dtype == torch.float32
    monkeypatch.undo()
    wide = [raw.detach().double().requires_grad_() for raw in raws]
    posterior, prior = (family.distribution(raw) for raw in wide)
    again = posterior.rsample(noise.double())
    exact = posterior.balanced_kl(prior, dyn=0.5, rep=0.1, free_nats=0.0)
    (again.square().sum() + exact.balanced.sum() + posterior.divergence(prior).kl.sum()).backward()
    assert_near(sample, again, FORWARD)
    assert_near(balanced.balanced, exact.balanced, 2e-6)  # a sum of some groups
    for got, expected in zip(raws, wide, strict=True):
        # Three gradients meet in `half`: each is rounded, and both sums, to a unit in the last place.
        unit = {torch.bfloat16: 2**-7, torch.float16: 2**-10}[half]
        assert_near(got.grad, expected.grad, 5 * unit)


def test_the_reference_does_bit_for_bit_what_distributions_do(generator):
    for family, head, setting in (
        (GaussianFamily(6, MIN_STD), gaussian_head, {"min_std": MIN_STD}),
        (CategoricalFamily(4, 6, UNIMIX), categorical_head, {"unimix": UNIMIX}),
    ):
        raw = torch.randn(50, family.parameters, generator=generator, requires_grad=True)
        noise = family.noise(50, like=raw, generator=generator)
        expected = family.distribution(raw).rsample(noise)
        got = head(raw.view(50, *noise.shape[1:-1], -1), noise, **setting)
        cotangent = torch.randn(got.shape, generator=generator)
        assert torch.equal(got, expected)
        assert torch.equal(*(torch.autograd.grad(z, raw, cotangent)[0] for z in (got, expected)))


def test_the_references_gradients_are_those_of_its_values(generator):
    raw, noise = gaussian_inputs((2, 3), torch.float64, generator)
    assert torch.autograd.gradcheck(lambda x: gaussian_head(x, noise, min_std=MIN_STD), raw)
    assert torch.autograd.gradgradcheck(lambda x: gaussian_head(x, noise, min_std=MIN_STD), raw)
    logits, noise = categorical_inputs((2, 3, 4), torch.float64, generator)
    # A one-hot sample is constant almost everywhere: it is given the gradient of its probabilities.
    sample, probs = categorical_head(logits, noise, unimix=UNIMIX), mix_uniform_probs(logits, UNIMIX).flatten(-2)
    cotangent = torch.randn(sample.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(x, logits, cotangent)[0] for x in (sample, probs)))
    assert torch.autograd.gradcheck(lambda x: mix_uniform_probs(x, UNIMIX), logits)
    assert torch.autograd.gradgradcheck(lambda x: mix_uniform_probs(x, UNIMIX), logits)


def test_classes_win_as_often_as_their_probability_says(generator):
    logits = torch.tensor([[2.0, 0.0, -1.0, -7.0, 1.0]], device=DEVICE)
    noise = torch.rand(100_000, 1, 5, generator=generator).to(DEVICE)
    sample = categorical_head(logits.expand(noise.shape), noise, unimix=UNIMIX, backend="triton")
    p = (1 - UNIMIX) * logits[0].softmax(-1) + UNIMIX / 5
    error = (sample.mean(0) - p) / (p * (1 - p) / len(noise)).sqrt()
    assert error.abs().max() < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_numbers_are_as_exact_as_others(dtype, generator):
    raw, noise = gaussian_inputs((4, 6), dtype, generator, scale=50.0)
    got = gaussian_head(raw, noise, min_std=MIN_STD, backend="triton")
    wide, expected = exact(gaussian_head, raw, noise, min_std=MIN_STD)
    assert_near(got, expected, FORWARD, scale=1.0)
    assert_gradients_near(got, raw, expected, wide, generator, GRADIENT[dtype])
    for unimix in (0.0, UNIMIX):
        logits, noise = categorical_inputs((4, 3, 7), dtype, generator, scale=1e4)
        got = categorical_head(logits, noise, unimix=unimix, backend="triton")
        wide, expected = exact(categorical_head, logits, noise, unimix=unimix)
        assert torch.equal(got.double(), expected.detach())
        assert_gradients_near(got, logits, expected, wide, generator, GRADIENT[dtype])


@pytest.mark.parametrize("raw_std", [-80.0, -20.0, -1e-3, 0.0, 19.9, 20.1, 80.0])
def test_a_small_std_keeps_its_digits(raw_std):
    raw = torch.tensor([0.0, raw_std], device=DEVICE)
    # With a mean of zero and noise of one the sample is the std.
    got = gaussian_head(raw, torch.ones(1, device=DEVICE), min_std=1e-38, backend="triton").double()
    expected = 1e-38 + raw.double()[1:].exp().log1p()
    # Every number of it, not of the largest. On a GPU exp(x) is 2^(x log2(e)), whose exponent is rounded to 6e-8 of x.
    torch.testing.assert_close(got, expected, rtol=5e-7 + 6e-8 * abs(raw_std), atol=0)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_equals_wins_and_noise_of_zero_and_one_is_allowed(backend, dtype):
    logits = torch.zeros(3, 1, 5, device=DEVICE)
    noise = torch.tensor([0.0, 0.5, 1.0]).to(DEVICE, dtype)[:, None, None].expand(3, 1, 5)
    sample = categorical_head(logits, noise, unimix=UNIMIX, backend=backend)
    assert torch.equal(sample, torch.eye(5, device=DEVICE)[0].expand(3, 5))
    noise = torch.tensor([[0.0, 0.1, 1.0, 0.9, 1.0]], dtype=dtype, device=DEVICE)
    assert categorical_head(logits[0], noise, unimix=UNIMIX, backend=backend).argmax() == 2


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_logit_that_is_not_a_number_shows_in_its_group_alone(backend):
    logits = torch.zeros(1, 2, 3, device=DEVICE)
    logits[0, 1, 2] = math.nan
    noise = torch.full((1, 2, 3), 0.5, device=DEVICE)
    sample = categorical_head(logits, noise, unimix=UNIMIX, backend=backend)
    assert sample[0, :3].isfinite().all() and sample[0, 3:].isnan().all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batches_give_empty_samples(shape):
    raw = torch.zeros(*shape[:-1], 2 * shape[-1], requires_grad=True, device=DEVICE)
    sample = gaussian_head(raw, torch.zeros(shape, device=DEVICE), min_std=MIN_STD, backend="triton")
    logits = torch.zeros(*shape, 4, requires_grad=True, device=DEVICE)
    drawn = categorical_head(logits, torch.zeros(*shape, 4, device=DEVICE), unimix=UNIMIX, backend="triton")
    assert sample.shape == shape and drawn.shape == (shape[0], 4 * shape[1])
    (sample.sum() + drawn.sum()).backward()
    assert raw.grad.shape == raw.shape and logits.grad.shape == logits.shape


@pytest.mark.parametrize("name", HEADS)
def test_many_small_programs_do_what_a_large_one_does(name, generator, monkeypatch):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    expected = head(source, noise, backend="triton", **setting)
    gradient = torch.autograd.grad(expected.square().sum(), source)[0]
    small = {"gaussian": Tile(2, 4, 1, 1), "categorical": Tile(2, 2, 8, 1)}[name]
    monkeypatch.setattr(launch_triton, "interpreted", lambda tile, rows: tile)
    monkeypatch.setattr(latent_triton, f"{name}_tile", lambda *_: small)
    got = head(source, noise, backend="triton", **setting)
    assert torch.equal(got, expected)
    assert torch.equal(torch.autograd.grad(got.square().sum(), source)[0], gradient)


@pytest.fixture
def launches(monkeypatch):
    """The arguments of every launch."""
    seen, launch = [], launch_triton.launch
    monkeypatch.setattr(
        latent_triton, "launch", lambda kernel, tile, extent, arguments: (
            seen.append(arguments), launch(kernel, tile, extent, arguments)
        )
    )  # fmt: skip
    return seen


@pytest.mark.parametrize("name", HEADS)
def test_what_lies_apart_is_read_where_it_is(name, generator, launches):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    inner = 1 if name == "gaussian" else 2
    apart = torch.stack([source.detach(), torch.full_like(source, math.nan)], -1 - inner).requires_grad_()
    noises = torch.stack([noise, torch.full_like(noise, math.nan)], -1 - inner)
    half, noise_half = apart.select(-1 - inner, 0), noises.select(-1 - inner, 0)
    got, expected = (head(x, n, backend="triton", **setting) for x, n in ((half, noise_half), (source, noise)))
    assert torch.equal(got, expected)
    # The gradient of a sample that is concatenated to something lies apart too.
    weight = torch.randn(*got.shape[:-1], got.shape[-1] + 3, generator=generator).to(DEVICE)[..., 3:]
    got.backward(weight)
    expected.backward(weight.contiguous())
    assert torch.equal(apart.grad.select(-1 - inner, 0), source.grad)
    read = {key: x.data_ptr() for arguments in launches[::2] for key, x in arguments.items() if key.endswith("_ptr")}
    named = "raw_ptr" if name == "gaussian" else "logits_ptr"
    assert read[named] == half.data_ptr() and read["noise_ptr"] == noise_half.data_ptr()
    assert read["sample_grad_ptr"] == weight.data_ptr()
    crossed = source.detach().transpose(0, 1)  # no rows at one distance: copied, and still right
    again = head(crossed, noise.transpose(0, 1), backend="triton", **setting)
    assert torch.equal(again.transpose(0, 1), expected)


@pytest.mark.parametrize("name", HEADS)
def test_any_stride_is_read_right(name, generator):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    backwards = [x.detach().mT.contiguous().mT for x in (source, noise)]  # what is last does not lie next to another
    backwards[0].requires_grad_()
    assert all(x.stride(-1) > 1 for x in backwards)
    got, expected = (head(*x, backend="triton", **setting) for x in (backwards, (source, noise)))
    assert torch.equal(got, expected)
    weight = torch.randn(*reversed(got.shape), generator=generator).to(DEVICE).permute(2, 1, 0)
    gradients = [torch.autograd.grad(z, x, weight)[0] for z, x in ((got, backwards[0]), (expected, source))]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", HEADS)
def test_only_what_came_in_is_kept_for_backward(name, generator):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.bfloat16, generator)
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.data_ptr()) or x, lambda x: x):
        head(source, noise, backend="triton", **setting)
    assert kept <= {source.data_ptr(), noise.data_ptr()}


@pytest.mark.parametrize("name", HEADS)
def test_it_is_one_launch_forward_and_one_backward(name, generator, launches):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    sample = head(source, noise, backend="triton", **setting)
    assert len(launches) == 1
    torch.autograd.grad(sample, source, torch.ones_like(sample))
    assert len(launches) == 2


@pytest.mark.parametrize("name", HEADS)
def test_a_forward_mode_derivative_of_the_kernels_is_refused_and_is_the_references(name, generator):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    source, tangent = source.detach(), torch.ones_like(source).cumsum(-1)
    weight = torch.randn(head(source, noise, backend="reference", **setting).shape, generator=generator).to(DEVICE)
    formula = lambda x, backend: (head(x, noise, backend=backend, **setting) * weight).sum()  # noqa: E731
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jvp(lambda x: formula(x, "triton"), (source,), (tangent,))
    leaf = source.clone().requires_grad_()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        head(forward_ad.make_dual(leaf, tangent), noise, backend="triton", **setting)
    slope = torch.func.jvp(lambda x: formula(x, "reference"), (source,), (tangent,))[1]
    (gradient,) = torch.autograd.grad(formula(leaf, "reference"), leaf)
    torch.testing.assert_close(slope, (gradient * tangent).sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_second_derivative_of_the_kernels_is_refused(name, generator):
    head, setting, inputs, shape = HEADS[name]
    source, noise = inputs(shape, torch.float32, generator)
    sample = head(source, noise, backend="triton", **setting)
    (gradient,) = torch.autograd.grad(sample.square().sum(), source, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(("compiling", "kernels"), [(False, ["categorical"]), (True, [])])
def test_kernels_draw_where_they_are_cheaper_to_call_than_the_formula(monkeypatch, compiling, kernels):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    monkeypatch.setattr(latent, "runs_on_triton", lambda backend, *tensors: backend != "reference")  # as on a GPU
    x = torch.zeros(1, 2, 3)
    rules = {"gaussian": gaussian_head_on_triton, "categorical": categorical_head_on_triton}
    assert [name for name, rule in rules.items() if rule("auto", x, x)] == kernels
    assert not any(rule("reference", x, x) for rule in rules.values())
    for rule in rules.values():
        if compiling:
            with pytest.raises(ValueError, match=r"backend: expected .* inside torch.compile"):
                rule("triton", x, x)
        else:
            assert rule("triton", x, x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, n: gaussian_head(x[..., :3], n, min_std=MIN_STD), "raw"),
        (
            lambda x, n: gaussian_head(x, n.clone().requires_grad_(), min_std=MIN_STD),
            "noise: expected a tensor without",
        ),
        (lambda x, n: gaussian_head(x, n, min_std=0.0), "min_std"),
        (lambda x, n: gaussian_head(x, n, min_std=math.inf), "min_std"),
        (lambda x, n: gaussian_head(x.double(), n, min_std=MIN_STD, backend="triton"), "backend: .*float64"),
        (lambda x, n: categorical_head(x[..., :0], x[..., :0], unimix=UNIMIX), "logits"),
        (lambda x, n: categorical_head(x, x, unimix=1.0), "unimix"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(2, 3, 4), torch.zeros(2, 3, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, n: gaussian_head(x, n[..., :1], min_std=MIN_STD), "noise"),
        (lambda x, n: categorical_head(x, n, unimix=UNIMIX), "noise"),
        (lambda x, n: runs_on_triton("cuda", x), "backend"),
    ],
)
def test_bad_types_and_shapes_are_named(call, words):
    with pytest.raises(Exception, match=words):  # jaxtyping sees them first while tests run
        call(torch.zeros(2, 3, 4), torch.zeros(2, 3, 2))


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import sys; sys.modules['triton'] = None", "expected triton to be installed"),
        ("import os; os.environ.pop('TRITON_INTERPRET', None)", "expected tensors on a GPU"),
    ],
)
def test_without_triton_or_a_gpu_all_else_works(before, words):
    code = f"""
{before}
import torch
from worldmodel.kernels.latent import gaussian_head
raw, noise = torch.randn(3, 8), torch.randn(3, 4)
gaussian_head(raw, noise, min_std=0.1)
try:
    gaussian_head(raw, noise, min_std=0.1, backend="triton")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_noise_in_half_precision_is_kept_off_zero_and_one_by_its_own_rounding_step():
    probs = torch.tensor([[0.5, 0.5]])
    noise = torch.tensor([[1.0, 0.99]], dtype=torch.bfloat16)
    drawn = latent_reference.straight_through(probs, latent_reference.rates(noise))
    assert torch.equal(drawn, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("unimix", [0.0, UNIMIX])
def test_the_class_that_is_drawn_is_that_of_gumbel_max(unimix, generator):
    logits, noise = (draw(2000, 8, 32, generator=generator, dtype=torch.float64) for draw in (torch.randn, torch.rand))
    gumbel = mix_uniform(3 * logits, unimix) - torch.log(-torch.log(noise))
    drawn = categorical_head(3 * logits, noise, unimix=unimix).unflatten(-1, (8, 32))
    assert torch.equal(drawn.argmax(-1), gumbel.argmax(-1))


class NothingReadBack(TorchDispatchMode):
    """Raises where a number of a tensor is asked for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number is read back"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", [GaussianFamily(6, MIN_STD), CategoricalFamily(4, 6, UNIMIX)])
def test_a_reference_sample_reads_nothing_back(family):
    raw = torch.randn(5, family.parameters, requires_grad=True)
    with NothingReadBack():
        family.distribution(raw).rsample(family.noise(5, like=raw)).sum().backward()
    assert raw.grad.shape == raw.shape
