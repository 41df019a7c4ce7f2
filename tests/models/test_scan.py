"""The loop as one autograd function, against the plain loop: the same states, draws and gradients, and less work."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from scan_cases import B, T, gradients, inputs, make, observed
from worldmodel.models import rssm as rssm_module
from worldmodel.models import scan
from worldmodel.models.latents import CategoricalFamily
from worldmodel.models.rssm import RSSM, runs_as_scan
from worldmodel.objectives.batch_bound import bound_and_loss
from worldmodel.objectives.loss import Objective
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, GAUSSIAN, make_batch, make_model

EXACT = {"rtol": 1e-11, "atol": 1e-12}  # float64, whose sums are taken in another order
LATENTS = {
    "gaussian": GAUSSIAN,
    "categorical": CATEGORICAL,
    "without unimix": CategoricalFamily(3, 5, 0.0),
    "marginal": CategoricalFamily(3, 5, 0.01, "marginal"),
}
latents = pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)


@latents
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("layers", [1, 3])
def test_states_and_all_gradients_are_the_plain_loops(latent, skip, layers, generator):
    model = make(latent, posterior_layers=layers, skip=skip)
    arguments = inputs(model, generator)
    expected, got = (observed(model, arguments, plain) for plain in (True, False))
    assert type(got[0].grad_fn).__name__ == "_ScanBackward" != type(expected[0].grad_fn).__name__
    torch.testing.assert_close(got, expected, **EXACT)
    want, have = (gradients(outputs, model, arguments, generator) for outputs in (expected, got))
    for name, gradient in want.items():
        assert gradient.any(), name
        error = (have[name] - gradient).abs().max() / gradient.abs().max()
        assert error < 1e-13, name


def test_a_single_sequence_and_a_single_step_work_too(generator):
    model = make(GAUSSIAN)
    embed, action, is_first, noise, state = inputs(model, generator)
    for b, t in ((1, T), (B, 1), (1, 1)):
        part = *(x[:b, :t] for x in (embed, action, is_first, noise)), State(*(x[:b] for x in state))
        expected, got = (observed(model, part, plain) for plain in (True, False))
        torch.testing.assert_close(got, expected, **EXACT)
        want, have = (torch.autograd.grad(sum(x.sum() for x in y), list(state)) for y in (expected, got))
        torch.testing.assert_close(have, want, **EXACT)


def test_in_float32_the_same_classes_are_drawn(generator):
    model = make(CategoricalFamily(16, 12, 0.01), torch.float32)
    arguments = inputs(model, generator, steps=40)
    expected, got = (observed(model, arguments, plain)[1] for plain in (True, False))
    assert torch.equal(got.unflatten(-1, (16, 12)).argmax(-1), expected.unflatten(-1, (16, 12)).argmax(-1))
    assert got.unflatten(-1, (16, 12)).sum(-1).eq(1).all()


def test_without_gradients_the_numbers_are_the_same(generator):
    model = make(GAUSSIAN)
    arguments = inputs(model, generator)
    with torch.no_grad():
        alone = observed(model, arguments, False)
    assert not alone[0].requires_grad
    torch.testing.assert_close(alone, observed(model, arguments, False), rtol=0, atol=0)


def test_without_gradients_what_only_a_way_back_needs_is_kept_of_one_step(generator, monkeypatch):
    model, made, forward = make(GAUSSIAN), [], scan._forward
    monkeypatch.setattr(scan, "_forward", lambda *given: made.append(forward(*given)) or made[-1])
    arguments = inputs(model, generator)
    observed(model, arguments, False)
    with torch.no_grad():
        observed(model, arguments, False)
    whole, lean = ([x.untyped_storage().nbytes() for x in (kept.inputs, kept.gates)] for kept in made)
    assert [T * size for size in lean] == whole and made[1].layer_inputs == ()


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_under_autocast_dtypes_are_the_plain_loops_and_errors_no_larger(latent, generator):
    model = make(latent, torch.float32, posterior_layers=2)
    arguments = inputs(model, generator, steps=2)
    exact = observed(model, arguments, True)
    truth, errors = gradients(exact, model, arguments, generator), []
    for plain in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            trajectory = model.observe(*arguments, plain_loop=plain)
            outputs = observed(model, arguments, plain)
        raw = trajectory.posterior.raw if latent is GAUSSIAN else trajectory.posterior.logits
        assert [x.dtype for x in trajectory.states] == [torch.float32] * 2
        assert raw.dtype == torch.bfloat16  # a product's result in both, which the kernels read as it is
        torch.testing.assert_close(outputs[1], exact[1], rtol=0, atol=0.1)
        found = gradients(outputs, model, arguments, generator)
        assert all(found[name].dtype == truth[name].dtype for name in truth)
        errors.append(torch.stack([(found[name] - truth[name]).norm() / truth[name].norm() for name in truth]))
    assert errors[1].max() < 0.1
    assert errors[1].mean() < 1.2 * errors[0].mean()


def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(generator):
    model = make(GAUSSIAN)
    for p in model.cell.parameters():
        p.requires_grad_(False)
    arguments = inputs(model, generator)
    outputs = [observed(model, arguments, plain) for plain in (True, False)]
    want, have = (gradients(y, model, arguments, generator) for y in outputs)
    assert not any(name.startswith("cell") for name in want)
    torch.testing.assert_close(have, want, **EXACT)


def test_a_second_derivative_is_refused(generator):
    model = make(GAUSSIAN)
    arguments = inputs(model, generator)
    deter = observed(model, arguments, False)[0]
    (gradient,) = torch.autograd.grad(deter.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_a_forward_mode_derivative_is_refused_and_is_the_plain_loops(generator):
    model = make(GAUSSIAN)
    arguments = inputs(model, generator)
    embed = arguments[0].detach()
    with forward_ad.dual_level():
        moved = forward_ad.make_dual(embed, torch.ones_like(embed))
        with pytest.raises(NotImplementedError, match="must implement the jvp function"):
            observed(model, (moved, *arguments[1:]), False)
        tangent = forward_ad.unpack_dual(observed(model, (moved, *arguments[1:]), True)[0].sum()).tangent
    (gradient,) = torch.autograd.grad(observed(model, arguments, False)[0].sum(), arguments[0])
    torch.testing.assert_close(tangent, gradient.sum(), **EXACT)


@pytest.mark.parametrize(
    ("cell", "gradient", "compiled", "scans"),
    [
        ("block_gru", "full covariance", False, False),
        ("block_gru", None, False, True),
        ("block_gru", "straight_through", False, True),
        ("block_gru", "marginal", False, True),
        ("block_gru", "reinmax", False, False),
        ("block_gru", None, True, False),
        ("gru", None, False, False),
        ("bare_gru", "straight_through", False, False),
    ],
)
def test_which_loop_runs_is_a_rule(monkeypatch, cell, gradient, compiled, scans, generator):
    latent = {None: GAUSSIAN, "full covariance": FULL}.get(gradient) or CategoricalFamily(3, 5, 0.01, gradient)
    model = RSSM(embed=6, action=2, deter=8, hidden=10, latent=latent, cell=cell, posterior_layers=2)
    assert runs_as_scan(model.cell, latent, compiled) == scans
    ran, scan = [], rssm_module.scan
    monkeypatch.setattr(rssm_module, "scan", lambda *rest: (ran.append(1), scan(*rest))[1])
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    if compiled:
        model.compile()
    arguments = inputs(model, generator)
    model.observe(*arguments)
    assert len(ran) == scans
    model.observe(*arguments, plain_loop=True)
    assert len(ran) == scans


class Operations(TorchDispatchMode):
    """Counts operations, views left out, and refuses to read a number back."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number is read back"
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(model, steps, plain_loop):
    arguments = inputs(model, torch.Generator().manual_seed(0), steps)
    with Operations() as counted:
        outputs = observed(model, arguments, plain_loop)
        torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
    return counted.count


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_a_step_more_costs_few_operations_and_no_read_back(latent):
    model = make(latent)
    plain, scan = (operations(model, 8, loop) - operations(model, 7, loop) for loop in (True, False))
    assert scan < 60 and scan < 0.65 * plain, (scan, plain)


@pytest.mark.parametrize("smoothing", [False, True], ids=["filtering", "smoothing"])
@latents
def test_the_loss_of_a_model_and_its_gradients_are_the_plain_loops(monkeypatch, latent, smoothing):
    batch, found = make_batch(dtype=torch.float64), []
    for rule in (runs_as_scan, lambda *_: False):
        monkeypatch.setattr(rssm_module, "runs_as_scan", rule)
        model = make_model(latent=latent, smoothing=smoothing).double()
        objective = Objective(dyn_rep=(0.5, 0.1), free_nats=0.5)
        loss = bound_and_loss(model, batch, objective, torch.Generator().manual_seed(0))[1].value
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)
