"""Checks of an oracle's tensors. Every error names the argument, what was expected and what came."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require

TOLERANCE = 1e-9  # relative, for sums of probabilities and symmetry: float64 numbers may have been printed and read


def expect_shape(name: str, x: Tensor, *shape: int | None) -> None:
    """Raise ValueError unless x is float64 and has this shape, where None allows any size."""
    if x.dtype != torch.float64:
        raise ValueError(f"{name}: expected float64, got {x.dtype}")
    if x.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, x.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(x.shape)}")


def expect_covariance(name: str, x: Tensor, size: int, *, definite: bool = True) -> None:
    """Raise ValueError unless x [size, size] is symmetric and positive definite (semi-definite if not `definite`)."""
    expect_shape(name, x, size, size)
    scale = float(x.abs().max())
    if not bool(torch.isfinite(x).all()) or float((x - x.mT).abs().max()) > TOLERANCE * scale:
        raise ValueError(f"{name}: expected a symmetric matrix of finite numbers, got {x.tolist()}")
    smallest = float(torch.linalg.eigvalsh(x)[0])
    if smallest < -TOLERANCE * scale or (definite and smallest <= 0):
        kind = "positive definite" if definite else "positive semi-definite"
        raise ValueError(f"{name}: expected a {kind} matrix, got smallest eigenvalue {smallest:g}")


def expect_full_rank(name: str, x: Tensor, reason: str) -> None:
    """Raise ValueError, which gives the reason, unless a covariance [size, size] has full rank to rounding."""
    rank = int(torch.linalg.matrix_rank(x, hermitian=True))
    if rank < len(x):
        raise ValueError(f"{name}: expected a covariance of full rank {len(x)}, {reason}; got one of rank {rank}")


def expect_probabilities(name: str, x: Tensor) -> None:
    """Raise ValueError unless the last dimension holds probabilities that sum to one."""
    if bool((x < 0).any()) or not bool(((x.sum(-1) - 1).abs() <= TOLERANCE).all()):
        raise ValueError(f"{name}: expected probabilities that sum to one over the last dimension, got {x.tolist()}")


def expect_positive(name: str, x: Tensor) -> None:
    """Raise ValueError unless every entry is a finite positive number."""
    require(bool((torch.isfinite(x) & (x > 0)).all()), name, "finite positive numbers", x.tolist())


def as_rows(name: str, x: Tensor, *shape: int | None) -> Float[Tensor, "..."]:
    """Data as float64 (which holds every float32 exactly), after a check of its shape; None allows any size."""
    x = x.double()
    expect_shape(name, x, *shape)
    return x
