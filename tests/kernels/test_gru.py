"""The launches of a GRU's step: each kernel against its formula in float64, and which code runs.

Sizes are odd, outputs begin as NaN, and the kernels are interpreted where there is no GPU.
"""

import math
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from worldmodel.kernels import gru_backward_triton, gru_reference, gru_triton
from worldmodel.kernels.gru import gru_on_triton, launches_of
from worldmodel.kernels.gru_shapes import Draw, LayerInput, Normalised

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, HIDDEN, BLOCKS, WIDTH = 19, 37, 3, 35  # two programs of rows; more than one tile of columns, none of them full
DETER, EPS = BLOCKS * WIDTH, 1e-5
GAUSSIAN, CATEGORICAL = Draw(21, 0, 0.1), Draw(3, 7, 0.01)
WIDE = Draw(2, 33, 0.0)  # classes that are more than a tile of columns
# Of the largest number of a tensor. Sums of up to 105 products in float32, each off by a few roundings of 6e-8, and
# exponentials that on a GPU are right to 2 units in the last place.
FLOAT32 = 3e-6
# Factors are rounded to half precision, by the interpreter toward zero for bfloat16: 2^-7 at worst, over a sum of
# random signs less. Results in half precision are rounded once more.
HALF = {torch.bfloat16: 2**-6, torch.float16: 2**-9}


class Case:
    """Random tensors, the same in two dtypes: what a kernel reads, and the same numbers for the formula."""

    def __init__(self, products=torch.float32):
        self.generator, self.products = torch.Generator().manual_seed(3), products

    def __call__(self, *shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=self.generator)).to(DEVICE)

    def factor(self, *shape):
        """A matrix, or the result of a product."""
        return self(*shape, scale=0.3).to(self.products)

    def keep(self):
        return torch.rand(ROWS, 1, generator=self.generator).gt(0.3).float().to(DEVICE)

    def normalised(self, *shape):
        x = self(*shape)
        stats = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True).add(EPS).rsqrt()
        return Normalised(self(*shape), self(*shape), x, *stats)

    def room(self, *shape, narrow=False):
        return torch.full(shape, math.nan, dtype=self.products if narrow else torch.float32, device=DEVICE)

    def second(self, *shape):
        """For the copy in the dtype of products, if that is another."""
        return None if self.products == torch.float32 else self.room(*shape, narrow=True)

    def noise(self, draw):
        if draw.classes:
            return torch.rand(ROWS, draw.groups, draw.classes, generator=self.generator).to(DEVICE)
        return self(ROWS, draw.groups)


def mix(case):
    tensors = case(ROWS, DETER), case.keep(), case.factor(ROWS, HIDDEN + 11), case.factor(ROWS, HIDDEN)
    weights = case(2, HIDDEN), case(2, HIDDEN), case(2, HIDDEN), case.factor(2 * HIDDEN, DETER)
    own = case.factor(BLOCKS, WIDTH, WIDTH)
    rooms = case.room(ROWS, 2, HIDDEN), case.room(ROWS, DETER)
    return "mix", [*tensors, case(ROWS, DETER), *weights, own, EPS, *rooms]


def gates(case):
    weights = case(DETER), case(DETER), case.factor(BLOCKS, WIDTH, 3 * WIDTH), case(BLOCKS, 1, 3 * WIDTH)
    rooms = case.room(BLOCKS, ROWS, 3 * WIDTH), case.room(ROWS, DETER), case.second(ROWS, DETER)
    return "gates", [case(ROWS, DETER), case.keep(), case(ROWS, DETER), *weights, EPS, *rooms]


def first_layer(case, skipped):
    base, product = case(ROWS, HIDDEN + skipped), case.factor(ROWS, HIDDEN + HIDDEN + skipped)[:, HIDDEN:]
    return LayerInput(base, product, case(HIDDEN), case(HIDDEN), (base, product) if skipped else None)


def layer(case):
    matrix, bias = case.factor(HIDDEN, HIDDEN), case(HIDDEN)
    return "layer", [first_layer(case, 0), matrix, bias, EPS, case.room(ROWS, HIDDEN), case.room(ROWS, HIDDEN)]


def head(case, draw, deep, skips):
    P, Z = (draw.groups * draw.classes,) * 2 if draw.classes else (2 * draw.groups, draw.groups)
    x = first_layer(case, P * skips)
    if deep:
        x = LayerInput(case(ROWS, HIDDEN), None, case(HIDDEN), case(HIDDEN), x.skip)
    rooms = case.room(ROWS, HIDDEN), case.room(ROWS, P, narrow=True)
    drawn = case.noise(draw), draw, case.room(ROWS, Z), case.second(ROWS, Z)
    name = "head_categorical" if draw.classes else "head_gaussian"
    return name, [x, case.factor(P, HIDDEN), case(P), EPS, *rooms, *drawn]


def draw_back(case, draw, last, skips):
    P, Z = (draw.groups * draw.classes,) * 2 if draw.classes else (2 * draw.groups, draw.groups)
    reached = None if last else case.normalised(ROWS, 2, HIDDEN)
    tensors = case(ROWS, Z), case(ROWS, P), case(ROWS, P).to(case.products)
    rooms = case.second(ROWS, P), case.room(ROWS, 2 * HIDDEN + P * skips)
    return "draw_back", [reached, case.keep(), case.factor(HIDDEN, Z), *tensors, case.noise(draw), draw, *rooms]


def norm_back(case):
    return "norm_back", [case.normalised(ROWS, HIDDEN), case.room(ROWS, HIDDEN), case.second(ROWS, HIDDEN)]


def read_back(case, last, skipped):
    inputs, read = None if last else case.normalised(ROWS, 2, HIDDEN), case.room(ROWS, 2 * HIDDEN + skipped)
    read[:, 2 * HIDDEN :] = case(ROWS, skipped)
    return "read_back", [inputs, case.keep(), case.normalised(ROWS, HIDDEN), read, case.second(*read.shape)]


def gates_back(case):
    tensors = case(ROWS, DETER), case.factor(ROWS, DETER), case(BLOCKS, ROWS, 3 * WIDTH)
    rooms = case.room(BLOCKS, ROWS, 3 * WIDTH), case.room(ROWS, DETER)
    return "gates_back", [*tensors, case.factor(BLOCKS, WIDTH, 3 * WIDTH), *rooms]


def mix_back(case):
    tensors = case(ROWS, DETER), case.factor(ROWS, DETER), case(BLOCKS, ROWS, WIDTH), case.normalised(ROWS, DETER)
    weights = case.keep(), case.factor(2 * HIDDEN, DETER), case.factor(BLOCKS, WIDTH, WIDTH)
    return "mix_back", [*tensors, *weights, case.room(ROWS, 2, HIDDEN), case(ROWS, DETER)]


CASES = {
    "mix": mix,
    "gates": gates,
    "layer": layer,
    "gaussian head": partial(head, draw=GAUSSIAN, deep=False, skips=False),
    "deep gaussian head that skips": partial(head, draw=GAUSSIAN, deep=True, skips=True),
    "categorical head that skips": partial(head, draw=CATEGORICAL, deep=False, skips=True),
    "deep head of many classes": partial(head, draw=WIDE, deep=True, skips=False),
    "gaussian draw": partial(draw_back, draw=GAUSSIAN, last=False, skips=True),
    "categorical draw": partial(draw_back, draw=CATEGORICAL, last=False, skips=True),
    "many classes drawn at the last step": partial(draw_back, draw=WIDE, last=True, skips=False),
    "norm_back": norm_back,
    "read_back": partial(read_back, last=False, skipped=0),
    "read_back at the last step": partial(read_back, last=True, skipped=10),
    "gates_back": gates_back,
    "mix_back": mix_back,
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def widened(x):
    """A copy in float64, of tensors in tuples too."""
    if isinstance(x, torch.Tensor):
        return x.double()
    if isinstance(x, Draw) or not isinstance(x, tuple):
        return x
    parts = [widened(part) for part in x]
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def assert_as_the_formula(case, products, tolerance):
    name, arguments = case(Case(products))
    wide = [widened(x) for x in arguments]
    module = gru_triton if hasattr(gru_triton, name) else gru_backward_triton
    getattr(module, name)(*arguments)
    getattr(gru_reference, name)(*wide)
    for i, (got, expected) in enumerate(zip(arguments, wide, strict=True)):
        if isinstance(got, torch.Tensor):
            unread = expected.isnan()  # the skip's columns of read', where they are none of this launch's
            assert torch.equal(got.isnan(), unread), (i, "not written, or too much")
            error = (got.double() - expected).nan_to_num(0.0).abs().max()
            assert error <= tolerance * expected.nan_to_num(0.0).abs().max().clamp(min=1.0), (i, error)


@cases
def test_each_kernel_is_its_formula(case):
    assert_as_the_formula(case, torch.float32, FLOAT32)


@pytest.mark.parametrize("products", HALF)
@pytest.mark.parametrize(
    "name", ["mix", "gates", "gaussian head", "gaussian draw", "read_back at the last step", "mix_back"]
)
def test_products_of_half_precision_are_those_of_rounded_factors(name, products):
    assert_as_the_formula(CASES[name], products, HALF[products])


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_formulas_and_kernels_have_the_same_names(way):
    kernels, formulas = (launches_of(reference)[way == "backward"] for reference in (False, True))
    names = {"forward": ["mix", "gates", "layer", "head_gaussian", "head_categorical"]}
    names["backward"] = ["draw_back", "norm_back", "read_back", "gates_back", "mix_back"]
    assert all(callable(getattr(module, name)) for module in (kernels, formulas) for name in names[way])
    assert formulas is gru_reference


def test_which_code_runs_is_a_rule(monkeypatch):
    states = [torch.zeros(2, 3)]
    assert not gru_on_triton("auto", torch.float32, *states)  # on a CPU nothing changes
    assert not gru_on_triton("reference", torch.float32, *states)
    assert gru_on_triton("triton", torch.float32, *(x.to(DEVICE) for x in states))
    for dtype, products in ((torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16)):
        with pytest.raises(ValueError, match="expected float32 states"):
            gru_on_triton("triton", products, states[0].to(dtype))
    with pytest.raises(ValueError, match="expected float32 states"):
        gru_on_triton("triton", torch.float64, *states)
    monkeypatch.setattr("worldmodel.kernels.gru.runs_on_triton", lambda *_: True)  # as on a GPU
    assert gru_on_triton("auto", torch.bfloat16, *states)
    assert not gru_on_triton("auto", torch.float32, states[0].double())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not gru_on_triton("auto", torch.float32, *states)
    with pytest.raises(ValueError, match="inside torch"):
        gru_on_triton("triton", torch.float32, *states)
