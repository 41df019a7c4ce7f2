"""Which code computes a step of the scan on a GPU: launches of products with what stands between them, or many.

The launches, forward and backward, are named and defined in `gru_reference`.
"""

from typing import Any

import torch
from torch import Tensor

from worldmodel.kernels import gru_reference
from worldmodel.kernels.backend import KERNEL_DTYPES, Backend, runs_on_triton


def gru_on_triton(backend: Backend, products: torch.dtype, *states: Tensor) -> bool:
    """Whether kernels compute the steps: by "auto" on a GPU with float32 states, unless a compiler is at work.

    Args:
        backend: "auto", "reference" or "triton".
        products: the dtype that products run in.
        states: what the steps start from and read.
    Raises:
        ValueError: as `runs_on_triton`, and if "triton" is asked for with states that are not float32, with products
            in a dtype that the kernels do not know, or inside `torch.compile`.
    """
    wrong = [str(x.dtype) for x in states if x.dtype != torch.float32]
    wrong += [] if products in KERNEL_DTYPES else [str(products)]
    if backend == "triton" and torch.compiler.is_compiling():
        raise ValueError('backend: expected "auto" or "reference" inside torch.compile, got "triton"')
    if backend == "triton" and wrong:
        raise ValueError(f'backend: expected float32 states for "triton", got {", ".join(wrong)}')
    return runs_on_triton(backend, *states) and not wrong and not torch.compiler.is_compiling()


def launches_of(reference: bool = False) -> tuple[Any, Any]:
    """The modules that hold a step's launches forward and backward: the kernels, or the formulas that define them."""
    if reference:
        return gru_reference, gru_reference
    from worldmodel.kernels import gru_backward_triton, gru_triton

    return gru_triton, gru_backward_triton
