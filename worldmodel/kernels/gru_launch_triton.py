"""How the launches of a GRU's step are divided: programs of 16 rows, the least that a product of tiles takes.

A batch has few rows, so that the other way to fill a GPU is many programs of few columns. All tensors are contiguous,
but for halves of a row, whose distance is a constant of the kernel; their widths are constants too.
"""

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from worldmodel.kernels import launch_triton

ROWS, LEAST, MOST = 16, 16, 32  # rows of a program; columns of a program, at least and at most
INNER = 32  # how much of a row is read at a time


@functools.cache
def columns_of(width: int) -> tuple[int, int]:
    """How many columns a program takes of a result that is so wide, and how many programs that makes."""
    columns = min(max(triton.next_power_of_2(width), LEAST), MOST)
    return columns, triton.cdiv(width, columns)


@functools.cache
def groups_of(groups: int) -> tuple[int, int]:
    """The same for Gaussian groups: the fewest, as a group has two numbers."""
    return LEAST, triton.cdiv(groups, LEAST)


@functools.cache
def classes_of(groups: int, classes: int) -> tuple[int, int]:
    """How many groups a program takes of a categorical latent, and for how many classes it has room; both 2^n."""
    room = triton.next_power_of_2(classes)
    return max(1, min(MOST // room, triton.next_power_of_2(groups)), -(-LEAST // room)), room


def precision(matrix: Tensor) -> str:
    """How factors are multiplied: float32 as torch's own products are, half precision exactly either way.

    TF32 units take half precision without loss, and are many times faster than exact ones. Not all of AMD's have them.
    """
    if launch_triton.lanes() != 32:
        return "ieee"
    narrow = matrix.dtype != torch.float32
    return "tf32" if narrow or torch.get_float32_matmul_precision() != "highest" else "ieee"


def launch_step(kernel: Any, rows: int, tiles: int, columns: int, arguments: dict[str, Any]) -> None:
    """Run a kernel over rows and tiles of so many columns; a thread has four numbers of a tile, more of large ones."""
    if rows:
        num_warps = max(1, ROWS * columns // 4 // launch_triton.lanes())
        grid = (triton.cdiv(rows, ROWS), tiles)
        launch_triton.launch_grid(kernel, grid, min(8, num_warps), {**arguments, "ROWS": ROWS, "INNER": INNER})
