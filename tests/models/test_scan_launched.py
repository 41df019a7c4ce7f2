"""The scan's loops of few launches: the loops of `scan` by formulas, exactly; by kernels, to float32's rounding.

The kernels are interpreted where there is no GPU.
"""

import re
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from scan_cases import gradients, inputs, make, observed
from worldmodel.kernels import launch_triton
from worldmodel.kernels.gru import launches_of
from worldmodel.models import rssm as rssm_module
from worldmodel.models import scan as scan_module
from worldmodel.models.latents import CategoricalFamily
from worldmodel.types import State
from worlds import CATEGORICAL, GAUSSIAN

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
LATENTS = {"gaussian": GAUSSIAN, "categorical": CATEGORICAL, "without unimix": CategoricalFamily(3, 5, 0.0)}
latents = pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)
heads = pytest.mark.parametrize(("layers", "skip"), [(1, False), (1, True), (3, True)])
# Of the largest number of a gradient: four steps in float32, whose sums are taken in another order than torch's.
FLOAT32 = 1e-5


@pytest.fixture
def by_formulas(monkeypatch):
    monkeypatch.setattr(scan_module, "gru_on_triton", lambda *_: True)
    monkeypatch.setattr(scan_module, "launches_of", lambda: launches_of(reference=True))


@pytest.fixture
def by_kernels(monkeypatch):
    monkeypatch.setattr(rssm_module, "scan", partial(scan_module.scan, backend="triton"))


def largest_error(got, expected):
    return max(((got[name] - x).abs().max() / x.abs().max()).item() for name, x in expected.items())


@latents
@heads
def test_by_formulas_states_and_gradients_are_those_of_the_plain_loop(by_formulas, latent, layers, skip, generator):
    model = make(latent, posterior_layers=layers, skip=skip)
    arguments = inputs(model, generator)
    expected, got = (observed(model, arguments, plain) for plain in (True, False))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    want, have = (gradients(outputs, model, arguments, generator) for outputs in (expected, got))
    assert largest_error(have, want) < 1e-13


@pytest.mark.parametrize(
    ("latent", "layers", "skip"),
    [(GAUSSIAN, 2, True), (CATEGORICAL, 1, False), (CategoricalFamily(3, 5, 0.0), 1, True)],
)
def test_by_kernels_they_are_so_to_float32s_rounding(by_kernels, latent, layers, skip, generator):
    narrow = make(latent, torch.float32, posterior_layers=layers, skip=skip)
    arguments = inputs(narrow, generator, steps=4)
    got = observed(narrow, arguments, False)
    have = gradients(got, narrow, arguments, generator)
    embed, action, is_first, noise, state = arguments
    embed, action, deter, stoch = (x.detach().double().requires_grad_() for x in (embed, action, *state))
    arguments = embed, action, is_first, noise.double(), State(deter, stoch)
    model = deepcopy(narrow).double()
    expected = observed(model, arguments, True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, check_dtype=False)
    assert largest_error(have, gradients(expected, model, arguments, generator)) < FLOAT32


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_under_autocast_errors_are_no_larger_than_those_of_the_loop_without_kernels(monkeypatch, latent, generator):
    """In float16, which the interpreter rounds as a GPU does."""
    model = make(latent, torch.float32, posterior_layers=2, skip=True)
    arguments = inputs(model, generator, steps=2)
    truth = gradients(observed(model, arguments, True), model, arguments, generator)
    errors = []
    for backend in ("reference", "triton"):
        monkeypatch.setattr(rssm_module, "scan", partial(scan_module.scan, backend=backend))
        with torch.autocast("cpu", torch.float16):
            outputs = observed(model, arguments, False)
        assert [x.dtype for x in outputs] == [torch.float32, torch.float32, torch.float16]
        found = gradients(outputs, model, arguments, generator)
        errors.append(torch.stack([(found[name] - truth[name]).norm() / truth[name].norm() for name in truth]))
    assert errors[1].mean() < 1.5 * errors[0].mean() < 0.01


aten = torch.ops.aten
LAUNCH_NOTHING = (
    *(aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided),
    *(aten._unsafe_view, aten.promote_types),  # a view that is not called one, and a question about dtypes
)


class Launches(TorchDispatchMode):
    """Counts operations that compute; refuses to read a number back."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not aten._local_scalar_dense.default, "a number is read back"
        self.count += not func.is_view and func.overloadpacket not in LAUNCH_NOTHING
        return func(*args, **(kwargs or {}))


def launches(latent, layers, steps, reduced=False):
    """Forward, and backward, of a whole scan."""
    model = make(latent, torch.float32, posterior_layers=layers)
    arguments = inputs(model, torch.Generator().manual_seed(0), steps)
    with Launches() as forward, torch.autocast("cpu", torch.float16, enabled=reduced):
        outputs = observed(model, arguments, False)
    with Launches() as backward:
        torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
    return forward.count, backward.count


def a_step_more(*arguments):
    """How many launches each step of a scan adds."""
    shorter, longer = (launches(*arguments[:2], steps, *arguments[2:]) for steps in (5, 6))
    return [after - before for before, after in zip(shorter, longer, strict=True)]


class Counted:
    """Functions that launch one kernel each, which count it as an operation and launch nothing."""

    def __getattr__(self, name):
        return lambda *_: torch.zeros(1)  # one operation


@pytest.fixture
def by_counted(monkeypatch):
    monkeypatch.setattr(scan_module, "gru_on_triton", lambda *_: True)
    monkeypatch.setattr(scan_module, "launches_of", lambda: (Counted(), Counted()))


@pytest.mark.parametrize("reduced", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_a_step_is_five_launches_forward_and_six_backward(by_counted, latent, reduced):
    assert a_step_more(latent, 1, reduced) == [5, 6]
    assert a_step_more(latent, 3, reduced) == [7, 10]  # a layer more: one, and two


def test_each_function_of_a_step_launches_one_kernel(by_kernels, monkeypatch, generator):
    launched, called = [], []
    launch_grid = launch_triton.launch_grid
    monkeypatch.setattr(launch_triton, "launch_grid", lambda *rest: (launched.append(1), launch_grid(*rest)))

    class Watched:
        def __init__(self, module):
            self.module = module

        def __getattr__(self, name):
            return lambda *arguments: (called.append(name), getattr(self.module, name)(*arguments))

    modules = launches_of()
    monkeypatch.setattr(scan_module, "launches_of", lambda: tuple(map(Watched, modules)))
    model = make(GAUSSIAN, torch.float32, posterior_layers=2)
    outputs = observed(model, inputs(model, generator, steps=1), False)
    forward = len(called)
    torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
    assert called[:forward] == ["mix", "gates", "layer", "head_gaussian"]
    assert called[forward:] == ["draw_back", "norm_back", "read_back", "gates_back", "mix_back"]
    assert len(launched) == len(called)


def test_the_documentation_counts_what_a_step_launches(by_counted, monkeypatch):
    counted = {"few launches": {n: a_step_more(GAUSSIAN, n) for n in (1, 2)}}
    monkeypatch.undo()
    for name, latent in (("Gaussian", GAUSSIAN), ("categorical", CATEGORICAL)):
        counted[name] = {n: a_step_more(latent, n) for n in (1, 2)}
    rows = re.findall(
        r"^\| scan, (.+?), (one|two) hidden layers? \| (\d+) \| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE
    )
    written = {(name, {"one": 1, "two": 2}[layers]): [int(forward), int(back)] for name, layers, forward, back in rows}
    assert written == {(name, n): both for name, found in counted.items() for n, both in found.items()}


def test_on_a_cpu_the_loops_are_those_without_kernels(monkeypatch, generator):
    monkeypatch.setattr(scan_module, "launches_of", lambda: pytest.fail("launched on a CPU"))
    model = make(GAUSSIAN, torch.float32)
    assert observed(model, inputs(model, generator), False)[0].isfinite().all()
