"""LaProp and adaptive clipping against recursions written in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from worldmodel.training.optimizers import LaProp, clip_adaptively, make_optimizer


def numpy_laprop(p, gradients, lr, b1, b2, eps, decay):
    square = momentum = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        square = b2 * square + (1 - b2) * g**2
        momentum = b1 * momentum + (1 - b1) * g / (np.sqrt(square / (1 - b2**t)) + eps)
        p = p - lr * momentum / (1 - b1**t) - lr * decay * p
    return p


def run(optimizer, p, gradients):
    for g in gradients:
        p.grad = torch.from_numpy(g)
        optimizer.step()


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_laprop_is_its_recursion(decay, capturable):
    rng = np.random.default_rng(0)
    start, gradients = (
        rng.normal(size=(3, 2)),
        list(rng.normal(size=(20, 3, 2)) * 10.0 ** rng.uniform(-6, 3, (20, 1, 1))),
    )
    p = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = LaProp([p], lr=0.01, betas=(0.8, 0.9), eps=1e-12, weight_decay=decay, capturable=capturable)
    run(optimizer, p, gradients)
    np.testing.assert_allclose(
        p.detach().numpy(), numpy_laprop(start, gradients, 0.01, 0.8, 0.9, 1e-12, decay), rtol=1e-12
    )


def test_the_first_step_is_the_sign_of_the_gradient():
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    run(LaProp([p], lr=0.1), p, [np.array([1e-8, -3.0, 1e6, 0.0])])
    torch.testing.assert_close(p.detach(), torch.tensor([-0.1, 0.1, -0.1, 0.0], dtype=torch.float64))


def test_a_sudden_large_gradient_leaves_laprop_calm_where_adam_jumps():
    """Small b2: after a spike, Adam's momentum still holds it while its denominator has forgotten it."""
    gradients = [np.array([g]) for g in [1e-3] * 20 + [1e3] + [1e-3] * 10]
    p, q = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    run(LaProp([p], lr=0.01, betas=(0.9, 0.1)), p, gradients)
    run(torch.optim.Adam([q], lr=0.01, betas=(0.9, 0.1)), q, gradients)
    assert p.abs().item() < 0.01 * (len(gradients) + 10)
    assert q.abs().item() > 10


@pytest.mark.parametrize("capturable", [False, True])
def test_parameters_without_a_gradient_stay_and_catch_up_by_their_own_count(capturable):
    p, q = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = LaProp([p, q], lr=0.01, capturable=capturable)
    run(optimizer, p, [np.ones(2)] * 3)
    assert torch.equal(q.detach(), torch.ones(2, dtype=torch.float64))
    p.grad = None
    run(optimizer, q, [np.ones(2)])
    torch.testing.assert_close(q.detach(), torch.full((2,), 0.99, dtype=torch.float64))


@pytest.mark.parametrize("capturable", [False, True])
def test_laprop_goes_on_from_a_checkpoint(capturable):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=3), list(rng.normal(size=(6, 3)))
    p, q = (nn.Parameter(torch.from_numpy(start.copy())) for _ in range(2))
    whole, first = (LaProp([x], lr=0.01, capturable=capturable) for x in (p, q))
    run(whole, p, gradients)
    run(first, q, gradients[:3])
    second = LaProp([q], lr=0.01, capturable=capturable)
    second.load_state_dict(first.state_dict())
    run(second, q, gradients[3:])
    assert torch.equal(p, q)
    assert all(isinstance(x, torch.Tensor) for x in second.state[q].values())  # as checkpoints store them


def test_on_a_cpu_steps_are_counted_on_the_host_and_elsewhere_on_the_device():
    for device, capturable in (("cpu", False), ("meta", True)):
        optimizer = make_optimizer("laprop", [nn.Parameter(torch.ones(2, device=device))], learning_rate=0.1)
        assert optimizer.param_groups[0]["capturable"] is capturable


def test_a_closure_is_called_with_gradients_and_its_loss_comes_back():
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = LaProp([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == pytest.approx(1.9)


def test_adaptive_clipping_is_its_formula_tensor_by_tensor():
    rng = np.random.default_rng(1)
    sizes, lengths = [1.0, 10.0, 0.0, 1e-5], [5.0, 0.1, 1.0, 1e-6]
    values = [size * rng.normal(size=(3, 2)) for size in sizes]
    gradients = [length * rng.normal(size=(3, 2)) for length in lengths]
    parameters = [nn.Parameter(torch.from_numpy(value)) for value in values]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = torch.from_numpy(g.copy())
    without = nn.Parameter(torch.ones(2))
    factor = clip_adaptively([*parameters, without], clip=0.3, min_norm=1e-3)
    for p, value, g, share in zip(parameters, values, gradients, factor, strict=True):
        upper = 0.3 * max(1e-3, np.linalg.norm(value))
        expected = g / max(1.0, np.linalg.norm(g) / upper)
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(share.item() * g, expected, rtol=1e-12)
    assert (factor < 1).tolist() == [True, False, True, False] and without.grad is None


def test_a_gradient_of_zero_stays_zero_and_no_gradients_are_no_error():
    p = nn.Parameter(torch.zeros(2))
    assert len(clip_adaptively([p])) == 0
    p.grad = torch.zeros(2)
    assert clip_adaptively([p]).tolist() == [1.0] and p.grad.tolist() == [0.0, 0.0]


def test_the_names_make_the_optimisers():
    p = [nn.Parameter(torch.ones(2))]
    adamw, laprop = (make_optimizer(name, p, learning_rate=0.1, weight_decay=0.2) for name in ("adamw", "laprop"))
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(laprop, LaProp)
    settings = [[o.param_groups[0][key] for key in ("lr", "weight_decay", "eps")] for o in (adamw, laprop)]
    assert settings == [[0.1, 0.2, 1e-8], [0.1, 0.2, 1e-20]]
    assert make_optimizer("laprop", p, learning_rate=0.1, eps=1e-6).param_groups[0]["eps"] == 1e-6


def test_impossible_numbers_are_refused():
    p = [nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match="betas in"):
        LaProp(p, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="clip, min_norm: expected"):
        clip_adaptively(p, clip=0.0)
