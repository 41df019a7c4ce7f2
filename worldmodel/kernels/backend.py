"""Which code computes: a pure function of the request, the device and the dtypes; nothing is tried and caught."""

from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from worldmodel.system.installation import install_command

Backend = Literal["auto", "reference", "triton"]
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A constant, which torch.compile can look at; its decorator for constant results would import the compiler everywhere.
_INSTALLED = find_spec("triton") is not None


def runs_on_triton(backend: Backend, *tensors: Tensor) -> bool:
    """Whether the kernels compute this: where they can if "auto", never if "reference", always if "triton".

    Raises:
        ValueError: if the backend is unknown, or is "triton" where that cannot run: with a dtype other than float32,
            bfloat16 and float16, without triton, or on a CPU (unless TRITON_INTERPRET=1 interprets the kernels).
    """
    if backend == "auto":
        return all(x.is_cuda and x.dtype in KERNEL_DTYPES for x in tensors) and triton_installed()
    if backend not in get_args(Backend):
        raise ValueError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "reference":
        return False
    wrong = [str(x.dtype) for x in tensors if x.dtype not in KERNEL_DTYPES]
    if wrong:
        raise ValueError(f'backend: expected float32, bfloat16 or float16 for "triton", got {", ".join(wrong)}')
    if not triton_installed():
        raise ValueError(
            f'backend: expected triton to be installed for "triton", got none: {install_command("kernels")}'
        )
    if not all(x.is_cuda for x in tensors) and not _interpreting():
        raise ValueError(
            f'backend: expected tensors on a GPU for "triton", got {tensors[0].device}'
            " (TRITON_INTERPRET=1, set before triton is first imported, interprets the kernels on a CPU)"
        )
    return True


def triton_installed() -> bool:
    """Whether `import triton` works here."""
    return _INSTALLED


def _interpreting() -> bool:
    from worldmodel.kernels.launch_triton import interpreting

    return interpreting()
