"""A GPU that is not there: tensors that have shapes and no numbers, on a device that is not the host's.

Updates run on it as they would on a GPU, kernels included, and nothing is computed. Whatever would make the host wait,
or have a CUDA graph refuse to capture, fails at once:

    a number, or a shape that depends on one, is asked for     an error of torch's fake tensors
    an operation takes or gives a tensor of the host           HostTensorError
    a tensor is made from numbers of the host                  an error of torch's, likewise

The device is torch's `meta`, since a build of torch for CPUs cannot make fake tensors of a CUDA device that autograd
accepts. It has no autocast, which is left out here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad
from torch.optim import adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldmodel.kernels import gru, gru_backward_triton, gru_triton, kl, latent, latent_triton
from worldmodel.kernels.backend import KERNEL_DTYPES

Heard = Callable[[Any, list[Any]], None]
DEVICE = torch.device("meta")
WITHOUT_A_KERNEL = {  # operations that only name memory
    torch.ops.aten.detach.default,
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.lift_fresh.default,
}


def nobody(operation: Any, arguments: list[Any]) -> None:
    """Hears nothing."""


class HostTensorError(AssertionError):
    """An operation reaches for a tensor in the host's memory."""


class Launches(TorchDispatchMode):
    """Hears of every operation that is at least one kernel, and refuses tensors of the host.

    Views, what only names memory and what asks about a tensor are left out. A fused or `_foreach` operation is one
    here, and one launch or a few on a GPU; sorts and sums of many numbers are several there.
    """

    def __init__(self, heard: Heard) -> None:
        """Args:
        heard: called with each of them, and the leaves of its arguments.
        """
        super().__init__()
        self.heard = heard

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # The one operation of an update that torch gives no shapes for; it returns nothing.
        known = func is not torch.ops.aten._fused_adamw_.tensor_lr
        out = func(*args, **(kwargs or {})) if known else None
        leaves = tree_leaves((args, kwargs))
        strangers = [x for x in (*leaves, *tree_leaves(out)) if isinstance(x, Tensor) and x.device != DEVICE]
        if strangers:
            raise HostTensorError(f"{func}: expected tensors on the device alone, got {strangers}")
        runs = func._schema.is_mutable or any(isinstance(x, Tensor) for x in tree_leaves(out))
        if runs and not func.is_view and func not in WITHOUT_A_KERNEL:
            self.heard(func, leaves)
        return out


@contextmanager
def pretended_gpu(*, kernels: bool = True, heard: Heard = nobody) -> Iterator[Callable[[Tensor], Tensor]]:
    """Run on the device that is not there: -> takes a tensor to it. Modules are taken by `module._apply`.

    Args:
        kernels: whether the Triton kernels are there.
        heard: see `Launches`.
    """

    def taken(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE)

    def on_triton(backend: str, *tensors: Tensor) -> bool:
        return kernels and backend != "reference" and all(x.dtype in KERNEL_DTYPES for x in tensors)

    no_autocast = {"autocast": lambda *_, **__: nullcontext(), "is_autocast_enabled": lambda *_: False}
    with ExitStack() as stack:
        for name, function in no_autocast.items():
            stack.enter_context(patch.object(torch, name, function))
        stack.enter_context(patch.object(adam, "_device_dtype_check_for_fused", lambda *_, **__: None))
        stack.enter_context(patch.object(clip_grad, "_has_foreach_support", lambda *_: True))
        for module in (kl, latent, gru):
            stack.enter_context(patch.object(module, "runs_on_triton", on_triton))
        stack.enter_context(patch.object(latent_triton, "launch", lambda kernel, *_: heard(kernel, [])))
        for module in (gru_triton, gru_backward_triton):
            stack.enter_context(patch.object(module, "launch_step", lambda kernel, *_: heard(kernel, [])))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(Launches(heard))
        yield taken
