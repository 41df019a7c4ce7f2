"""Triton's interpreter with a GPU's rounding, to see which tests of kernels ask for more digits than a GPU has.

    PYTHONPATH=tests pytest -p approximate_gpu tests/kernels

On NVIDIA's GPUs Triton's exp is ex2.approx of x log2(e), which is rounded before, and its division is div.full, each
right to two units in the last place; its log is right to one. Here the same number always has the same error, as there.
It is assumed that exp(0), log(1) and division by a power of two are exact. No GPU was asked.
"""

import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def erring(exact: np.ndarray, units: int, *arguments: np.ndarray) -> np.ndarray:
    """Numbers moved by up to `units` in the last place, as the bits of what they were computed from say."""
    bits = sum(x.view(np.uint32).astype(np.uint64) * np.uint64(2654435761 + 2 * i) for i, x in enumerate(arguments))
    shift = (bits >> np.uint64(15)) % np.uint64(2 * units + 1)
    with np.errstate(all="ignore"):
        moved = exact + np.spacing(exact) * (shift.astype(np.float32) - np.float32(units))
    return np.where(np.isfinite(exact) & (np.abs(exact) > np.finfo(np.float32).tiny), moved, exact).astype(np.float32)


def exponential(builder: Any, x: TensorHandle) -> TensorHandle:
    with np.errstate(all="ignore"):
        exact = np.exp2(x.data * np.float32(np.log2(np.e)))
    return TensorHandle(np.where(x.data == 0, exact, erring(exact, 2, x.data)), x.dtype.scalar)


def logarithm(builder: Any, x: TensorHandle) -> TensorHandle:
    with np.errstate(all="ignore"):
        exact = np.log(x.data)
    return TensorHandle(np.where(x.data == 1, exact, erring(exact, 1, x.data)), x.dtype.scalar)


def quotient(builder: Any, x: TensorHandle, y: TensorHandle) -> TensorHandle:
    with np.errstate(all="ignore"):
        exact = x.data / y.data
    by_power_of_two = np.abs(np.frexp(y.data)[0]) == 0.5
    moved = erring(exact, 2, *np.broadcast_arrays(x.data, y.data))
    return TensorHandle(np.where(by_power_of_two, exact, moved), x.dtype.scalar)


InterpreterBuilder.create_exp = exponential
InterpreterBuilder.create_log = logarithm
InterpreterBuilder.create_fdiv = quotient
