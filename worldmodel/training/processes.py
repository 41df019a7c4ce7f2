"""The processes that share a training: which one this is, and sums over all of them. Today a training is one process.

Each process has a share of the rows of a batch. The process of rank 0 writes: it holds the lock on the run's folder,
saves checkpoints and keeps the record.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Group(Protocol):
    """What is needed of a `torch.distributed` process group."""

    def allreduce(self, tensors: list[Tensor]) -> Any:
        """Begin to replace each tensor by its sum over all processes; the result's `wait` ends it."""
        ...


@dataclass(frozen=True)
class Processes:
    """The rank of this process among so many, and the group through which they sum."""

    rank: int = 0
    world: int = 1
    group: Group | None = None  # needed where there are several

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank: expected 0 to {self.world - 1} in a world of {self.world}, got {self.rank}")

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes to the run's folder."""
        return self.rank == 0

    def sum_over(self, x: Tensor) -> Tensor:
        """The sum of x over all processes, differentiable.

        Every process computes the same loss from such sums and calls `backward`; the mean over processes of the
        gradients that its parameters then have is the gradient of the loss (see `mean_gradients`).
        """
        return x if self.group is None else _Sum.apply(x, self.group)

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradient of every parameter by its mean over all processes."""
        for parameter in parameters if self.group is not None else ():
            if parameter.grad is not None:
                parameter.grad.copy_(self.sum_over(parameter.grad) / self.world)

    def greatest(self, number: int) -> int:
        """The largest of the numbers of all processes, each at least 0 and less than 64."""
        if self.group is None:
            return number
        seen = torch.zeros(64, dtype=torch.int64)
        seen[number] = 1
        return int(self.sum_over(seen).nonzero().max())


class _Sum(torch.autograd.Function):
    """y_r = sum_s x_s in every process r, so that dL/dx_s = sum_r dL/dy_r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: Group) -> Tensor:
    total = x.detach().clone()
    group.allreduce([total]).wait()
    return total


ALONE = Processes()
