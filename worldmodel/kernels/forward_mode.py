"""Forward-mode derivatives of operators that have only backward ones: refused, where torch would answer zero."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Torch's own formula for a custom operator is one kernel for all devices; a kernel of one of these comes before it.
DEVICES = ("AutogradCPU", "AutogradCUDA")
_registry = torch.library.Library("worldmodel", "FRAGMENT")  # what it registers lasts as long as it does


def refuse_forward_mode(*names: str) -> None:
    """Make operators raise NotImplementedError where an input carries a forward-mode tangent.

    Args:
        names: of custom operators in the namespace worldmodel, their gradients registered; call it once for each.
    """
    for name in names:
        for device in DEVICES:
            _refuse(name, device)


def _refuse(name: str, device: str) -> None:
    usual = torch.library.get_kernel(f"worldmodel::{name}", device)

    def checked(keys: torch.DispatchKeySet, *arguments: Any) -> Any:
        if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in arguments):
            raise NotImplementedError(
                f"worldmodel::{name}: expected no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad), "
                'which this operator does not have; got an input with a tangent. Pass backend="reference" for it'
            )
        return usual.call_boxed(keys, *arguments)

    _registry.impl(name, checked, device, with_keyset=True)
