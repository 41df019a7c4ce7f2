"""How exactly and how repeatably a GPU computes, for the time of a training. On a CPU nothing here changes a number."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


@contextmanager
def arithmetic(*, tf32: bool, deterministic: bool) -> Iterator[None]:
    """Compute in this way until the context ends; then as before.

    Args:
        tf32: multiply float32 matrices, convolutions included, as TF32 on a GPU that can: factors are rounded to ten
            bits after the point, sums stay float32. Otherwise as float32, although torch has TF32 for convolutions.
        deterministic: use operations that give the same bits every time, and raise RuntimeError where a GPU has none;
            otherwise whatever the process is set to.
    """
    # torch has a newer way to set TF32 (fp32_precision), but its compiler still reads this one, and refuses a mixture.
    before = _current()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once
    if torch.cuda.is_available():  # on some CPUs the same switch would change numbers
        _set_tf32("high" if tf32 else "highest", tf32)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if torch.cuda.is_available():
            _set_tf32(before.matrices, before.convolutions)
        torch.use_deterministic_algorithms(before.deterministic, warn_only=before.warn_only)


class _Arithmetic(NamedTuple):
    """What torch is set to."""

    matrices: str
    convolutions: bool
    deterministic: bool
    warn_only: bool


def _current() -> _Arithmetic:
    return _Arithmetic(
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_tf32(matrices: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions
