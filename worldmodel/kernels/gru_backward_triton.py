"""The launches of a step of the block GRU and of the posterior's head, backward, as Triton kernels.

`gru_reference` defines them. As forward, a product whose factor has come back through a norm works that factor out in
every program.
(`no_type_check`: Triton reads the source of a function, so the type checker of the tests must not wrap it.)
"""

from typing import Any, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from worldmodel.kernels.gru_launch_triton import classes_of, columns_of, groups_of, launch_step, precision
from worldmodel.kernels.gru_shapes import Draw, Normalised
from worldmodel.kernels.gru_triton import add_product, load_sum
from worldmodel.kernels.numerics_triton import mixed_softmax, rows_here, standard_deviation


@triton.jit
@no_type_check
def at_norm(active_ptr, into_ptr, x_ptr, ROW: tl.constexpr, mean, rstd, row, column, inside):
    """What reaches a norm's result, and that result; rows lie ROW apart."""
    at = row[:, None] * ROW + column[None, :]
    reached = tl.load(active_ptr + at, mask=inside, other=0.0).to(tl.float32)
    reached *= tl.load(into_ptr + at, mask=inside, other=0.0)
    normal = (tl.load(x_ptr + at, mask=inside, other=0.0) - mean[:, None]) * rstd[:, None]
    return reached, tl.where(inside, normal, 0.0)


@triton.jit
@no_type_check
def reached_means(
    active_ptr, into_ptr, x_ptr, ROW: tl.constexpr, mean_ptr, rstd_ptr, STATS: tl.constexpr, row, n_rows,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """mean(x) and 1 / std, STATS apart, and with g and n from `at_norm` mean(g) and mean(g n), of each row."""
    mean = tl.load(mean_ptr + row * STATS, mask=row < n_rows, other=0.0)
    rstd = tl.load(rstd_ptr + row * STATS, mask=row < n_rows, other=0.0)
    total, along = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        reached, normal = at_norm(active_ptr, into_ptr, x_ptr, ROW, mean, rstd, row, column, inside)
        total += tl.sum(reached, axis=1)
        along += tl.sum(reached * normal, axis=1)
    return mean, rstd, total / WIDTH, along / WIDTH


@triton.jit
@no_type_check
def through_norm(
    active_ptr, into_ptr, x_ptr, ROW: tl.constexpr, mean, rstd, total, along, row, column, inside
):  # fmt: skip
    """(g - mean(g) - n mean(g n)) / std of some columns."""
    reached, normal = at_norm(active_ptr, into_ptr, x_ptr, ROW, mean, rstd, row, column, inside)
    return tl.where(inside, rstd[:, None] * (reached - total[:, None] - normal * along[:, None]), 0.0)


@triton.jit
@no_type_check
def store_through_norm(
    active_ptr, into_ptr, x_ptr, ROW: tl.constexpr, mean_ptr, rstd_ptr, STATS: tl.constexpr, keep, row, n_rows,
    out_ptr, narrow_ptr, OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """keep times `through_norm`, of all columns."""
    mean, rstd, total, along = reached_means(
        active_ptr, into_ptr, x_ptr, ROW, mean_ptr, rstd_ptr, STATS, row, n_rows, WIDTH, ROWS, INNER
    )
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        x = through_norm(active_ptr, into_ptr, x_ptr, ROW, mean, rstd, total, along, row, column, inside)
        at = row[:, None] * OUT + column[None, :]
        tl.store(out_ptr + at, keep[:, None] * x, mask=inside)
        if narrow_ptr is not None:
            tl.store(narrow_ptr + at, keep[:, None] * x, mask=inside)


@triton.jit
@no_type_check
def store_columns(
    source_ptr, out_ptr, narrow_ptr, row, n_rows, ROW: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    INNER: tl.constexpr,
):  # fmt: skip
    """Copy columns, or zeros where there is no source; all rows lie ROW apart."""
    for start in range(0, WIDTH, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < WIDTH)[None, :]
        at, x = row[:, None] * ROW + column[None, :], tl.zeros((ROWS, INNER), tl.float32)
        if source_ptr is not None:
            x = tl.load(source_ptr + at, mask=inside, other=0.0)
        tl.store(out_ptr + at, x, mask=inside)
        if narrow_ptr is not None:
            tl.store(narrow_ptr + at, x, mask=inside)


@triton.jit
@no_type_check
def reached_stoch(
    total, active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, stoch_in_ptr, row, n_rows, out, out_inside,
    HIDDEN: tl.constexpr, STOCH: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """total + k i_z' Z, columns `out` of Z; i_z is the second half of i [B, 2, I]."""
    keep = tl.load(keep_ptr + row, mask=row < n_rows, other=0.0)
    active_ptr, into_ptr, x_ptr = active_ptr + HIDDEN, into_ptr + HIDDEN, x_ptr + HIDDEN
    mean, rstd, mean_reached, along = reached_means(
        active_ptr, into_ptr, x_ptr, 2 * HIDDEN, mean_ptr + 1, rstd_ptr + 1, 2, row, n_rows, HIDDEN, ROWS, INNER
    )
    for start in range(0, HIDDEN, INNER):
        column = start + tl.arange(0, INNER)
        inside = (row < n_rows)[:, None] & (column < HIDDEN)[None, :]
        x = through_norm(active_ptr, into_ptr, x_ptr, 2 * HIDDEN, mean, rstd, mean_reached, along, row, column, inside)
        known = (column < HIDDEN)[:, None] & out_inside[None, :]
        matrix = tl.load(stoch_in_ptr + column[:, None] * STOCH + out[None, :], mask=known, other=0.0)
        total = add_product(total, keep[:, None] * x, matrix, PRECISION)
    return total


@triton.jit
@no_type_check
def store_raw(x, of_raw_ptr, narrow_ptr, read_ptr, row, out, inside, PARAMETERS: tl.constexpr, READ: tl.constexpr):
    """Add x to what reaches the parameters, and write the sum wherever it is read."""
    at = row * PARAMETERS + out
    x += tl.load(of_raw_ptr + at, mask=inside, other=0.0)
    tl.store(of_raw_ptr + at, x, mask=inside)
    if narrow_ptr is not None:
        tl.store(narrow_ptr + at, x, mask=inside)
    if read_ptr is not None:
        tl.store(read_ptr + row * READ + (READ - PARAMETERS) + out, x, mask=inside)


@triton.jit
@no_type_check
def draw_gaussian_back(
    active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, stoch_in_ptr, of_stoch_ptr, of_raw_ptr, raw_ptr,
    noise_ptr, narrow_ptr, read_ptr, n_rows,
    HIDDEN: tl.constexpr, READ: tl.constexpr, S: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.draw_back` of Gaussian groups."""
    row, group = rows_here(ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < n_rows)[:, None] & (group < S)[None, :]
    at = row[:, None] * S + group[None, :]
    reached = tl.load(of_stoch_ptr + at, mask=inside, other=0.0)
    if active_ptr is not None:
        reached = reached_stoch(
            reached, active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, stoch_in_ptr, row, n_rows, group,
            group < S, HIDDEN, S, PRECISION, ROWS, INNER,
        )  # fmt: skip
    raw_at = row[:, None] * (2 * S) + S + group[None, :]
    _, slope = standard_deviation(tl.load(raw_ptr + raw_at, mask=inside, other=0.0).to(tl.float32), 0.0)
    noise = tl.load(noise_ptr + at, mask=inside, other=0.0).to(tl.float32)
    row, group = row[:, None], group[None, :]
    store_raw(reached, of_raw_ptr, narrow_ptr, read_ptr, row, group, inside, 2 * S, READ)
    store_raw(reached * noise * slope, of_raw_ptr, narrow_ptr, read_ptr, row, S + group, inside, 2 * S, READ)


@triton.jit
@no_type_check
def draw_categorical_back(
    active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, stoch_in_ptr, of_stoch_ptr, of_raw_ptr, raw_ptr,
    narrow_ptr, read_ptr, n_rows, share,
    HIDDEN: tl.constexpr, READ: tl.constexpr, S: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.draw_back` of categorical groups; `share` is that of the softmax in the mixture."""
    row, place = rows_here(ROWS), tl.arange(0, GROUPS * CLASSES)
    group, k = tl.program_id(1) * GROUPS + place // CLASSES, place % CLASSES
    is_class, out = (group < S) & (k < K), group * K + k
    at, inside = row[:, None] * (S * K) + out[None, :], (row < n_rows)[:, None] & is_class[None, :]
    reached = tl.load(of_stoch_ptr + at, mask=inside, other=0.0)
    if active_ptr is not None:
        reached = reached_stoch(
            reached, active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, stoch_in_ptr, row, n_rows, out,
            is_class, HIDDEN, S * K, PRECISION, ROWS, INNER,
        )  # fmt: skip
    reached = tl.reshape(reached, (ROWS, GROUPS, CLASSES))
    logits = tl.reshape(tl.load(raw_ptr + at, mask=inside, other=0.0).to(tl.float32), (ROWS, GROUPS, CLASSES))
    row, group = row[:, None, None], (tl.program_id(1) * GROUPS + tl.arange(0, GROUPS))[None, :, None]
    k = tl.arange(0, CLASSES)[None, None, :]
    softmax, _, _ = mixed_softmax(logits, k < K, 1.0, 0.0, False)
    centred = reached - tl.sum(softmax * reached, axis=2, keep_dims=True)
    inside = (row < n_rows) & (group < S) & (k < K)
    store_raw(share * softmax * centred, of_raw_ptr, narrow_ptr, read_ptr, row, group * K + k, inside, S * K, READ)


@triton.jit
@no_type_check
def norm_backward(
    active_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, out_ptr, narrow_ptr, n_rows,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.norm_back`."""
    ones = tl.full((ROWS,), 1.0, tl.float32)
    store_through_norm(
        active_ptr, into_ptr, x_ptr, HIDDEN, mean_ptr, rstd_ptr, 1, ones, rows_here(ROWS), n_rows, out_ptr,
        narrow_ptr, HIDDEN, HIDDEN, ROWS, INNER,
    )  # fmt: skip


@triton.jit
@no_type_check
def read_backward(
    input_active_ptr, input_into_ptr, input_x_ptr, input_mean_ptr, input_rstd_ptr, keep_ptr,
    layer_active_ptr, layer_into_ptr, layer_x_ptr, layer_mean_ptr, layer_rstd_ptr, read_ptr, narrow_ptr, n_rows,
    HIDDEN: tl.constexpr, READ: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.read_back`; a program works out one of the parts of its rows."""
    row, part = rows_here(ROWS), tl.program_id(1)
    ones = tl.full((ROWS,), 1.0, tl.float32)
    layer_narrow_ptr = narrow_ptr
    if narrow_ptr is not None:
        layer_narrow_ptr = narrow_ptr + HIDDEN
    if part == 0:
        if input_active_ptr is not None:
            store_through_norm(
                input_active_ptr, input_into_ptr, input_x_ptr, 2 * HIDDEN, input_mean_ptr, input_rstd_ptr, 2,
                tl.load(keep_ptr + row, mask=row < n_rows, other=0.0), row, n_rows, read_ptr, narrow_ptr, READ,
                HIDDEN, ROWS, INNER,
            )  # fmt: skip
        else:
            store_columns(None, read_ptr, narrow_ptr, row, n_rows, READ, HIDDEN, ROWS, INNER)
    elif part == 1:
        store_through_norm(
            layer_active_ptr, layer_into_ptr, layer_x_ptr, HIDDEN, layer_mean_ptr, layer_rstd_ptr, 1, ones, row,
            n_rows, read_ptr + HIDDEN, layer_narrow_ptr, READ, HIDDEN, ROWS, INNER,
        )  # fmt: skip
    elif narrow_ptr is not None:
        skipped = read_ptr + 2 * HIDDEN
        store_columns(skipped, narrow_ptr + 2 * HIDDEN, None, row, n_rows, READ, READ - 2 * HIDDEN, ROWS, INNER)


@triton.jit
@no_type_check
def gru_gates_back(
    of_deter_ptr, from_read_ptr, slopes_ptr, matrix_ptr, opened_ptr, active_ptr, n_rows,
    BLOCKS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.gates_back`."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    block, local = tile // TILES, tile % TILES * COLUMNS + tl.arange(0, COLUMNS)
    is_column, here = local < WIDTH, row < n_rows
    deter: tl.constexpr = BLOCKS * WIDTH
    ones = tl.full((ROWS,), 1.0, tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, INNER):
        inner = start + tl.arange(0, INNER)
        inside = here[:, None] & (inner < WIDTH)[None, :]
        reached = load_sum(of_deter_ptr, deter, from_read_ptr, deter, ones, row, block * WIDTH + inner, inside)
        at = (block * n_rows + row)[:, None] * (3 * WIDTH) + inner[None, :]
        known = (inner < WIDTH)[:, None] & is_column[None, :]
        matrix = matrix_ptr + (block * WIDTH + local)[None, :] * (3 * WIDTH) + inner[:, None]
        for gate in tl.static_range(3):
            opened = reached * tl.load(slopes_ptr + at + gate * WIDTH, mask=inside, other=0.0)
            tl.store(opened_ptr + at + gate * WIDTH, opened, mask=inside & (tile % TILES == 0))
            total = add_product(total, opened, tl.load(matrix + gate * WIDTH, mask=known, other=0.0), PRECISION)
    inside = here[:, None] & is_column[None, :]
    tl.store(active_ptr + row[:, None] * deter + (block * WIDTH + local)[None, :], total, mask=inside)


@triton.jit
@no_type_check
def gru_mix_back(
    of_deter_ptr, from_read_ptr, stay_ptr, reached_ptr, into_ptr, x_ptr, mean_ptr, rstd_ptr, keep_ptr, shared_ptr,
    own_ptr, active_ptr, of_earlier_ptr, n_rows,
    HIDDEN: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr, SHARED_TILES: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """`gru_reference.mix_back`; SHARED_TILES programs work out active', the others what reaches h_{t-1}."""
    row, tile = rows_here(ROWS), tl.program_id(1)
    here = row < n_rows
    deter: tl.constexpr = BLOCKS * WIDTH
    mean, rstd, mean_reached, along = reached_means(
        reached_ptr, into_ptr, x_ptr, deter, mean_ptr, rstd_ptr, 1, row, n_rows, deter, ROWS, INNER
    )
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if tile < SHARED_TILES:
        out = tile * COLUMNS + tl.arange(0, COLUMNS)
        for start in range(0, deter, INNER):
            column = start + tl.arange(0, INNER)
            inside = here[:, None] & (column < deter)[None, :]
            m = through_norm(reached_ptr, into_ptr, x_ptr, deter, mean, rstd, mean_reached, along, row, column, inside)
            known = (column < deter)[:, None] & (out < 2 * HIDDEN)[None, :]
            matrix = tl.load(shared_ptr + out[None, :] * deter + column[:, None], mask=known, other=0.0)
            total = add_product(total, m, matrix, PRECISION)
        inside = here[:, None] & (out < 2 * HIDDEN)[None, :]
        tl.store(active_ptr + row[:, None] * (2 * HIDDEN) + out[None, :], total, mask=inside)
    else:
        block = (tile - SHARED_TILES) // TILES
        local = (tile - SHARED_TILES) % TILES * COLUMNS + tl.arange(0, COLUMNS)
        for start in range(0, WIDTH, INNER):
            inner = start + tl.arange(0, INNER)
            inside = here[:, None] & (inner < WIDTH)[None, :]
            column = block * WIDTH + inner
            m = through_norm(reached_ptr, into_ptr, x_ptr, deter, mean, rstd, mean_reached, along, row, column, inside)
            known = (inner < WIDTH)[:, None] & (local < WIDTH)[None, :]
            matrix = own_ptr + (block * WIDTH + local)[None, :] * WIDTH + inner[:, None]
            total = add_product(total, m, tl.load(matrix, mask=known, other=0.0), PRECISION)
        inside, out = here[:, None] & (local < WIDTH)[None, :], block * WIDTH + local
        ones = tl.full((ROWS,), 1.0, tl.float32)
        reached = load_sum(of_deter_ptr, deter, from_read_ptr, deter, ones, row, out, inside)
        stay = tl.load(stay_ptr + (block * n_rows + row)[:, None] * WIDTH + local[None, :], mask=inside, other=0.0)
        keep = tl.load(keep_ptr + row, mask=here, other=0.0)[:, None]
        at = of_earlier_ptr + row[:, None] * deter + out[None, :]
        earlier = tl.load(at, mask=inside, other=0.0)
        tl.store(at, earlier + keep * (reached * stay + total), mask=inside)


def draw_back(
    reached: Normalised | None, keep: Tensor, stoch_in: Tensor, of_stoch: Tensor, of_raw: Tensor, raw: Tensor,
    noise: Tensor, draw: Draw, raw_narrow: Tensor | None, read: Tensor,
) -> None:  # fmt: skip
    """See `gru_reference.draw_back`."""
    hidden, width = len(stoch_in), read.shape[-1]
    arguments = {
        **_normalised(reached), "keep_ptr": keep, "stoch_in_ptr": stoch_in, "of_stoch_ptr": of_stoch,
        "of_raw_ptr": of_raw, "raw_ptr": raw, "narrow_ptr": raw_narrow,
        "read_ptr": read if width > 2 * hidden else None, "n_rows": len(raw), "HIDDEN": hidden, "READ": width,
        "S": draw.groups, "PRECISION": precision(stoch_in),
    }  # fmt: skip
    if draw.classes:
        groups, classes = classes_of(draw.groups, draw.classes)
        columns, tiles = groups * classes, triton.cdiv(draw.groups, groups)
        own: dict[str, Any] = {"K": draw.classes, "share": 1 - draw.setting, "GROUPS": groups, "CLASSES": classes}
        launch_step(draw_categorical_back, len(raw), tiles, columns, {**arguments, **own})
    else:
        columns, tiles = groups_of(draw.groups)
        own = {"noise_ptr": noise, "COLUMNS": columns}
        launch_step(draw_gaussian_back, len(raw), tiles, columns, {**arguments, **own})


def norm_back(reached: Normalised, out: Tensor, out_narrow: Tensor | None) -> None:
    """See `gru_reference.norm_back`."""
    own = {"out_ptr": out, "narrow_ptr": out_narrow, "n_rows": len(out), "HIDDEN": out.shape[-1]}
    launch_step(norm_backward, len(out), 1, 32, {**_normalised(reached), **own})


def read_back(
    inputs: Normalised | None, keep: Tensor, layer: Normalised, read: Tensor, read_narrow: Tensor | None
) -> None:
    """See `gru_reference.read_back`."""
    hidden, width = layer.x.shape[-1], read.shape[-1]
    parts = 3 if width > 2 * hidden and read_narrow is not None else 2
    launch_step(read_backward, len(read), parts, 32, {
        **_normalised(inputs, "input_"), "keep_ptr": keep, **_normalised(layer, "layer_"), "read_ptr": read,
        "narrow_ptr": read_narrow, "n_rows": len(read), "HIDDEN": hidden, "READ": width,
    })  # fmt: skip


def gates_back(
    of_deter: Tensor, from_read: Tensor, slopes: Tensor, matrix: Tensor, opened: Tensor, active: Tensor
) -> None:
    """See `gru_reference.gates_back`."""
    blocks, width, _ = matrix.shape
    columns, tiles = columns_of(width)
    launch_step(gru_gates_back, len(active), blocks * tiles, columns, {
        "of_deter_ptr": of_deter, "from_read_ptr": from_read, "slopes_ptr": slopes, "matrix_ptr": matrix,
        "opened_ptr": opened, "active_ptr": active, "n_rows": len(active), "BLOCKS": blocks, "WIDTH": width,
        "TILES": tiles, "PRECISION": precision(matrix), "COLUMNS": columns,
    })  # fmt: skip


def mix_back(
    of_deter: Tensor, from_read: Tensor, stay: Tensor, reached: Normalised, keep: Tensor, shared: Tensor, own: Tensor,
    active: Tensor, of_earlier: Tensor,
) -> None:  # fmt: skip
    """See `gru_reference.mix_back`."""
    blocks, width, _ = own.shape
    columns, tiles = columns_of(width)
    shared_tiles = triton.cdiv(len(shared), columns)
    names = {"active_ptr": "reached_ptr"}  # `active_ptr` is what comes out
    launch_step(gru_mix_back, len(of_deter), shared_tiles + blocks * tiles, columns, {
        **{names.get(name, name): x for name, x in _normalised(reached).items()},
        "of_deter_ptr": of_deter, "from_read_ptr": from_read, "stay_ptr": stay, "keep_ptr": keep,
        "shared_ptr": shared, "own_ptr": own, "active_ptr": active, "of_earlier_ptr": of_earlier,
        "n_rows": len(of_deter), "HIDDEN": len(shared) // 2, "BLOCKS": blocks, "WIDTH": width, "TILES": tiles,
        "SHARED_TILES": shared_tiles, "PRECISION": precision(own), "COLUMNS": columns,
    })  # fmt: skip


def _normalised(reached: Normalised | None, prefix: str = "") -> dict[str, Any]:
    tensors = (None,) * len(Normalised._fields) if reached is None else reached
    return {f"{prefix}{name}_ptr": x for name, x in zip(Normalised._fields, tensors, strict=True)}
