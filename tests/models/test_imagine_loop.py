"""Imagination without gradients, against the plain loop: the same states, draws and actions, and less work."""

import pytest
import torch

from models.test_scan import LATENTS, Operations, latents, make
from worldmodel.models import rssm as rssm_module
from worldmodel.models import scan_parts
from worldmodel.models.latents import CategoricalFamily
from worldmodel.models.rssm import RSSM, imagines_lean
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, GAUSSIAN

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, whose sums are taken in another order
B, H = 3, 5


def imagined(model, generator, plain_loop, steps=H):
    """States and actions from a random state, where each action depends on the state before it."""
    dtype = model.posterior_deter.weight.dtype
    generator.manual_seed(1)
    start = State(*(torch.randn(B, n, generator=generator).to(dtype) for n in (8, model.latent.width)))
    noise = model.noise(B, steps, generator)
    states, action = model.imagine(
        start, start, lambda state: torch.cat(state, -1)[:, -3:-1].tanh(), noise, plain_loop=plain_loop
    )
    return *states, action


@latents
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("looked_up", [False, True], ids=["products", "looked up"])
def test_states_and_actions_are_the_plain_loops(monkeypatch, latent, skip, layers, looked_up, generator):
    monkeypatch.setattr(scan_parts, "SMALL_MATRIX", 0 if looked_up else 10**9)
    model = make(latent, prior_layers=layers, skip=skip)
    with torch.no_grad():
        expected, got = (imagined(model, generator, plain) for plain in (True, False))
    torch.testing.assert_close(got, expected, **EXACT)
    assert not any(x.requires_grad for x in got)


def test_in_float32_the_same_classes_are_drawn(generator):
    model = make(CategoricalFamily(16, 12, 0.01), torch.float32)
    with torch.no_grad():
        expected, got = (imagined(model, generator, plain, steps=40)[1] for plain in (True, False))
    assert torch.equal(got, expected.round())
    assert got.unflatten(-1, (16, 12)).sum(-1).eq(1).all()


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_under_autocast_it_is_as_close_to_float32_as_the_plain_loop(latent, generator):
    model = make(latent, torch.float32, prior_layers=2)
    with torch.no_grad():
        exact = imagined(model, generator, True, steps=2)
        with torch.autocast("cpu", torch.bfloat16):
            plain, lean = (imagined(model, generator, loop, steps=2) for loop in (True, False))
    assert [x.dtype for x in lean] == [torch.float32] * 3
    errors = [(torch.cat([(a - b).flatten() for a, b in zip(x, exact, strict=True)])).norm() for x in (plain, lean)]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_with_gradients_the_plain_loop_runs_and_reaches_start_actions_and_weights(generator):
    model = make(GAUSSIAN)
    start = State(torch.randn(B, 8, dtype=torch.float64, requires_grad=True), torch.zeros(B, GAUSSIAN.width).double())
    action = torch.randn(B, H, 2, dtype=torch.float64, requires_grad=True)
    steps = iter(action.unbind(1))
    states, _ = model.imagine(start, start, lambda state: next(steps), model.noise(B, H, generator))
    wanted = [start.deter, action, *model.cell.parameters(), *model.prior_head.parameters()]
    assert all(gradient.any() for gradient in torch.autograd.grad(states.stoch.sum(), wanted))


@pytest.mark.parametrize("cell", ["block_gru", "gru", "bare_gru"])
@pytest.mark.parametrize("gradients", [False, True], ids=["no gradients", "gradients"])
@pytest.mark.parametrize("latent", [*LATENTS.values(), FULL, CategoricalFamily(3, 5, 0.01, "reinmax")])
def test_which_loop_runs_is_a_rule(monkeypatch, cell, gradients, latent, generator):
    model = RSSM(embed=6, action=2, deter=8, hidden=10, latent=latent, cell=cell)
    ran, loop = [], rssm_module.imagine_loop
    monkeypatch.setattr(rssm_module, "imagine_loop", lambda *rest: (ran.append(1), loop(*rest))[1])
    with torch.set_grad_enabled(gradients):
        lean = imagines_lean(model.cell, latent)
        assert lean == (cell == "block_gru" and latent is not FULL and not gradients)
        imagined(model, generator, plain_loop=True)
        assert not ran
        imagined(model, generator, plain_loop=False)
        assert len(ran) == lean


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_a_step_more_costs_few_operations_and_no_read_back(latent, generator):
    model, counts = make(latent), {}
    for plain in (True, False):
        for steps in (7, 8):
            with torch.no_grad(), Operations() as counted:
                imagined(model, generator, plain, steps)
            counts[plain, steps] = counted.count
    plain, lean = (counts[loop, 8] - counts[loop, 7] for loop in (True, False))
    assert lean < 37 and lean < 0.8 * plain, (lean, plain)
