"""The KL kernels against the float64 reference: values, every gradient, odd sizes, extremes; and what they cost.

They are interpreted where there is no GPU, with whichever triton is installed. To test another one:

    pip install --target /tmp/triton --no-deps triton==3.9.0
    PYTHONPATH=/tmp/triton pytest tests/kernels
"""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from worldmodel.kernels import kl_reference, kl_triton, launch_triton
from worldmodel.kernels.kl import balanced_categorical_kl, balanced_gaussian_kl, categorical_kl, gaussian_kl
from worldmodel.kernels.launch_triton import Tile, categorical_tile, gaussian_tile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the largest number in a row (a step's groups, a group's classes), for outputs: float32 arithmetic, whatever the
# inputs, on some dozens of operations. Not of the largest of all: beside extremes nothing else would be checked.
OUTPUT = 2e-6
# A GPU knows a probability near one, and its logarithm, to two units in the last place or 2.4e-7, since exp and
# division are approximate there (`approximate_gpu` shows which tests notice). A gradient whose terms nearly cancel is
# a difference of some such numbers, times cotangents of up to 3.
ABSOLUTE = 1.5e-6
# Of each gradient, beside OUTPUT: how it is rounded when it is stored.
STORED = {
    torch.float32: 0.0,
    torch.float16: 2**-10,  # one unit in the last place
    torch.bfloat16: 2**-7,  # likewise: Triton's interpreter truncates, where a GPU rounds to half of that
}
DYN, REP = 0.8, 0.1
# (groups,) for Gaussians, (groups, classes) for categoricals
GAUSSIANS = [(1,), (2,), (7,), (32,), (33,)]
CATEGORICALS = [(1, 1), (3, 1), (1, 2), (7, 5), (4, 32), (2, 100)]


class Gaussian:
    kl, balanced = staticmethod(gaussian_kl), staticmethod(balanced_gaussian_kl)
    formula, entropy = staticmethod(kl_reference.gaussian_kl), staticmethod(kl_reference.gaussian_entropy)
    operator = staticmethod(kl_triton.gaussian_kl)

    def __init__(self, groups, min_std=0.1):
        self.width, self.settings = (2 * groups,), {"min_std": min_std}


class Categorical:
    kl, balanced = staticmethod(categorical_kl), staticmethod(balanced_categorical_kl)
    formula, entropy = staticmethod(kl_reference.categorical_kl), staticmethod(kl_reference.categorical_entropy)
    operator = staticmethod(kl_triton.categorical_kl)

    def __init__(self, groups, classes, unimix=0.01):
        self.width, self.settings = (groups, classes), {"unimix": unimix}


def family(size):
    return Gaussian(*size) if len(size) == 1 else Categorical(*size)


FAMILIES = pytest.mark.parametrize("family", [Gaussian(5), Categorical(3, 4)], ids=["gaussian", "categorical"])


def inputs(family, generator, *batch, dtype=torch.float32, scale=1.0):
    pair = (scale * torch.randn(*batch, *family.width, generator=generator) for _ in range(2))
    return [x.to(DEVICE, dtype).requires_grad_() for x in pair]


def written_out(family, q, p, free_nats):
    """What the kernels compute, in float64 by the formulas."""
    formula = lambda q, p: family.formula(q, p, *family.settings.values())  # noqa: E731
    to_prior, to_posterior = formula(q.detach(), p).sum(-1), formula(q, p.detach()).sum(-1)
    balanced = DYN * to_prior.clamp(min=free_nats) + REP * to_posterior.clamp(min=free_nats)
    entropies = [family.entropy(x, *family.settings.values()) for x in (q, p)]
    return balanced, formula(q, p), *entropies


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN (of True, for booleans), so that what a kernel does not write is seen."""
    empty = torch.Tensor.new_empty
    fill = lambda *args, **kwargs: (lambda x: x.fill_(torch.nan if x.is_floating_point() else True))(  # noqa: E731
        empty(*args, **kwargs)
    )
    monkeypatch.setattr(torch.Tensor, "new_empty", fill)


def close(got, expected, stored=0.0):
    assert got.isfinite().all() and got.shape == expected.shape
    allowed = ABSOLUTE + OUTPUT * expected.abs().amax(-1, keepdim=True) + stored * expected.abs()
    error = (got.double() - expected).abs()
    assert (error <= allowed).all(), f"off by {error.max():.2e}, with {expected.abs().max():.2e} the largest"


def agree(family, q, p, generator, free_nats, used=(True, True, True, True)):
    """Values, and gradients for random cotangents of the outputs that are used, are those of the formulas."""
    got = family.balanced(q, p, **family.settings, dyn=DYN, rep=REP, free_nats=free_nats, backend="triton")
    q64, p64 = (x.detach().double().requires_grad_() for x in (q, p))
    expected = written_out(family, q64, p64, free_nats)
    outputs = (got.balanced, got.kl, got.posterior_entropy, got.prior_entropy)
    for a, b in zip(outputs, expected, strict=True):
        assert a.dtype == torch.float32
        close(a, b)
    cotangent = [torch.randn(x.shape, generator=generator).to(DEVICE) for x in outputs]
    chosen = [(a, b, c) for a, b, c, use in zip(outputs, expected, cotangent, used, strict=True) if use]
    a, b, c = zip(*chosen, strict=True)
    ours = torch.autograd.grad(a, (q, p), c)
    theirs = torch.autograd.grad(b, (q64, p64), [x.double() for x in c], materialize_grads=True)
    for x, gradient, exact in zip((q, p), ours, theirs, strict=True):
        assert gradient.dtype == x.dtype
        close(gradient, exact, STORED[x.dtype])


def median_kl(family, q, p):
    """Free nats that hold half of the steps, and are not some step's KL, which rounding would put on either side."""
    return 1.0001 * family.formula(q, p, *family.settings.values()).sum(-1).median().item()


@pytest.mark.parametrize("size", GAUSSIANS + CATEGORICALS, ids=str)
def test_values_and_gradients_are_those_of_the_formulas(poisoned, generator, size):
    q, p = inputs(family(size), generator, 3, 5)
    agree(family(size), q, p, generator, free_nats=median_kl(family(size), q, p))


@FAMILIES
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_half_precision_is_computed_in_float32_and_its_gradients_come_back_in_its_own(
    poisoned, generator, family, dtype
):
    q, p = inputs(family, generator, 3, 5, dtype=dtype)
    agree(family, q, p, generator, free_nats=median_kl(family, q.float(), p.float()))


@FAMILIES
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("narrow", ["posterior", "prior"])
def test_one_side_may_be_in_half_precision_alone(poisoned, generator, family, half, narrow):
    q, p = (x.detach() for x in inputs(family, generator, 3, 5))
    q, p = (q.to(half), p) if narrow == "posterior" else (q, p.to(half))
    agree(family, q.requires_grad_(), p.requires_grad_(), generator, median_kl(family, q.float(), p.float()))


@FAMILIES
@pytest.mark.parametrize(
    "used", [[i == one for i in range(4)] for one in range(4)], ids=["balanced", "kl", "posterior", "prior"]
)
def test_each_output_has_its_own_gradient(poisoned, generator, family, used):
    q, p = inputs(family, generator, 3, 5)
    agree(family, q, p, generator, median_kl(family, q, p), used)


@pytest.mark.parametrize("size", [(10,), (10, 6)], ids=str)
@pytest.mark.parametrize("tile", [Tile(2, 4, 8, 1), Tile(1, 16, 8, 1)], ids=["blocks of groups", "one step a program"])
def test_many_programs_and_blocks_of_groups_make_one_result(poisoned, generator, monkeypatch, size, tile):
    monkeypatch.setattr(launch_triton, "interpreted", lambda tile, rows: tile)  # or the rows were as many as there are
    monkeypatch.setattr(kl_triton, "gaussian_tile", lambda *_: tile)
    monkeypatch.setattr(kl_triton, "categorical_tile", lambda *_: tile)
    q, p = inputs(family(size), generator, 5)
    agree(family(size), q, p, generator, free_nats=median_kl(family(size), q, p))


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 1, 3)], ids=str)
@FAMILIES
def test_any_leading_shape(poisoned, generator, family, batch):
    q, p = inputs(family, generator, *batch)
    agree(family, q, p, generator, free_nats=1.0)


@FAMILIES
def test_an_empty_batch_has_empty_results(generator, family):
    q, p = inputs(family, generator, 0, 3)
    result = family.balanced(q, p, **family.settings, dyn=DYN, rep=REP, free_nats=1.0, backend="triton")
    assert result.balanced.shape == (0, 3) and result.kl.shape[:-1] == (0, 3)
    (result.balanced.sum() + result.kl.sum()).backward()
    assert q.grad.shape == q.shape


@pytest.mark.parametrize("size", [(0,), (0, 3)], ids=str)
def test_of_no_groups_there_is_no_kl_and_all_steps_are_clamped(poisoned, generator, size):
    q, p = inputs(family(size), generator, 2)
    result = family(size).balanced(q, p, **family(size).settings, dyn=DYN, rep=REP, free_nats=1.0, backend="triton")
    assert result.kl.shape == (2, 0)
    torch.testing.assert_close(result.balanced, torch.full_like(result.balanced, DYN + REP))
    result.balanced.sum().backward()
    assert q.grad.shape == q.shape


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_what_is_not_a_distribution_is_not_a_number_in_its_group_alone(poisoned, classes, bad):
    q, p = (torch.zeros(2, 2, classes, device=DEVICE) for _ in range(2))
    q[0, 1] = bad
    for result in categorical_kl(q, p, unimix=0.01, backend="triton")[:2]:  # KL, the posterior's entropy
        assert result[0, 1].isnan() and result.isnan().sum() == 1


def test_a_logit_of_minus_infinity_is_a_class_without_mass(poisoned, generator):
    q, p = inputs(Categorical(2, 5), generator, 3)
    with torch.no_grad():
        q[0, 0, 1] = p[1, 1, 4] = -torch.inf
    agree(Categorical(2, 5), q, p, generator, free_nats=1.0)


@FAMILIES
def test_outputs_are_float32_whatever_the_default(generator, family):
    q, p = inputs(family, generator, 2)
    torch.set_default_dtype(torch.float64)
    try:
        result = family.kl(q, p, **family.settings, backend="triton")
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(x.dtype == torch.float32 for x in result)


@pytest.mark.parametrize("min_std", [0.1, 1e-3])
def test_extreme_gaussians(poisoned, generator, min_std):
    raw = torch.tensor([[1e4, -1e4, 50.0, -50.0], [0.0, 1.0, -50.0, 50.0], [0.0, 0.0, -50.0, 0.0]], device=DEVICE)
    for q, p in ((raw, -raw), (-raw, raw), (raw, raw.flip(0))):
        agree(Gaussian(2, min_std), q.clone().requires_grad_(), p.clone().requires_grad_(), generator, free_nats=0.0)


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_extreme_logits(poisoned, generator, unimix):
    logits = torch.tensor([[[1e4, -1e4, 0.0]], [[1e4, 1e4, -1e4]], [[0.0, 0.0, 1e-3]]], device=DEVICE)
    for q, p in ((logits, -logits), (-logits, logits), (logits, logits.flip(0))):
        agree(Categorical(1, 3, unimix), q.clone().requires_grad_(), p.clone().requires_grad_(), generator, 0.0)


def test_a_thousand_classes(poisoned, generator):
    wide = Categorical(2, 1024)
    q, p = inputs(wide, generator, 2, scale=3.0)
    agree(wide, q, p, generator, free_nats=0.5)


@FAMILIES
def test_identical_distributions_have_exactly_no_kl_and_no_gradient(generator, family):
    q, _ = inputs(family, generator, 6, scale=20.0)
    p = q.detach().clone().requires_grad_()
    result = family.balanced(q, p, **family.settings, dyn=DYN, rep=REP, free_nats=0.0, backend="triton")
    assert result.kl.eq(0).all() and result.balanced.eq(0).all()
    (result.balanced.sum() + result.kl.sum()).backward()
    assert q.grad.eq(0).all() and p.grad.eq(0).all()


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_nearly_equal_categoricals_lose_few_digits_and_are_not_below_zero(generator, unimix):
    near = Categorical(4, 32, unimix)
    q = 3 * torch.randn(20, 4, 32, generator=generator)
    # A difference of two logarithms, each known to a few roundings on a GPU, in units of their distance.
    for distance, digits in ((1e-2, 3e-4), (1e-3, 3e-3), (1e-4, 3e-2), (1e-6, torch.inf)):
        p = q + distance * torch.randn(20, 4, 32, generator=generator)
        got = categorical_kl(q.to(DEVICE), p.to(DEVICE), unimix=unimix, backend="triton").kl.cpu()
        exact = near.formula(q.double(), p.double(), unimix)
        assert (got >= 0).all()
        assert (got / exact - 1).abs().max() < digits


@FAMILIES
def test_clamped_steps_have_no_gradient_and_the_free_nats_as_value(generator, family):
    q, p = inputs(family, generator, 40)
    free = median_kl(family, q, p)
    result = family.balanced(q, p, **family.settings, dyn=DYN, rep=REP, free_nats=free, backend="triton")
    result.balanced.sum().backward()
    under = result.kl.sum(-1) < free
    assert 0 < under.float().mean() < 1
    torch.testing.assert_close(result.balanced[under], torch.full_like(result.balanced[under], 0.9 * free))
    assert q.grad[under].eq(0).all() and p.grad[under].eq(0).all()
    assert q.grad[~under].flatten(1).abs().sum(-1).gt(0).all()


@pytest.fixture
def launches(monkeypatch):
    """The arguments of every launch."""
    seen, launch = [], kl_triton.launch
    monkeypatch.setattr(
        kl_triton, "launch", lambda kernel, tile, extent, arguments: (
            seen.append(arguments), launch(kernel, tile, extent, arguments)
        )
    )  # fmt: skip
    return seen


@FAMILIES
@pytest.mark.parametrize("free_nats", [0.0, 1.0])
def test_one_launch_forward_one_backward_and_only_inputs_and_clamps_are_kept(generator, launches, family, free_nats):
    q, p = inputs(family, generator, 4, 3)
    kept = []
    with saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        result = family.balanced(q, p, **family.settings, dyn=DYN, rep=REP, free_nats=free_nats, backend="triton")
    assert len(launches) == 1
    clamped = [launches[0]["clamped_ptr"].data_ptr()] if free_nats else []  # a byte a step
    assert kept == [q.data_ptr(), p.data_ptr(), *clamped]
    torch.autograd.grad(result.balanced, (q, p), torch.ones_like(result.balanced))
    assert len(launches) == 2


@FAMILIES
def test_the_halves_of_one_tensor_are_read_where_they_lie(poisoned, generator, launches, family):
    whole = torch.randn(3, 5, 2, *family.width, generator=generator).to(DEVICE)
    q, p = (whole[:, :, i].requires_grad_() for i in range(2))
    assert not q.is_contiguous()
    agree(family, q, p, generator, free_nats=1.0)
    assert len(launches) == 2
    for arguments in launches:
        assert [arguments[name].data_ptr() for name in ("q_ptr", "p_ptr")] == [q.data_ptr(), p.data_ptr()]


@FAMILIES
def test_any_stride_is_read_right(poisoned, generator, family):
    q = (
        torch.randn(*reversed(family.width), 3, 4, generator=generator)
        .to(DEVICE)
        .permute(*range(-1, -3, -1), 1, 0)[..., : family.width[0], :]
        if len(family.width) == 2
        else torch.randn(*family.width, 4, generator=generator).to(DEVICE).mT
    )
    p = torch.randn(*q.shape, generator=generator).to(DEVICE)
    agree(family, q.requires_grad_(), p.requires_grad_(), generator, free_nats=1.0)


@FAMILIES
@pytest.mark.parametrize(("output", "name"), [(0, "kl_grad"), (1, "q_entropy_grad"), (2, "p_entropy_grad")])
def test_the_gradient_of_a_sum_is_read_where_it_lies(generator, launches, family, output, name):
    q, p = inputs(family, generator, 4, 3)
    q64, p64 = (x.detach().double().requires_grad_() for x in (q, p))
    weight = torch.randn(4, 3, generator=generator).to(DEVICE)
    got = family.kl(q, p, **family.settings, backend="triton")[output]
    (got.sum(-1) * weight).sum().backward()
    assert launches[1][f"{name}_ptr"].stride() == (1, 0)
    expected = written_out(family, q64, p64, 0.0)[1 + output]
    gradients = torch.autograd.grad((expected.sum(-1) * weight).sum(), (q64, p64), materialize_grads=True)
    for x, exact in zip((q, p), gradients, strict=True):
        close(x.grad, exact)


@FAMILIES
def test_a_posterior_may_be_compared_with_a_prior_that_is_fixed(generator, family):
    q, p = inputs(family, generator, 4)
    family.kl(q, p.detach(), **family.settings, backend="triton").kl.sum().backward()
    q64 = q.detach().double().requires_grad_()
    family.formula(q64, p.detach().double(), *family.settings.values()).sum().backward()
    close(q.grad, q64.grad)


@FAMILIES
def test_a_second_derivative_is_refused(generator, family):
    q, p = inputs(family, generator, 4)
    result = family.kl(q, p, **family.settings, backend="triton").kl.square().sum()
    (gradient,) = torch.autograd.grad(result, q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


@FAMILIES
@pytest.mark.parametrize("balanced", [False, True], ids=["plain", "balanced"])
def test_a_forward_mode_derivative_is_refused_by_the_operators_name_and_is_the_references(generator, family, balanced):
    q, p = (x.detach() for x in inputs(family, generator, 4))
    balance = {"dyn": DYN, "rep": REP, "free_nats": 0.0} if balanced else {}
    divergence = family.balanced if balanced else family.kl
    formula = lambda q, backend: divergence(q, p, **family.settings, **balance, backend=backend)[0].sum()  # noqa: E731
    named = f"worldmodel::{family.operator._name}: expected no forward-mode derivative"
    for derivative in (
        lambda f: torch.func.jvp(f, (q,), (p,))[1],
        lambda f: torch.func.jacfwd(f)(q),
        lambda f: torch.func.vmap(lambda t: torch.func.jvp(f, (q,), (t,))[1])(p[None]),
    ):
        with pytest.raises(NotImplementedError, match=named):
            derivative(lambda q: formula(q, "triton"))
    for leaf in (q, q.clone().requires_grad_()):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=named):
            family.operator(forward_ad.make_dual(leaf, p), p, *family.settings.values(), DYN, REP, 0.0)
    slope = torch.func.jvp(lambda q: formula(q, "reference"), (q,), (p,))[1]
    tangent, q, p = p, q.clone().requires_grad_(), p.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(formula(q, "reference"), q)
    torch.testing.assert_close(slope, (gradient * tangent).sum(), rtol=1e-4, atol=1e-5)


@FAMILIES
def test_a_tangent_of_a_cotangent_is_refused_too(generator, family):
    q, p = inputs(family, generator, 4)
    kl = family.kl(q, p, **family.settings, backend="triton").kl
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="_kl_backward: expected no forward-mode"):
        torch.autograd.grad(kl, q, forward_ad.make_dual(torch.ones_like(kl), torch.ones_like(kl)))


@FAMILIES
def test_torch_takes_them_for_operators_of_its_own(generator, family):
    q, p = inputs(family, generator, 3, 2)
    torch.library.opcheck(family.operator, (q, p, *family.settings.values(), DYN, REP, 1.0))


COMPILED = """
import torch
from worldmodel.kernels.kl import balanced_categorical_kl, balanced_gaussian_kl

def check(balanced, device, *width, **settings):
    function = lambda q, p: balanced(q, p, **settings, dyn=0.8, rep=0.1, free_nats=1.0, backend="triton")
    q, p = (torch.randn(3, 2, *width, device=device, requires_grad=True) for _ in range(2))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(function(q, p), compiled(q, p), strict=True):
        assert torch.equal(a, b)
    one, other = (torch.autograd.grad(f(q, p).balanced.sum(), (q, p)) for f in (function, compiled))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])

check(balanced_gaussian_kl, DEVICE, 6, min_std=0.1)
check(balanced_categorical_kl, DEVICE, 3, 4, unimix=0.01)
"""


def test_they_compile_as_a_whole():
    code = f"DEVICE = {DEVICE!r}{COMPILED}"  # elsewhere, as torch.compile cannot look into the tests' type checks
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_thread_has_one_load_of_16_bytes_wherever_the_tile_is_wide_enough(itemsize):
    tiles = [gaussian_tile(S, itemsize) for S in (1, 32, 256, 1024, 5000)]
    tiles += [categorical_tile(S, K, itemsize) for S, K in ((1, 1), (32, 32), (48, 10), (32, 64), (2, 1024))]
    for tile in tiles:
        assert tile.rows * tile.groups * tile.classes * itemsize == tile.num_warps * 32 * 16


def test_nearly_equal_gaussians_and_narrow_ones_lose_few_digits(generator):
    q = torch.randn(50, 10, generator=generator)
    p = q + 1e-3 * torch.randn(50, 10, generator=generator)
    got = gaussian_kl(q.to(DEVICE), p.to(DEVICE), min_std=0.1, backend="triton").kl.cpu()
    assert (got / kl_reference.gaussian_kl(q.double(), p.double(), 0.1) - 1).abs().max() < 5e-3
    narrow = torch.tensor([[0.0, -12.0], [0.0, -16.0]])  # 1 + exp(-16) has one digit of exp(-16) left
    entropy = gaussian_kl(narrow.to(DEVICE), narrow.to(DEVICE), min_std=1e-12, backend="triton").posterior_entropy.cpu()
    close(entropy, kl_reference.gaussian_entropy(narrow.double(), 1e-12))
