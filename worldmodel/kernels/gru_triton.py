"""The launches of a step of the block GRU and of the posterior's head, forward, as Triton kernels: see `gru_reference`.

A product whose factor is the silu of a norm works that factor out again in every program: a row is read three times,
from the cache, for its mean, for its variance and for the product, and nothing but the product's result is written.
Everything is float32 but the factors of products, which are rounded to the dtype of the matrix; their sums are float32.
(`no_type_check`: Triton reads the source of a function, so the type checker of the tests must not wrap it.)
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldmodel.kernels.gru_launch_triton import classes_of, columns_of, groups_of, launch_step, precision
from worldmodel.kernels.gru_shapes import Draw, LayerInput
from worldmodel.kernels.numerics_triton import mixed_softmax, rows_here, standard_deviation


@triton.jit
@no_type_check
def sigmoid(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
@no_type_check
def tanh(x):
    small = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - small) / (1.0 + small)
    return tl.where(x >= 0, size, -size)


@triton.jit
@no_type_check
def add_product(total, x, matrix, PRECISION: tl.constexpr):
    """Half precision is exact in float32 and in TF32, so that the product of rounded factors is the same in these."""
    return tl.dot(x.to(matrix.dtype).to(tl.float32), matrix.to(tl.float32), total, input_precision=PRECISION)


@triton.jit
@no_type_check
def load_sum(base_ptr, BASE: tl.constexpr, product_ptr, PRODUCT: tl.constexpr, keep, row, column, inside):
    """base + keep product, of two tensors whose rows are BASE and PRODUCT apart; no product: None."""
    x = tl.load(base_ptr + row[:, None] * BASE + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if product_ptr is not None:
        at = row[:, None] * PRODUCT + column[None, :]
        x += keep[:, None] * tl.load(product_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
@no_type_check
def statistics(
    base_ptr, BASE: tl.constexpr, product_ptr, PRODUCT: tl.constexpr, keep, row, n_rows, eps, kept_ptr,
    KEPT: tl.constexpr, keeps, WIDTH: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / standard deviation of each row of a `load_sum`, which is written to `kept_ptr` where `keeps`."""
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        x = load_sum(base_ptr, BASE, product_ptr, PRODUCT, keep, row, column, inside)
        total += tl.sum(x, axis=1)
        if kept_ptr is not None:
            tl.store(kept_ptr + row[:, None] * KEPT + column[None, :], x, mask=inside & keeps)
    mean = total / WIDTH
    square = tl.zeros((ROWS,), tl.float32)
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        x = load_sum(base_ptr, BASE, product_ptr, PRODUCT, keep, row, column, inside)
        centred = tl.where(inside, x - mean[:, None], 0.0)
        square += tl.sum(centred * centred, axis=1)
    return mean, 1.0 / tl.sqrt(square / WIDTH + eps)


@triton.jit
@no_type_check
def active(x, mean, rstd, scale_ptr, shift_ptr, column, inside, WIDTH: tl.constexpr):
    """silu(scale (x - mean) rstd + shift)."""
    scale = tl.load(scale_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(shift_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    before = (x - mean[:, None]) * rstd[:, None] * scale + shift
    return tl.where(inside, before * sigmoid(before), 0.0)


@triton.jit
@no_type_check
def add_layer(
    total, base_ptr, BASE: tl.constexpr, product_ptr, PRODUCT: tl.constexpr, keep, row, n_rows, eps, kept_ptr,
    KEPT: tl.constexpr, keeps, scale_ptr, shift_ptr, matrix_ptr, out, out_inside, IN: tl.constexpr, OUT: tl.constexpr,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """total + silu(scale norm(base + keep product) + shift) M, of whose columns `out` are wanted.

    The numbers of M that stand beside each other lie IN apart along what it reads, OUT along its result.
    """
    mean, rstd = statistics(
        base_ptr, BASE, product_ptr, PRODUCT, keep, row, n_rows, eps, kept_ptr, KEPT, keeps, WIDTH, ROWS, INNER
    )
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        x = load_sum(base_ptr, BASE, product_ptr, PRODUCT, keep, row, column, inside)
        x = active(x, mean, rstd, scale_ptr, shift_ptr, column, inside, WIDTH)
        at = column[:, None] * IN + out[None, :] * OUT
        matrix = tl.load(matrix_ptr + at, mask=(column < WIDTH)[:, None] & out_inside[None, :], other=0.0)
        total = add_product(total, x, matrix, PRECISION)
    return total


@triton.jit
@no_type_check
def gru_mix(
    deter_ptr, keep_ptr, from_deter_ptr, from_stoch_ptr, action_mix_ptr, bias_ptr, scale_ptr, shift_ptr,
    shared_ptr, own_ptr, inputs_ptr, mixed_ptr, n_rows, eps,
    READ: tl.constexpr, HIDDEN: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.mix`; WIDTH = d, READ columns has `from_deter`, TILES programs share a block's columns."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    block, local = tile // TILES, tile % TILES * COLUMNS + tl.arange(0, COLUMNS)
    is_column, out = local < WIDTH, block * WIDTH + local
    at = row[:, None] * (BLOCKS * WIDTH) + out[None, :]
    inside = (row < n_rows)[:, None] & is_column[None, :]
    keep = tl.load(keep_ptr + row, mask=row < n_rows, other=0.0).to(tl.float32)
    total = tl.load(action_mix_ptr + at, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        own_inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        own_at = row[:, None] * (BLOCKS * WIDTH) + (block * WIDTH + column)[None, :]
        held = keep[:, None] * tl.load(deter_ptr + own_at, mask=own_inside, other=0.0).to(tl.float32)
        matrix_at = (block * WIDTH + column)[:, None] * WIDTH + local[None, :]
        matrix = tl.load(own_ptr + matrix_at, mask=(column < WIDTH)[:, None] & is_column[None, :], other=0.0)
        total = add_product(total, held, matrix, PRECISION)
    total = add_layer(
        total, bias_ptr, 0, from_deter_ptr, READ, keep, row, n_rows, eps, inputs_ptr, 2 * HIDDEN, tile == 0,
        scale_ptr, shift_ptr, shared_ptr, out, is_column, BLOCKS * WIDTH, 1, HIDDEN, PRECISION, ROWS, INNER,
    )  # fmt: skip
    total = add_layer(
        total, bias_ptr + HIDDEN, 0, from_stoch_ptr, HIDDEN, keep, row, n_rows, eps, inputs_ptr + HIDDEN, 2 * HIDDEN,
        tile == 0, scale_ptr + HIDDEN, shift_ptr + HIDDEN, shared_ptr + HIDDEN * BLOCKS * WIDTH, out, is_column,
        BLOCKS * WIDTH, 1, HIDDEN, PRECISION, ROWS, INNER,
    )  # fmt: skip
    tl.store(mixed_ptr + at, total, mask=inside)


@triton.jit
@no_type_check
def gru_gates(
    deter_ptr, keep_ptr, mixed_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, opened_ptr, new_ptr, narrow_ptr,
    n_rows, eps, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.gates`; a program works out all three gates of its columns of h'."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    block, local = tile // TILES, tile % TILES * COLUMNS + tl.arange(0, COLUMNS)
    is_column, here = local < WIDTH, row < n_rows
    ones = tl.full((ROWS,), 1.0, tl.float32)
    deter: tl.constexpr = BLOCKS * WIDTH
    mean, rstd = statistics(mixed_ptr, deter, None, 0, ones, row, n_rows, eps, None, 0, False, deter, ROWS, INNER)
    reset = tl.zeros((ROWS, COLUMNS), tl.float32)
    update, candidate = reset, reset
    for start in range(0, WIDTH, INNER):
        inner = start + tl.arange(0, INNER)
        column = block * WIDTH + inner
        inside = here[:, None] & (inner < WIDTH)[None, :]
        x = tl.load(mixed_ptr + row[:, None] * deter + column[None, :], mask=inside, other=0.0)
        x = active(x, mean, rstd, scale_ptr, shift_ptr, column, inside, deter)
        at = matrix_ptr + column[:, None] * (3 * WIDTH) + local[None, :]
        known = (inner < WIDTH)[:, None] & is_column[None, :]
        reset = add_product(reset, x, tl.load(at, mask=known, other=0.0), PRECISION)
        update = add_product(update, x, tl.load(at + WIDTH, mask=known, other=0.0), PRECISION)
        candidate = add_product(candidate, x, tl.load(at + 2 * WIDTH, mask=known, other=0.0), PRECISION)
    at = bias_ptr + block * (3 * WIDTH) + local
    reset += tl.load(at, mask=is_column, other=0.0)[None, :]
    update += tl.load(at + WIDTH, mask=is_column, other=0.0)[None, :]
    candidate += tl.load(at + 2 * WIDTH, mask=is_column, other=0.0)[None, :]
    inside = here[:, None] & is_column[None, :]
    at = opened_ptr + (block * n_rows + row)[:, None] * (3 * WIDTH) + local[None, :]
    tl.store(at, reset, mask=inside)
    tl.store(at + WIDTH, update, mask=inside)
    tl.store(at + 2 * WIDTH, candidate, mask=inside)
    at = row[:, None] * deter + (block * WIDTH + local)[None, :]
    keep = tl.load(keep_ptr + row, mask=here, other=0.0).to(tl.float32)
    held = keep[:, None] * tl.load(deter_ptr + at, mask=inside, other=0.0)
    new = held + sigmoid(update) * (tanh(sigmoid(reset) * candidate) - held)
    tl.store(new_ptr + at, new, mask=inside)
    if narrow_ptr is not None:
        tl.store(narrow_ptr + at, new, mask=inside)


@triton.jit
@no_type_check
def head_result(
    base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr, eps,
    row, n_rows, out, out_inside, keeps, BASE: tl.constexpr, PRODUCT: tl.constexpr, SKIP: tl.constexpr,
    HIDDEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Columns `out` of the result of a layer of the head."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32) + tl.load(bias_ptr + out, mask=out_inside, other=0.0)[None, :]
    ones = tl.full((ROWS,), 1.0, tl.float32)
    total = add_layer(
        total, base_ptr, BASE, product_ptr, PRODUCT, ones, row, n_rows, eps, read_ptr, HIDDEN, keeps, scale_ptr,
        shift_ptr, matrix_ptr, out, out_inside, 1, HIDDEN, HIDDEN, PRECISION, ROWS, INNER,
    )  # fmt: skip
    if skip_base_ptr is not None:
        inside = (row < n_rows)[:, None] & out_inside[None, :]
        total += load_sum(skip_base_ptr, SKIP, skip_product_ptr, PRODUCT, ones, row, HIDDEN + out, inside)
    return total


@triton.jit
@no_type_check
def head_layer(
    base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
    result_ptr, n_rows, eps, BASE: tl.constexpr, PRODUCT: tl.constexpr, SKIP: tl.constexpr, HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.layer`."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    out = tile * COLUMNS + tl.arange(0, COLUMNS)
    total = head_result(
        base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
        eps, row, n_rows, out, out < WIDTH, tile == 0, BASE, PRODUCT, SKIP, HIDDEN, PRECISION, ROWS, COLUMNS, INNER,
    )  # fmt: skip
    inside = (row < n_rows)[:, None] & (out < WIDTH)[None, :]
    tl.store(result_ptr + row[:, None] * WIDTH + out[None, :], total, mask=inside)


@triton.jit
@no_type_check
def head_gaussian_draw(
    base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
    raw_ptr, noise_ptr, stoch_ptr, narrow_ptr, n_rows, eps, min_std,
    BASE: tl.constexpr, PRODUCT: tl.constexpr, SKIP: tl.constexpr, HIDDEN: tl.constexpr, S: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.head_gaussian`; a program works out mean, standard deviation and sample of its groups."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    group = tile * COLUMNS + tl.arange(0, COLUMNS)
    mean = head_result(
        base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
        eps, row, n_rows, group, group < S, tile == 0, BASE, PRODUCT, SKIP, HIDDEN, PRECISION, ROWS, COLUMNS, INNER,
    ).to(raw_ptr.dtype.element_ty)  # fmt: skip
    raw_std = head_result(
        base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, None,
        eps, row, n_rows, group + S, group < S, False, BASE, PRODUCT, SKIP, HIDDEN, PRECISION, ROWS, COLUMNS, INNER,
    ).to(raw_ptr.dtype.element_ty)  # fmt: skip
    inside = (row < n_rows)[:, None] & (group < S)[None, :]
    at = raw_ptr + row[:, None] * (2 * S) + group[None, :]
    tl.store(at, mean, mask=inside)
    tl.store(at + S, raw_std, mask=inside)
    at = row[:, None] * S + group[None, :]
    std, _ = standard_deviation(raw_std.to(tl.float32), min_std)
    noise = tl.load(noise_ptr + at, mask=inside, other=0.0).to(tl.float32)
    sample = mean.to(tl.float32) + std * noise
    tl.store(stoch_ptr + at, sample, mask=inside)
    if narrow_ptr is not None:
        tl.store(narrow_ptr + at, sample, mask=inside)


@triton.jit
@no_type_check
def head_categorical_draw(
    base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
    raw_ptr, noise_ptr, stoch_ptr, narrow_ptr, n_rows, eps, keep, uniform, clamp,
    BASE: tl.constexpr, PRODUCT: tl.constexpr, SKIP: tl.constexpr, HIDDEN: tl.constexpr, S: tl.constexpr,
    K: tl.constexpr, MIXED: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
    CLASSES: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.head_categorical`; a program works out logits and sample of GROUPS whole groups."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    place = tl.arange(0, GROUPS * CLASSES)
    group, k = tile * GROUPS + place // CLASSES, place % CLASSES
    is_class, out = (group < S) & (k < K), group * K + k
    raw = head_result(
        base_ptr, product_ptr, scale_ptr, shift_ptr, matrix_ptr, bias_ptr, skip_base_ptr, skip_product_ptr, read_ptr,
        eps, row, n_rows, out, is_class, tile == 0, BASE, PRODUCT, SKIP, HIDDEN, PRECISION, ROWS, GROUPS * CLASSES,
        INNER,
    ).to(raw_ptr.dtype.element_ty)  # fmt: skip
    at = row[:, None] * (S * K) + out[None, :]
    tl.store(raw_ptr + at, raw, mask=(row < n_rows)[:, None] & is_class[None, :])
    row, group = row[:, None, None], (tile * GROUPS + tl.arange(0, GROUPS))[None, :, None]
    k = tl.arange(0, CLASSES)[None, None, :]
    inside, at = (row < n_rows) & (group < S) & (k < K), row * (S * K) + group * K + k
    logits = tl.reshape(raw.to(tl.float32), (ROWS, GROUPS, CLASSES))
    _, probs, _ = mixed_softmax(logits, k < K, keep, uniform, MIXED)
    noise = tl.load(noise_ptr + at, mask=inside, other=0.5).to(tl.float32)
    race = probs / -tl.log(tl.minimum(tl.maximum(noise, clamp), 1 - clamp))
    race = tl.where((k < K) & (race >= 0), race, -1.0)
    first = tl.argmax(race, 2, tie_break_left=True)[:, :, None]
    sample = tl.where(k == first, 1.0, 0.0) + (probs - probs)  # NaN where a probability is
    tl.store(stoch_ptr + at, sample, mask=inside)
    if narrow_ptr is not None:
        tl.store(narrow_ptr + at, sample, mask=inside)


def mix(
    deter: Tensor, keep: Tensor, from_deter: Tensor, from_stoch: Tensor, action_mix: Tensor, bias: Tensor,
    scale: Tensor, shift: Tensor, shared: Tensor, own: Tensor, eps: float, inputs: Tensor, mixed: Tensor,
) -> None:  # fmt: skip
    """See `gru_reference.mix`."""
    blocks, width, _ = own.shape
    columns, tiles = columns_of(width)
    launch_step(gru_mix, len(deter), blocks * tiles, columns, {
        "deter_ptr": deter, "keep_ptr": keep, "from_deter_ptr": from_deter, "from_stoch_ptr": from_stoch,
        "action_mix_ptr": action_mix, "bias_ptr": bias, "scale_ptr": scale, "shift_ptr": shift, "shared_ptr": shared,
        "own_ptr": own, "inputs_ptr": inputs, "mixed_ptr": mixed, "n_rows": len(deter), "eps": eps,
        "READ": from_deter.shape[-1], "HIDDEN": from_stoch.shape[-1], "BLOCKS": blocks, "WIDTH": width,
        "TILES": tiles, "PRECISION": precision(own), "COLUMNS": columns,
    })  # fmt: skip


def gates(
    deter: Tensor, keep: Tensor, mixed: Tensor, scale: Tensor, shift: Tensor, matrix: Tensor, bias: Tensor,
    eps: float, opened: Tensor, new: Tensor, new_narrow: Tensor | None,
) -> None:  # fmt: skip
    """See `gru_reference.gates`."""
    blocks, width, _ = matrix.shape
    columns, tiles = columns_of(width)
    launch_step(gru_gates, len(deter), blocks * tiles, columns, {
        "deter_ptr": deter, "keep_ptr": keep, "mixed_ptr": mixed, "scale_ptr": scale, "shift_ptr": shift,
        "matrix_ptr": matrix, "bias_ptr": bias, "opened_ptr": opened, "new_ptr": new, "narrow_ptr": new_narrow,
        "n_rows": len(deter), "eps": eps, "BLOCKS": blocks, "WIDTH": width, "TILES": tiles,
        "PRECISION": precision(matrix), "COLUMNS": columns,
    })  # fmt: skip


def layer(x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, result: Tensor) -> None:
    """See `gru_reference.layer`."""
    columns, tiles = columns_of(len(matrix))
    own = {"result_ptr": result, "WIDTH": len(matrix), "COLUMNS": columns}
    launch_step(head_layer, len(read), tiles, columns, {**_layer_arguments(x, matrix, bias, eps, read), **own})


def head_gaussian(
    x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, raw: Tensor, noise: Tensor, draw: Draw,
    stoch: Tensor, stoch_narrow: Tensor | None,
) -> None:  # fmt: skip
    """See `gru_reference.head_gaussian`."""
    columns, tiles = groups_of(draw.groups)
    own: dict[str, Any] = {"raw_ptr": raw, "noise_ptr": noise, "stoch_ptr": stoch, "narrow_ptr": stoch_narrow}
    own |= {"min_std": draw.setting, "S": draw.groups, "COLUMNS": columns}
    launch_step(head_gaussian_draw, len(read), tiles, columns, {**_layer_arguments(x, matrix, bias, eps, read), **own})


def head_categorical(
    x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, raw: Tensor, noise: Tensor, draw: Draw,
    stoch: Tensor, stoch_narrow: Tensor | None,
) -> None:  # fmt: skip
    """See `gru_reference.head_categorical`."""
    groups, classes = classes_of(draw.groups, draw.classes)
    own: dict[str, Any] = {"raw_ptr": raw, "noise_ptr": noise, "stoch_ptr": stoch, "narrow_ptr": stoch_narrow}
    own |= {"keep": 1 - draw.setting, "uniform": draw.setting / draw.classes, "MIXED": draw.setting > 0}
    own |= {"clamp": torch.finfo(noise.dtype).eps, "S": draw.groups, "K": draw.classes}
    own |= {"GROUPS": groups, "CLASSES": classes}
    tiles = triton.cdiv(draw.groups, groups)
    arguments = {**_layer_arguments(x, matrix, bias, eps, read), **own}
    launch_step(head_categorical_draw, len(read), tiles, groups * classes, arguments)


def _layer_arguments(x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor) -> dict[str, Any]:
    skip_base, skip_product = x.skip or (None, None)
    product = x.product if x.product is not None else skip_product
    return {
        "base_ptr": x.base, "product_ptr": x.product, "scale_ptr": x.scale, "shift_ptr": x.shift, "matrix_ptr": matrix,
        "bias_ptr": bias, "skip_base_ptr": skip_base, "skip_product_ptr": skip_product, "read_ptr": read,
        "n_rows": len(read), "eps": eps, "BASE": x.base.stride(0),
        "PRODUCT": 0 if product is None else product.stride(0),
        "SKIP": 0 if skip_base is None else skip_base.stride(0), "HIDDEN": read.shape[-1],
        "PRECISION": precision(matrix),
    }  # fmt: skip
