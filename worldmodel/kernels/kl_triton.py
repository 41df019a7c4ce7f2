"""The KL divergences as Triton kernels and torch operators: one launch forward, one backward.

    gaussian_kl, categorical_kl    (posterior, prior, ...) -> kl, both entropies, the balanced KL, whether it is clamped

A row is a step. A program takes ROWS of them and walks over their groups, GROUPS at a time, so that a step's sum, which
free nats need, never leaves it. Backward computes everything again except which steps were clamped: reading the inputs
a second time is cheaper than writing and reading more, and a sum over groups would keep too much waiting in registers.
So only the inputs are kept in between, and with free nats the clamped steps, a byte each, which nothing else reads.

Custom operators, so that torch.compile sees one node and does not look inside. They run on GPUs, and anywhere under
Triton's interpreter (TRITON_INTERPRET=1, for tests); the public functions in `kl` check arguments and choose.
(`no_type_check`: Triton reads the source of a function, so the type checker of the tests must not wrap it.)
"""

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodel.kernels.forward_mode import refuse_forward_mode
from worldmodel.kernels.launch_triton import (
    Tile,
    categorical_settings,
    categorical_tile,
    gaussian_settings,
    gaussian_tile,
    launch,
    rows_of,
    strided,
)
from worldmodel.kernels.numerics_triton import (
    categorical_divergence,
    gaussian_divergence,
    load_categorical,
    load_gaussian,
    offsets,
    rows_here,
)

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@triton.jit
@no_type_check
def store_steps(balanced_ptr, clamped_ptr, row, n_rows, total, scale, floor):
    """The balanced KL of each row and whether free nats hold it, from its KL."""
    clamped = total < floor
    tl.store(balanced_ptr + row, scale * tl.where(clamped, floor, total), mask=row < n_rows)
    tl.store(clamped_ptr + row, clamped, mask=row < n_rows)


@triton.jit
@no_type_check
def load_kl_gradients(
    kl_grad_ptr, balanced_grad_ptr, clamped_ptr,
    row, group, n_rows, inside, kl_grad_row, balanced_grad_row, dyn, rep,
    KL_GRAD: tl.constexpr, BALANCED_GRAD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """What multiplies the derivative of each group's KL by the posterior and by the prior, [ROWS, GROUPS] each."""
    q_side, p_side = tl.zeros((ROWS, GROUPS), tl.float32), tl.zeros((ROWS, GROUPS), tl.float32)
    if balanced_grad_ptr is not None:
        at = row * balanced_grad_row * BALANCED_GRAD[0]
        balanced = tl.load(balanced_grad_ptr + at, mask=row < n_rows, other=0.0)
        if clamped_ptr is not None:
            clamped = tl.load(clamped_ptr + row, mask=row < n_rows, other=0)
            balanced = tl.where(clamped != 0, 0.0, balanced)
        q_side, p_side = q_side + rep * balanced[:, None], p_side + dyn * balanced[:, None]
    if kl_grad_ptr is not None:
        at = offsets(row[:, None], group[None, :], kl_grad_row, KL_GRAD)
        plain = tl.load(kl_grad_ptr + at, mask=inside, other=0.0)
        q_side, p_side = q_side + plain, p_side + plain
    return q_side, p_side


@triton.jit
@no_type_check
def gaussian_kl_forward(
    q_ptr, p_ptr, kl_ptr, q_entropy_ptr, p_entropy_ptr, balanced_ptr, clamped_ptr,
    n_rows, q_row, p_row, min_std, scale, floor,
    S: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Raw inputs [n_rows, 2S] -> kl and entropies [n_rows, S], scale * max(KL, floor) and KL < floor [n_rows]."""
    row = rows_here(ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        r, g, inside = row[:, None], group[None, :], (row < n_rows)[:, None] & (group < S)[None, :]
        q_mean, q_std, _ = load_gaussian(q_ptr, offsets(r, g, q_row, Q), inside, S * Q[1], min_std)
        p_mean, p_std, _ = load_gaussian(p_ptr, offsets(r, g, p_row, P), inside, S * P[1], min_std)
        kl, _, _, _ = gaussian_divergence(q_mean, q_std, p_mean, p_std)  # zero outside, where all is equal
        total += tl.sum(kl, axis=1)
        at = r * S + g
        tl.store(kl_ptr + at, kl, mask=inside)
        half_log_2pi_e = 1.4189385332046727
        tl.store(q_entropy_ptr + at, half_log_2pi_e + tl.log(q_std), mask=inside)
        tl.store(p_entropy_ptr + at, half_log_2pi_e + tl.log(p_std), mask=inside)
    store_steps(balanced_ptr, clamped_ptr, row, n_rows, total, scale, floor)


@triton.jit
@no_type_check
def gaussian_kl_backward(
    q_ptr, p_ptr, kl_grad_ptr, q_entropy_grad_ptr, p_entropy_grad_ptr, balanced_grad_ptr, clamped_ptr,
    q_grad_ptr, p_grad_ptr,
    n_rows, q_row, p_row, kl_grad_row, q_entropy_grad_row, p_entropy_grad_row, balanced_grad_row, min_std, dyn, rep,
    S: tl.constexpr, Q: tl.constexpr, P: tl.constexpr,
    KL_GRAD: tl.constexpr, Q_ENTROPY_GRAD: tl.constexpr, P_ENTROPY_GRAD: tl.constexpr, BALANCED_GRAD: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Raw inputs, and the gradients of those outputs that have one (None else) -> both gradients [n_rows, 2S]."""
    row = rows_here(ROWS)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        r, g, inside = row[:, None], group[None, :], (row < n_rows)[:, None] & (group < S)[None, :]
        q_mean, q_std, q_slope = load_gaussian(q_ptr, offsets(r, g, q_row, Q), inside, S * Q[1], min_std)
        p_mean, p_std, p_slope = load_gaussian(p_ptr, offsets(r, g, p_row, P), inside, S * P[1], min_std)
        _, d, square, inverse = gaussian_divergence(q_mean, q_std, p_mean, p_std)
        q_side, p_side = load_kl_gradients(
            kl_grad_ptr, balanced_grad_ptr, clamped_ptr,
            row, group, n_rows, inside, kl_grad_row, balanced_grad_row, dyn, rep,
            KL_GRAD, BALANCED_GRAD, ROWS, GROUPS,
        )  # fmt: skip
        by_mean = d * inverse
        q_by_std, p_by_std = q_side * square * q_slope / q_std, -p_side * (d * d + square) * p_slope * inverse
        if q_entropy_grad_ptr is not None:
            at = offsets(r, g, q_entropy_grad_row, Q_ENTROPY_GRAD)
            q_by_std += tl.load(q_entropy_grad_ptr + at, mask=inside, other=0.0) * q_slope / q_std
        if p_entropy_grad_ptr is not None:
            at = offsets(r, g, p_entropy_grad_row, P_ENTROPY_GRAD)
            p_by_std += tl.load(p_entropy_grad_ptr + at, mask=inside, other=0.0) * p_slope * inverse
        at = r * (2 * S) + g
        tl.store(q_grad_ptr + at, q_side * by_mean, mask=inside)
        tl.store(q_grad_ptr + at + S, q_by_std, mask=inside)
        tl.store(p_grad_ptr + at, -p_side * by_mean, mask=inside)
        tl.store(p_grad_ptr + at + S, p_by_std, mask=inside)


@triton.jit
@no_type_check
def categorical_kl_forward(
    q_ptr, p_ptr, kl_ptr, q_entropy_ptr, p_entropy_ptr, balanced_ptr, clamped_ptr,
    n_rows, q_row, p_row, keep, uniform, scale, floor,
    S: tl.constexpr, K: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, MIXED: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits [n_rows, S, K] -> kl and entropies [n_rows, S], scale * max(KL, floor) and KL < floor [n_rows]."""
    row = rows_here(ROWS)
    k = tl.arange(0, CLASSES)[None, None, :]
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        some = (row < n_rows)[:, None] & (group < S)[None, :]
        r, g, inside = row[:, None, None], group[None, :, None], some[:, :, None] & (k < K)
        q_at, p_at = offsets(r, g, q_row, Q) + k * Q[2], offsets(r, g, p_row, P) + k * P[2]
        _, q, log_q = load_categorical(q_ptr, q_at, inside, k < K, keep, uniform, MIXED)
        _, p, log_p = load_categorical(p_ptr, p_at, inside, k < K, keep, uniform, MIXED)
        kl = categorical_divergence(q, log_q, p, log_p)  # zero outside, where all is equal
        total += tl.sum(kl, axis=1)
        at = row[:, None] * S + group[None, :]
        tl.store(kl_ptr + at, kl, mask=some)
        tl.store(q_entropy_ptr + at, -tl.sum(q * log_q, axis=2), mask=some)
        tl.store(p_entropy_ptr + at, -tl.sum(p * log_p, axis=2), mask=some)
    store_steps(balanced_ptr, clamped_ptr, row, n_rows, total, scale, floor)


@triton.jit
@no_type_check
def categorical_kl_backward(
    q_ptr, p_ptr, kl_grad_ptr, q_entropy_grad_ptr, p_entropy_grad_ptr, balanced_grad_ptr, clamped_ptr,
    q_grad_ptr, p_grad_ptr,
    n_rows, q_row, p_row, kl_grad_row, q_entropy_grad_row, p_entropy_grad_row, balanced_grad_row,
    keep, uniform, dyn, rep,
    S: tl.constexpr, K: tl.constexpr, Q: tl.constexpr, P: tl.constexpr,
    KL_GRAD: tl.constexpr, Q_ENTROPY_GRAD: tl.constexpr, P_ENTROPY_GRAD: tl.constexpr, BALANCED_GRAD: tl.constexpr,
    MIXED: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits, and the gradients of those outputs that have one (None else) -> both gradients [n_rows, S, K].

    With softmaxes s and t of the two logits, and dKL/dq = u, dKL/dp = 1 - q / p up to constants, which softmax ignores:
        keep * (s u - s sum_j s_j u_j)    and    keep * (t' - t sum_j t'_j),    t' = (p - q) t / p
    """
    row = rows_here(ROWS)
    k = tl.arange(0, CLASSES)[None, None, :]
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        some = (row < n_rows)[:, None] & (group < S)[None, :]
        r, g, inside = row[:, None, None], group[None, :, None], some[:, :, None] & (k < K)
        q_at, p_at = offsets(r, g, q_row, Q) + k * Q[2], offsets(r, g, p_row, P) + k * P[2]
        s, q, log_q = load_categorical(q_ptr, q_at, inside, k < K, keep, uniform, MIXED)
        t, p, log_p = load_categorical(p_ptr, p_at, inside, k < K, keep, uniform, MIXED)
        q_side, p_side = load_kl_gradients(
            kl_grad_ptr, balanced_grad_ptr, clamped_ptr,
            row, group, n_rows, some, kl_grad_row, balanced_grad_row, dyn, rep,
            KL_GRAD, BALANCED_GRAD, ROWS, GROUPS,
        )  # fmt: skip
        q_part, p_part = q_side[:, :, None] * s * (log_q - log_p), p_side[:, :, None] * (p - q)
        if MIXED:
            p_part = tl.where(k < K, p_part * t / tl.where(k < K, p, 1.0), 0.0)
        if q_entropy_grad_ptr is not None:
            at = offsets(row[:, None], group[None, :], q_entropy_grad_row, Q_ENTROPY_GRAD)
            q_part -= tl.load(q_entropy_grad_ptr + at, mask=some, other=0.0)[:, :, None] * s * log_q
        if p_entropy_grad_ptr is not None:
            at = offsets(row[:, None], group[None, :], p_entropy_grad_row, P_ENTROPY_GRAD)
            p_part -= tl.load(p_entropy_grad_ptr + at, mask=some, other=0.0)[:, :, None] * t * log_p
        at = (r * S + g) * K + k
        tl.store(q_grad_ptr + at, keep * (q_part - s * tl.sum(q_part, axis=2, keep_dims=True)), mask=inside)
        tl.store(p_grad_ptr + at, keep * (p_part - t * tl.sum(p_part, axis=2, keep_dims=True)), mask=inside)


@torch.library.custom_op("worldmodel::gaussian_kl", mutates_args=())
def gaussian_kl(
    posterior: Tensor, prior: Tensor, min_std: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of raw heads [..., 2S]."""
    outputs = _empty_outputs(posterior, 1)
    q, p = rows_of(posterior, 1), rows_of(prior, 1)
    tile = gaussian_tile(q.shape[1] // 2, _widest(q, p))
    settings = {"min_std": min_std, **gaussian_settings(q)}
    _run_forward(gaussian_kl_forward, tile, q, p, outputs, dyn + rep, free_nats, settings)
    return outputs


@torch.library.custom_op("worldmodel::gaussian_kl_backward", mutates_args=())
def gaussian_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    clamped: Tensor | None, min_std: float, dyn: float, rep: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., 2S] of both inputs from those of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = rows_of(posterior, 1), rows_of(prior, 1)
    # Four numbers a thread whatever their size: with the eight of 16-bit inputs, registers fill a third of a GPU.
    tile = gaussian_tile(q.shape[1] // 2, 4)
    settings = {"dyn": dyn, "rep": rep, "min_std": min_std, **gaussian_settings(q)}
    _run_backward(gaussian_kl_backward, tile, q, p, (kl, q_entropy, p_entropy, balanced), clamped, gradients, settings)
    return gradients


@torch.library.custom_op("worldmodel::categorical_kl", mutates_args=())
def categorical_kl(
    posterior: Tensor, prior: Tensor, unimix: float, dyn: float, rep: float, free_nats: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """KL and both entropies [..., S], the balanced KL and whether it was clamped [...], of logits [..., S, K]."""
    outputs = _empty_outputs(posterior, 2)
    q, p = rows_of(posterior, 2), rows_of(prior, 2)
    tile = categorical_tile(q.shape[1], q.shape[2], _widest(q, p))
    settings = categorical_settings(q, tile, unimix)
    _run_forward(categorical_kl_forward, tile, q, p, outputs, dyn + rep, free_nats, settings)
    return outputs


@torch.library.custom_op("worldmodel::categorical_kl_backward", mutates_args=())
def categorical_kl_gradients(
    posterior: Tensor, prior: Tensor,
    kl: Tensor | None, q_entropy: Tensor | None, p_entropy: Tensor | None, balanced: Tensor | None,
    clamped: Tensor | None, unimix: float, dyn: float, rep: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients [..., S, K] of both inputs from those of the outputs, None where there is none."""
    gradients = _empty_gradients(posterior, prior)
    q, p = rows_of(posterior, 2), rows_of(prior, 2)
    tile = categorical_tile(q.shape[1], q.shape[2], _widest(q, p))
    settings = {"dyn": dyn, "rep": rep, **categorical_settings(q, tile, unimix)}
    grads = (kl, q_entropy, p_entropy, balanced)
    _run_backward(categorical_kl_backward, tile, q, p, grads, clamped, gradients, settings)
    return gradients


def _run_forward(
    kernel: Any, tile: Tile, q: Tensor, p: Tensor, outputs: Outputs, scale: float, free_nats: float, settings: dict
) -> None:
    kl, q_entropy, p_entropy, balanced, clamped = outputs
    arguments = {
        **strided(q=q, p=p),
        **{"kl_ptr": kl, "q_entropy_ptr": q_entropy, "p_entropy_ptr": p_entropy},
        **{"balanced_ptr": balanced, "clamped_ptr": clamped, "scale": scale},
        "floor": free_nats if free_nats > 0 else -math.inf,  # without free nats, rounding below zero stays as it is
        **settings,
    }
    launch(kernel, tile, (len(q),), arguments)


def _run_backward(
    kernel: Any, tile: Tile, q: Tensor, p: Tensor, grads: tuple[Tensor | None, ...], clamped: Tensor | None,
    gradients: tuple[Tensor, Tensor], settings: dict,
) -> None:  # fmt: skip
    kl, q_entropy, p_entropy = (None if grad is None else rows_of(grad, 1) for grad in grads[:3])
    balanced = None if grads[3] is None else rows_of(grads[3], 0)
    arguments = {
        **strided(q=q, p=p, kl_grad=kl, q_entropy_grad=q_entropy, p_entropy_grad=p_entropy, balanced_grad=balanced),
        **{"clamped_ptr": clamped, "q_grad_ptr": gradients[0], "p_grad_ptr": gradients[1]},
        **settings,
    }
    launch(kernel, tile, (len(q),), arguments)


def _widest(*tensors: Tensor) -> int:
    """Bytes of the widest number."""
    return max(x.element_size() for x in tensors)


def _empty_outputs(posterior: Tensor, event: int) -> Outputs:
    batch = posterior.shape[: posterior.dim() - event]
    groups = (*batch, posterior.shape[-2] if event == 2 else posterior.shape[-1] // 2)
    kl, q_entropy, p_entropy = (posterior.new_empty(groups, dtype=torch.float32) for _ in range(3))
    balanced, clamped = (posterior.new_empty(batch, dtype=dtype) for dtype in (torch.float32, torch.bool))
    return kl, q_entropy, p_entropy, balanced, clamped


def _empty_gradients(posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    return posterior.new_empty(posterior.shape), prior.new_empty(prior.shape)


def _keep(ctx: Any, inputs: tuple, output: Outputs) -> None:
    """Keep the inputs, and with free nats a byte a step; ask for no zeros where an output was not used."""
    *_, free_nats = inputs
    ctx.save_for_backward(inputs[0], inputs[1], output[4] if free_nats > 0 else None)
    ctx.settings = inputs[2:-1]
    ctx.set_materialize_grads(False)


def _register(forward: Any, backward: Any, event: int) -> None:
    """Shapes for torch.compile, and the gradients."""

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        posterior, prior, clamped = ctx.saved_tensors
        return *backward(posterior, prior, *grads[:4], clamped, *ctx.settings), None, None, None, None

    forward.register_fake(lambda posterior, prior, *settings: _empty_outputs(posterior, event))
    backward.register_fake(lambda posterior, prior, *rest: _empty_gradients(posterior, prior))
    forward.register_autograd(differentiate, setup_context=_keep)


_register(gaussian_kl, gaussian_kl_gradients, 1)
_register(categorical_kl, categorical_kl_gradients, 2)
refuse_forward_mode("gaussian_kl", "gaussian_kl_backward", "categorical_kl", "categorical_kl_backward")
