"""The latent head as Triton kernels: one launch forward, one backward, float32 inside whatever the inputs.

The only thing kept for backward is what came in. `torch.library` makes each an operator of torch, so that
`torch.compile` and autograd take it as a whole. (`no_type_check`: Triton reads the source of a function, so the type
checker of the tests must not wrap it.)
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodel.kernels import launch_triton
from worldmodel.kernels.forward_mode import refuse_forward_mode
from worldmodel.kernels.launch_triton import alignment, interpreting, launch, rows_of, units

THREADS = 128  # per program, unless its row is wide


@triton.jit
@no_type_check
def _offsets(row, stride, align: tl.constexpr):
    # The stride comes divided by `align`, so that the compiler sees how far pointers are aligned whatever the stride.
    return row.to(tl.int64) * stride * align


@triton.jit
@no_type_check
def _softplus(x):
    # log(1 + y) by log(u) of the rounded u = 1 + y, corrected to first order: as exact as log1p, which not every
    # backend of triton has.
    y = tl.exp(-tl.abs(x))
    u = 1 + y
    return tl.maximum(x, 0.0) + tl.log(u) - ((u - 1) - y) / u


@triton.jit
@no_type_check
def _sigmoid(x):
    y = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, y) / (1 + y)


@triton.jit
@no_type_check
def gaussian_head_forward(
    raw_ptr,
    noise_ptr,
    sample_ptr,
    mean_ptr,
    std_ptr,
    n_rows,
    raw_stride,
    noise_stride,
    min_std,
    S: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    RAW_ALIGN: tl.constexpr,
    NOISE_ALIGN: tl.constexpr,
):
    """A tile [ROWS, BLOCK_S] of sample, mean and std."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    s = (tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    inside = (row < n_rows) & (s < S)
    raw = raw_ptr + _offsets(row, raw_stride, RAW_ALIGN) + s
    mean = tl.load(raw, mask=inside, other=0.0).to(tl.float32)
    std = min_std + _softplus(tl.load(raw + S, mask=inside, other=0.0).to(tl.float32))
    noise = tl.load(noise_ptr + _offsets(row, noise_stride, NOISE_ALIGN) + s, mask=inside, other=0.0).to(tl.float32)
    out = _offsets(row, S, 1) + s
    tl.store(sample_ptr + out, mean + std * noise, mask=inside)
    tl.store(mean_ptr + out, mean, mask=inside)
    tl.store(std_ptr + out, std, mask=inside)


@triton.jit
@no_type_check
def gaussian_head_backward(
    raw_ptr,
    noise_ptr,
    grad_sample_ptr,
    grad_mean_ptr,
    grad_std_ptr,
    grad_raw_ptr,
    n_rows,
    raw_stride,
    noise_stride,
    S: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    RAW_ALIGN: tl.constexpr,
    NOISE_ALIGN: tl.constexpr,
):
    """d mean = d z + d mean, d raw_std = (d z * noise + d std) * sigmoid(raw_std). Absent gradients are None."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    s = (tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    inside = (row < n_rows) & (s < S)
    out = _offsets(row, S, 1) + s
    grad_mean = tl.zeros((ROWS, BLOCK_S), tl.float32)
    grad_std = tl.zeros((ROWS, BLOCK_S), tl.float32)
    if grad_sample_ptr is not None:
        noise = tl.load(noise_ptr + _offsets(row, noise_stride, NOISE_ALIGN) + s, mask=inside, other=0.0)
        grad_mean = tl.load(grad_sample_ptr + out, mask=inside, other=0.0)
        grad_std = grad_mean * noise.to(tl.float32)
    if grad_mean_ptr is not None:
        grad_mean += tl.load(grad_mean_ptr + out, mask=inside, other=0.0)
    if grad_std_ptr is not None:
        grad_std += tl.load(grad_std_ptr + out, mask=inside, other=0.0)
    raw_std = raw_ptr + _offsets(row, raw_stride, RAW_ALIGN) + S + s
    slope = _sigmoid(tl.load(raw_std, mask=inside, other=0.0).to(tl.float32))
    grad_raw = grad_raw_ptr + _offsets(row, 2 * S, 1) + s
    tl.store(grad_raw, grad_mean, mask=inside)
    tl.store(grad_raw + S, grad_std * slope, mask=inside)


@triton.jit
@no_type_check
def _softmax(logits_ptr, group, n_groups, stride, S: tl.constexpr, K: tl.constexpr, k, align: tl.constexpr):
    inside = (group < n_groups) & (k < K)
    offset = _offsets(group // S, stride, align) + (group % S) * K + k
    logits = tl.load(logits_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    logits = tl.where(k < K, logits, -float("inf"))
    weight = tl.exp(logits - tl.max(logits, 1)[:, None])
    return weight / tl.sum(weight, 1)[:, None]


@triton.jit
@no_type_check
def categorical_head_forward(
    logits_ptr,
    noise_ptr,
    sample_ptr,
    probs_ptr,
    n_groups,
    logits_stride,
    noise_stride,
    unimix,
    clamp,
    S: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOGITS_ALIGN: tl.constexpr,
    NOISE_ALIGN: tl.constexpr,
):
    """A tile [ROWS, BLOCK_K] of groups by classes: mixed probabilities and the class that wins.

    argmax of log p - log(-log u) is argmax of p / -log u, which saves two logarithms and has no infinity.
    """
    group = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    k = tl.arange(0, BLOCK_K)[None, :]
    inside = (group < n_groups) & (k < K)
    probs = _softmax(logits_ptr, group, n_groups, logits_stride, S, K, k, LOGITS_ALIGN)
    probs = (1 - unimix) * probs + unimix / K
    offset = _offsets(group // S, noise_stride, NOISE_ALIGN) + (group % S) * K + k
    noise = tl.load(noise_ptr + offset, mask=inside, other=0.5).to(tl.float32)
    race = probs / -tl.log(tl.minimum(tl.maximum(noise, clamp), 1 - clamp))
    race = tl.where((k < K) & (race >= 0), race, -1.0)
    first = tl.argmax(race, 1, tie_break_left=True)[:, None]
    # Nothing is added, unless a probability is NaN: then the sample says so too, as the reference does.
    sample = tl.where(k == first, 1.0, 0.0) + (probs - probs)
    out = _offsets(group, K, 1) + k
    tl.store(sample_ptr + out, sample, mask=inside)
    tl.store(probs_ptr + out, probs, mask=inside)


@triton.jit
@no_type_check
def categorical_head_backward(
    logits_ptr,
    grad_sample_ptr,
    grad_probs_ptr,
    grad_logits_ptr,
    n_groups,
    logits_stride,
    unimix,
    S: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOGITS_ALIGN: tl.constexpr,
):
    """d logits = (1 - unimix) * m * (d p - sum(m * d p)), m the softmax; d z counts as d p. Absent ones are None."""
    group = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    k = tl.arange(0, BLOCK_K)[None, :]
    inside = (group < n_groups) & (k < K)
    softmax = _softmax(logits_ptr, group, n_groups, logits_stride, S, K, k, LOGITS_ALIGN)
    out = _offsets(group, K, 1) + k
    grad = tl.zeros((ROWS, BLOCK_K), tl.float32)
    if grad_sample_ptr is not None:
        grad += tl.load(grad_sample_ptr + out, mask=inside, other=0.0)
    if grad_probs_ptr is not None:
        grad += tl.load(grad_probs_ptr + out, mask=inside, other=0.0)
    centred = grad - tl.sum(softmax * grad, 1)[:, None]
    tl.store(grad_logits_ptr + out, (1 - unimix) * softmax * centred, mask=inside)


def gaussian_tile(rows: int, S: int, itemsize: int) -> dict[str, int]:
    """ROWS, BLOCK_S and num_warps for inputs of so many bytes each."""
    if interpreting():
        return _interpreted_tile(rows, S, "BLOCK_S")
    per_program = THREADS * 16 // itemsize  # every thread loads 16 bytes at a time
    block = min(triton.next_power_of_2(S), per_program)
    return {"ROWS": per_program // block, "BLOCK_S": block, "num_warps": THREADS // launch_triton.lanes()}


def categorical_tile(groups: int, K: int, itemsize: int) -> dict[str, int]:
    """ROWS, BLOCK_K and num_warps for inputs of so many bytes each; a group is never divided."""
    if interpreting():
        return _interpreted_tile(groups, K, "BLOCK_K")
    block = triton.next_power_of_2(K)
    per_thread = 16 // itemsize
    rows = max(THREADS * per_thread // block, 1)
    threads = min(rows * block // per_thread, 512)
    return {"ROWS": rows, "BLOCK_K": block, "num_warps": threads // launch_triton.lanes()}


def _interpreted_tile(rows: int, width: int, name: str) -> dict[str, int]:
    """The interpreter's cost is by program, whatever its size: few and large ones."""
    block = triton.next_power_of_2(width)
    return {"ROWS": min(triton.next_power_of_2(rows), max(2**18 // block, 1)), name: block, "num_warps": 4}


@torch.library.custom_op("worldmodel::gaussian_head", mutates_args=())
def gaussian_head(raw: Tensor, noise: Tensor, min_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """raw [..., 2S], noise [..., S] -> sample, mean and std [..., S], float32."""
    outputs = _gaussian_outputs(noise)
    if noise.numel():
        raw, noise = rows_of(raw, 1), rows_of(noise, 1)
        rows, S = noise.shape
        tile = gaussian_tile(rows, S, raw.element_size())
        grid = (triton.cdiv(rows, tile["ROWS"]), triton.cdiv(S, tile["BLOCK_S"]))
        strides = {"RAW_ALIGN": alignment(raw), "NOISE_ALIGN": alignment(noise)}
        arguments = (raw, noise, *outputs, rows, units(raw), units(noise), min_std)
        launch(gaussian_head_forward, grid, arguments, S=S, **strides, **tile)
    return outputs


@gaussian_head.register_fake
def _(raw: Tensor, noise: Tensor, min_std: float) -> tuple[Tensor, Tensor, Tensor]:
    return _gaussian_outputs(noise)


@torch.library.custom_op("worldmodel::gaussian_head_backward", mutates_args=())
def gaussian_head_gradient(
    raw: Tensor, noise: Tensor, grad_sample: Tensor | None, grad_mean: Tensor | None, grad_std: Tensor | None
) -> Tensor:
    """The gradient [..., 2S] of raw, in its dtype; what did not reach the loss is None."""
    grad_raw = raw.new_empty(raw.shape)
    if noise.numel():
        raw, noise = rows_of(raw, 1), rows_of(noise, 1)
        rows, S = noise.shape
        tile = gaussian_tile(rows, S, raw.element_size())
        grid = (triton.cdiv(rows, tile["ROWS"]), triton.cdiv(S, tile["BLOCK_S"]))
        strides = {"RAW_ALIGN": alignment(raw), "NOISE_ALIGN": alignment(noise)}
        grads = _contiguous(grad_sample, grad_mean, grad_std)
        arguments = (raw, noise, *grads, grad_raw, rows, units(raw), units(noise))
        launch(gaussian_head_backward, grid, arguments, S=S, **strides, **tile)
    return grad_raw


@gaussian_head_gradient.register_fake
def _(
    raw: Tensor, noise: Tensor, grad_sample: Tensor | None, grad_mean: Tensor | None, grad_std: Tensor | None
) -> Tensor:
    return raw.new_empty(raw.shape)


@torch.library.custom_op("worldmodel::categorical_head", mutates_args=())
def categorical_head(logits: Tensor, noise: Tensor, unimix: float) -> tuple[Tensor, Tensor]:
    """logits and noise [..., S, K] -> sample [..., S * K] and probabilities [..., S, K], float32."""
    outputs = _categorical_outputs(logits)
    if logits.numel():
        S, K = logits.shape[-2:]
        clamp = torch.finfo(noise.dtype).eps
        logits, noise = rows_of(logits, 2), rows_of(noise, 2)
        groups = len(logits) * S
        tile = categorical_tile(groups, K, logits.element_size())
        strides = {"LOGITS_ALIGN": alignment(logits), "NOISE_ALIGN": alignment(noise)}
        arguments = (logits, noise, *outputs, groups, units(logits), units(noise), unimix, clamp)
        launch(categorical_head_forward, (triton.cdiv(groups, tile["ROWS"]),), arguments, S=S, K=K, **strides, **tile)
    return outputs


@categorical_head.register_fake
def _(logits: Tensor, noise: Tensor, unimix: float) -> tuple[Tensor, Tensor]:
    return _categorical_outputs(logits)


@torch.library.custom_op("worldmodel::categorical_head_backward", mutates_args=())
def categorical_head_gradient(
    logits: Tensor, grad_sample: Tensor | None, grad_probs: Tensor | None, unimix: float
) -> Tensor:
    """The gradient [..., S, K] of the logits, in their dtype; what did not reach the loss is None."""
    grad_logits = logits.new_empty(logits.shape)
    if logits.numel():
        S, K = logits.shape[-2:]
        logits = rows_of(logits, 2)
        groups = len(logits) * S
        tile = categorical_tile(groups, K, logits.element_size())
        arguments = (logits, *_contiguous(grad_sample, grad_probs), grad_logits, groups, units(logits), unimix)
        grid = (triton.cdiv(groups, tile["ROWS"]),)
        launch(categorical_head_backward, grid, arguments, S=S, K=K, LOGITS_ALIGN=alignment(logits), **tile)
    return grad_logits


@categorical_head_gradient.register_fake
def _(logits: Tensor, grad_sample: Tensor | None, grad_probs: Tensor | None, unimix: float) -> Tensor:
    return logits.new_empty(logits.shape)


def _keep_gaussian(ctx: Any, inputs: tuple, output: Any) -> None:
    raw, noise, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(raw, noise)


def _gaussian_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
    return gaussian_head_gradient(*ctx.saved_tensors, *grads), None, None


def _keep_categorical(ctx: Any, inputs: tuple, output: Any) -> None:
    logits, _, ctx.unimix = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits)


def _categorical_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
    return categorical_head_gradient(*ctx.saved_tensors, *grads, ctx.unimix), None, None


gaussian_head.register_autograd(_gaussian_backward, setup_context=_keep_gaussian)
categorical_head.register_autograd(_categorical_backward, setup_context=_keep_categorical)
refuse_forward_mode("gaussian_head", "gaussian_head_backward", "categorical_head", "categorical_head_backward")


def _gaussian_outputs(noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sample, mean, std = (noise.new_empty(noise.shape, dtype=torch.float32) for _ in range(3))
    return sample, mean, std


def _categorical_outputs(logits: Tensor) -> tuple[Tensor, Tensor]:
    S, K = logits.shape[-2:]
    sample = logits.new_empty((*logits.shape[:-2], S * K), dtype=torch.float32)
    return sample, logits.new_empty(logits.shape, dtype=torch.float32)


def _contiguous(*grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if grad is None else grad.contiguous() for grad in grads)
