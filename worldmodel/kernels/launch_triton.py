"""How the Triton kernels are launched: how tensors lie in memory, how much one program takes, on which device.

Layout. A kernel sees a tensor as rows (all leading dimensions in one) of one event each: [2S] or [S] numbers of a
Gaussian, [S, K] of a categorical, nothing where there is one number a row. It reads it where it lies, whatever its
strides, which `strided` hands over under three names, for a tensor q:

    q_ptr    the tensor
    q_row    the distance of its rows, in units of Q[0]
    Q        a constant of the kernel: (unit, strides of the event's dimensions)

A GPU loads 16 bytes at a time only where the compiler can prove that they are aligned. It knows constants, and whether
16 divides a pointer or a number, and nothing else. The distance of rows that do not touch changes with the length of a
sequence, and a kernel must not be compiled anew for each: hence a number in units of a constant, the largest power of
two, up to 16, that divides the distance. Rows that touch are as far apart as they are long, which is a constant anyhow:
then that is the unit, and the distance one of it. Outputs are always contiguous.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs

_INTERPRETING = bool(knobs.runtime.interpret)  # a constant, which torch.compile can look at


class Tile(NamedTuple):
    """How much one program takes: rows, groups at a time, classes of each (1 for Gaussians), and its warps."""

    rows: int
    groups: int
    classes: int
    num_warps: int


def interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU (TRITON_INTERPRET=1 when it was imported)."""
    return _INTERPRETING


def lanes() -> int:
    """Threads in a warp: 64 on AMD's compute GPUs, 32 on NVIDIA's."""
    return 64 if torch.version.hip else 32


def gaussian_tile(groups: int, itemsize: int) -> Tile:
    """The tile for S Gaussian groups of `itemsize` bytes a number."""
    return _tile(min(triton.next_power_of_2(groups), 1024), 1, itemsize, lanes())


def categorical_tile(groups: int, classes: int, itemsize: int) -> Tile:
    """The tile for S groups of K classes of `itemsize` bytes a number; the classes of a group are never divided."""
    width = triton.next_power_of_2(classes)
    return _tile(min(triton.next_power_of_2(groups), max(1, 2048 // width)), width, itemsize, lanes())


@functools.cache
def _tile(groups: int, classes: int, itemsize: int, lanes: int) -> Tile:
    """At least 512 numbers a program, and one 16-byte load a thread: with more, registers limit the occupancy."""
    groups = max(groups, 1)  # a row without groups still has a balanced KL
    rows = max(1, 512 // (groups * classes))
    threads = rows * groups * classes * itemsize // 16
    return Tile(rows, groups, classes, min(16, max(1, threads // lanes)))


def interpreted(tile: Tile, rows: int) -> Tile:
    """The same for the interpreter, where a program costs milliseconds however large it is: with more rows."""
    most = max(1, 2**16 // (tile.groups * tile.classes))
    return tile._replace(rows=min(triton.next_power_of_2(rows), most))


def launch(kernel: Any, tile: Tile, extent: tuple[int, ...], arguments: dict[str, Any]) -> None:
    """Run a kernel over (rows,) or over (rows, groups); it launches nothing where one of them is zero.

    Args:
        kernel: with parameters ROWS and GROUPS, which the tile gives.
        tile: what one program takes of the extent; where the extent is rows alone, a program walks over all groups.
        extent: how many rows, and groups, there are.
        arguments: the other parameters by name.
    """
    if 0 in extent:
        return
    if interpreting():
        tile = interpreted(tile, extent[0])
    grid = tuple(triton.cdiv(n, size) for n, size in zip(extent, tile, strict=False))
    launch_grid(kernel, grid, tile.num_warps, {**arguments, "ROWS": tile.rows, "GROUPS": tile.groups})


def launch_grid(kernel: Any, grid: tuple[int, ...], num_warps: int, arguments: dict[str, Any]) -> None:
    """Run so many programs of a kernel, given all of its parameters by name."""
    first = next(x for x in arguments.values() if isinstance(x, Tensor))
    with torch.cuda.device_of(first):  # where the tensors are; Triton by itself takes the current device
        kernel[grid](**arguments, num_warps=num_warps, enable_fp_fusion=True)


def rows_of(x: Tensor, event: int) -> Tensor:
    """x as [rows, *event], its last `event` dimensions as they are: a view wherever rows are evenly apart."""
    leading = x.dim() - event
    if leading == 1:
        return x
    return x.reshape(math.prod(x.shape[:leading]), *x.shape[leading:])


def gaussian_settings(raw: Tensor) -> dict[str, Any]:
    """What every kernel of Gaussians knows about raw [rows, 2S]."""
    return {"n_rows": len(raw), "S": raw.shape[1] // 2}


def categorical_settings(logits: Tensor, tile: Tile, unimix: float) -> dict[str, Any]:
    """What every kernel of categoricals knows about logits [rows, S, K]: sizes, and p = keep softmax + uniform."""
    rows, S, K = logits.shape
    sizes = {"n_rows": rows, "S": S, "K": K, "CLASSES": tile.classes}
    return {**sizes, "keep": 1 - unimix, "uniform": unimix / K, "MIXED": unimix > 0}


def strided(**tensors: Tensor | None) -> dict[str, Any]:
    """The three arguments of each tensor [rows, *event] that the module describes, all None for an absent one."""
    arguments: dict[str, Any] = {}
    for name, x in tensors.items():
        row, layout = (None, None) if x is None else _layout(x.shape, x.stride())
        arguments |= {f"{name}_ptr": x, f"{name}_row": row, name.upper(): layout}
    return arguments


@functools.lru_cache(1024)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The distance of rows in units, and (unit, strides of the event), of a tensor [rows, *event]."""
    # The stride of a dimension of one may be anything; it is never walked, and must not make a kernel of its own.
    distance, *event = (stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    touching = 0 < distance == math.prod(shape[1:])
    unit = distance if touching else math.gcd(distance, 16)
    return distance // unit, (unit, *event)
