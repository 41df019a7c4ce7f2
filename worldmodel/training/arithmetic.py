"""How exactly and how repeatably a GPU computes, for the time of a training. On a CPU nothing here changes a number."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(*, tf32: bool, deterministic: bool) -> Iterator[None]:
    """Compute in this way until the context ends; then as before.

    Args:
        tf32: multiply float32 matrices, convolutions included, as TF32 on a GPU that can: factors are rounded to ten
            bits after the point, sums stay float32. Otherwise as float32, although torch has TF32 for convolutions.
        deterministic: use operations that give the same bits every time, and raise RuntimeError where a GPU has none.
    """
    # torch has a newer way to set TF32 (fp32_precision), but its compiler still reads this one, and refuses a mixture.
    before = _current()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used
    _set("high" if tf32 else "highest", tf32, deterministic)
    try:
        yield
    finally:
        _set(*before)


def _current() -> tuple[str, bool, bool]:
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return matrices, convolutions, torch.are_deterministic_algorithms_enabled()


def _set(matrices: str, convolutions: bool, deterministic: bool) -> None:
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.use_deterministic_algorithms(deterministic)
