"""What the kernels' launches share: the device, and tensors seen as rows whose distance the compiler can reason about.

A GPU loads 16 bytes at a time only where the compiler can prove that they are aligned. It is told of a pointer or a
number that is a multiple of 16, and of nothing else; so the distance of rows is passed divided by its `alignment`,
which is a constant of the kernel, and multiplied again inside.
"""

import math
from typing import Any

import torch
from torch import Tensor
from triton import knobs


def interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU (TRITON_INTERPRET=1 when it was imported)."""
    return bool(knobs.runtime.interpret)


def lanes() -> int:
    """Threads in a warp: 64 on AMD's compute GPUs, 32 on NVIDIA's."""
    return 64 if torch.version.hip else 32


def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple, **options: int) -> None:
    """Run a kernel where its first argument, a tensor, lives; Triton by itself takes the current device."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **options, enable_fp_fusion=True)


def rows_of(x: Tensor, inner: int) -> Tensor:
    """x as [rows, width], its last `inner` dimensions flat: a view wherever rows are evenly apart."""
    width = math.prod(x.shape[-inner:])
    x = x.reshape(x.numel() // width, width)
    return x if x.stride(1) == 1 or width == 1 else x.contiguous()


def alignment(x: Tensor) -> int:
    """The largest power of two, up to 16, that divides the distance of the rows of x [rows, width]."""
    return math.gcd(x.stride(0), 16)


def units(x: Tensor) -> int:
    """The distance of the rows of x [rows, width], in multiples of `alignment`."""
    return x.stride(0) // alignment(x)
