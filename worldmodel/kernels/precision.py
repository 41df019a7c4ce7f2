"""The rule about precision: densities, entropies and KLs are computed in float32 or better, whatever the autocast."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """x in float32 if it is narrower than that; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
