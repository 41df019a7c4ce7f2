"""The latent head as Triton kernels and autograd functions: one launch forward, one backward.

    gaussian_head       raw [..., 2S], noise [..., S]      -> sample [..., S]
    categorical_head    logits and noise [..., S, K]       -> sample [..., S * K]

Only the inputs are kept for backward. These are not custom operators, as the KLs are: a head is called at each step of
a loop, and an operator's call costs more than its launch. torch.compile gets the reference.
(`no_type_check`: Triton reads the source of a function, so the type checker of the tests must not wrap it.)
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodel.kernels.launch_triton import (
    categorical_settings,
    categorical_tile,
    gaussian_settings,
    gaussian_tile,
    launch,
    rows_of,
    strided,
)
from worldmodel.kernels.numerics_triton import (
    load_categorical,
    load_gaussian,
    offsets,
    rows_here,
    standard_deviation,
)


@triton.jit
@no_type_check
def gaussian_head_forward(
    raw_ptr, noise_ptr, sample_ptr, n_rows, raw_row, noise_row, min_std,
    S: tl.constexpr, RAW: tl.constexpr, NOISE: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Raw inputs [n_rows, 2S] and noise [n_rows, S] -> sample [n_rows, S]."""
    row = rows_here(ROWS)[:, None]
    group = (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS))[None, :]
    inside = (row < n_rows) & (group < S)
    mean, std, _ = load_gaussian(raw_ptr, offsets(row, group, raw_row, RAW), inside, S * RAW[1], min_std)
    noise = tl.load(noise_ptr + offsets(row, group, noise_row, NOISE), mask=inside, other=0.0).to(tl.float32)
    tl.store(sample_ptr + row * S + group, mean + std * noise, mask=inside)


@triton.jit
@no_type_check
def gaussian_head_backward(
    raw_ptr, noise_ptr, sample_grad_ptr, raw_grad_ptr, n_rows, raw_row, noise_row, sample_grad_row,
    S: tl.constexpr, RAW: tl.constexpr, NOISE: tl.constexpr, SAMPLE_GRAD: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """d mean = d z,    d raw_std = d z * noise * sigmoid(raw_std)."""
    row = rows_here(ROWS)[:, None]
    group = (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS))[None, :]
    inside = (row < n_rows) & (group < S)
    noise = tl.load(noise_ptr + offsets(row, group, noise_row, NOISE), mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(sample_grad_ptr + offsets(row, group, sample_grad_row, SAMPLE_GRAD), mask=inside, other=0.0)
    raw_std = tl.load(raw_ptr + offsets(row, group, raw_row, RAW) + S * RAW[1], mask=inside, other=0.0).to(tl.float32)
    _, slope = standard_deviation(raw_std, 0.0)
    at = row * (2 * S) + group
    tl.store(raw_grad_ptr + at, grad, mask=inside)
    tl.store(raw_grad_ptr + at + S, grad * noise * slope, mask=inside)


@triton.jit
@no_type_check
def categorical_head_forward(
    logits_ptr, noise_ptr, sample_ptr, n_rows, logits_row, noise_row, keep, uniform, clamp,
    S: tl.constexpr, K: tl.constexpr, LOGITS: tl.constexpr, NOISE: tl.constexpr, MIXED: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits and noise u [n_rows, S, K] -> the class that wins, as one-hot vectors [n_rows, S * K].

    argmax of log p - log(-log u) is argmax of p / -log u, which saves two logarithms and has no infinity.
    """
    row = rows_here(ROWS)[:, None, None]
    group = (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS))[None, :, None]
    k = tl.arange(0, CLASSES)[None, None, :]
    inside = (row < n_rows) & (group < S) & (k < K)
    at = offsets(row, group, logits_row, LOGITS) + k * LOGITS[2]
    _, probs, _ = load_categorical(logits_ptr, at, inside, k < K, keep, uniform, MIXED)
    at = offsets(row, group, noise_row, NOISE) + k * NOISE[2]
    noise = tl.load(noise_ptr + at, mask=inside, other=0.5).to(tl.float32)
    race = probs / -tl.log(tl.minimum(tl.maximum(noise, clamp), 1 - clamp))
    race = tl.where((k < K) & (race >= 0), race, -1.0)
    first = tl.argmax(race, 2, tie_break_left=True)[:, :, None]
    # probs - probs is zero, or NaN where a probability is: then the sample is NaN too, as the reference's is.
    sample = tl.where(k == first, 1.0, 0.0) + (probs - probs)
    tl.store(sample_ptr + (row * S + group) * K + k, sample, mask=inside)


@triton.jit
@no_type_check
def categorical_head_backward(
    logits_ptr, sample_grad_ptr, logits_grad_ptr, n_rows, logits_row, sample_grad_row, keep, uniform,
    S: tl.constexpr, K: tl.constexpr, LOGITS: tl.constexpr, SAMPLE_GRAD: tl.constexpr, MIXED: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """d logits = keep * s * (d z - sum(s * d z)), s the softmax: the gradient that probabilities would have for d z."""
    row = rows_here(ROWS)[:, None, None]
    group = (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS))[None, :, None]
    k = tl.arange(0, CLASSES)[None, None, :]
    inside = (row < n_rows) & (group < S) & (k < K)
    at = offsets(row, group, logits_row, LOGITS) + k * LOGITS[2]
    softmax, _, _ = load_categorical(logits_ptr, at, inside, k < K, keep, uniform, MIXED)
    at = offsets(row, group, sample_grad_row, SAMPLE_GRAD) + k * SAMPLE_GRAD[2]
    grad = tl.load(sample_grad_ptr + at, mask=inside, other=0.0)
    centred = grad - tl.sum(softmax * grad, axis=2, keep_dims=True)
    tl.store(logits_grad_ptr + (row * S + group) * K + k, keep * softmax * centred, mask=inside)


def gaussian_head(raw: Tensor, noise: Tensor, min_std: float) -> Tensor:
    """raw [..., 2S], noise [..., S] -> sample [..., S], float32."""
    return _GaussianHead.apply(raw, noise, min_std)


def categorical_head(logits: Tensor, noise: Tensor, unimix: float) -> Tensor:
    """logits and noise [..., S, K] -> one-hot sample [..., S * K], float32."""
    return _CategoricalHead.apply(logits, noise, unimix)


class _GaussianHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, noise: Tensor, min_std: float) -> Tensor:
        ctx.save_for_backward(raw, noise)
        sample = noise.new_empty(noise.shape, dtype=torch.float32)
        raw, noise = rows_of(raw, 1), rows_of(noise, 1)
        settings = {"sample_ptr": sample, "min_std": min_std}
        _launch_gaussian(gaussian_head_forward, {**strided(raw=raw, noise=noise), **settings})
        return sample

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sample: Tensor) -> tuple[Tensor, None, None]:
        raw, noise = ctx.saved_tensors
        grad_raw = raw.new_empty(raw.shape)
        tensors = strided(raw=rows_of(raw, 1), noise=rows_of(noise, 1), sample_grad=rows_of(grad_sample, 1))
        _launch_gaussian(gaussian_head_backward, {**tensors, "raw_grad_ptr": grad_raw})
        return grad_raw, None, None


class _CategoricalHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor, unimix: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.unimix = unimix
        S, K = logits.shape[-2:]
        sample = logits.new_empty((*logits.shape[:-2], S * K), dtype=torch.float32)
        settings = {"sample_ptr": sample, "clamp": torch.finfo(noise.dtype).eps}
        logits, noise = rows_of(logits, 2), rows_of(noise, 2)
        _launch_categorical(categorical_head_forward, {**strided(logits=logits, noise=noise), **settings}, unimix)
        return sample

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sample: Tensor) -> tuple[Tensor, None, None]:
        (logits,) = ctx.saved_tensors
        grad_logits = logits.new_empty(logits.shape)
        grad_sample = grad_sample.unflatten(-1, logits.shape[-2:])
        tensors = strided(logits=rows_of(logits, 2), sample_grad=rows_of(grad_sample, 2))
        _launch_categorical(categorical_head_backward, {**tensors, "logits_grad_ptr": grad_logits}, ctx.unimix)
        return grad_logits, None, None


def _launch_gaussian(kernel: Any, arguments: dict[str, Any]) -> None:
    raw = arguments["raw_ptr"]
    settings = gaussian_settings(raw)
    tile = gaussian_tile(settings["S"], raw.element_size())
    launch(kernel, tile, (settings["n_rows"], settings["S"]), {**arguments, **settings})


def _launch_categorical(kernel: Any, arguments: dict[str, Any], unimix: float) -> None:
    logits = arguments["logits_ptr"]
    rows, S, K = logits.shape
    tile = categorical_tile(S, K, logits.element_size())
    launch(kernel, tile, (rows, S), {**arguments, **categorical_settings(logits, tile, unimix)})
