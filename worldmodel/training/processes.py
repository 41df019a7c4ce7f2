"""The processes that share a training: joined as torchrun started them, sums over all of them, and what they agree on.

    torchrun --nproc-per-node 8 -m worldmodel train --config pendulum

Every process has a model with the same weights, environments and a replay of its own, and a share of the sequences of
each batch. Sums of losses and counts over all processes make the gradients those of the whole batch. The process of
rank 0 writes: it holds the lock on the run's folder, evaluates, saves checkpoints and keeps the record.

There are two groups beside the one that they join by. Sums of an update go through one whose members must come within
a minute. Before each update, the processes meet in the other one, which waits as long as rank 0 may take to evaluate or
to draw. A process that ends closes its connections, which ends the waiting of the others at once.
"""

import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from worldmodel.system.launched import launched

SUMS = timedelta(minutes=1)  # that a process may be late for a sum of an update
COMPILING = timedelta(minutes=20)  # the same where the first update is compiled
JOINING = timedelta(minutes=5)  # that a process may be late at the start, where it imports and is made
MEETINGS = timedelta(hours=6)  # that a process may be late for a meeting, since rank 0 evaluates and draws before some


class LostProcessError(ConnectionError):
    """Another process of this training has ended, or does not answer; the message says which one where it can."""


@runtime_checkable
class Group(Protocol):
    """What is needed of a `torch.distributed` process group."""

    def allreduce(self, tensors: list[Tensor]) -> Any:
        """Begin to replace each tensor by its sum over all processes; the result's `wait` ends it."""
        ...


@dataclass(frozen=True)
class Processes:
    """The rank of this process among so many, and the groups through which they sum and meet."""

    rank: int = 0
    world: int = 1
    group: Group | None = None  # of sums; needed where there are several
    meetings: Group | None = None  # of what is agreed on, on the CPU; `group` if there is no other
    members: tuple[tuple[str, int], ...] = ()  # machine and process number of each rank

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank: expected 0 to {self.world - 1} in a world of {self.world}, got {self.rank}")

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes to the run's folder."""
        return self.rank == 0

    def share_of(self, number: int, name: str) -> int:
        """This process's share of a number that is a setting; raises ValueError if it cannot be shared equally."""
        if number % self.world:
            raise ValueError(f"{name}: expected a multiple of the {self.world} processes that share it, got {number}")
        return number // self.world

    def sum_over(self, x: Tensor) -> Tensor:
        """The sum of x over all processes, differentiable.

        Every process computes the same loss from such sums and calls `backward`; the mean over processes of the
        gradients that its parameters then have is the gradient of the loss (see `mean_gradients`).
        """
        return x if self.group is None else _Sum.apply(x, self)

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradient of every parameter by its mean over all processes, in one sum for all of them."""
        gradients = [p.grad for p in parameters if p.grad is not None] if self.group is not None else []
        if gradients:
            means = self.summed(torch.cat([gradient.flatten() for gradient in gradients])) / self.world
            for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def gather(self, x: Tensor) -> Tensor:
        """The tensors of all processes, [world, ...] by rank, all of one shape; without gradients."""
        places = x.new_zeros(self.world, *x.shape)
        places[self.rank] = x.detach()
        return self.summed(places)

    def equalise(self, module: nn.Module) -> None:
        """Give the weights and buffers that rank 0 has to all."""
        for x in module.state_dict().values() if self.group is not None else ():
            of_first = x.byte() if x.dtype == torch.bool else x
            x.copy_(self.summed(of_first if self.writes else torch.zeros_like(of_first)))

    def greatest(self, number: int) -> int:
        """The largest of the numbers of all processes, each at least 0 and less than 64."""
        seen = torch.zeros(64, dtype=torch.int64)
        seen[number] = 1
        return int(self.met(seen).nonzero().max())

    def total(self, number: int) -> int:
        """The sum of the numbers of all processes."""
        return int(self.met(torch.tensor(number)))

    def exchange(self, content: bytes) -> list[bytes]:
        """What each process brings, by rank."""
        sizes = torch.zeros(self.world, dtype=torch.int64)
        sizes[self.rank] = len(content)
        sizes = self.met(sizes)
        texts = torch.zeros(self.world, int(sizes.max()), dtype=torch.uint8)
        texts[self.rank, : len(content)] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        return [bytes(text[:size].numpy()) for text, size in zip(self.met(texts), sizes.tolist(), strict=True)]

    def exchange_tensors(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The named tensors of each process, by rank, on the CPU."""
        content = save({name: x.detach().cpu().contiguous() for name, x in tensors.items()})
        return [load(one) for one in self.exchange(content)]

    def summed(self, x: Tensor) -> Tensor:
        """The sum of x over all processes, without gradients."""
        return x if self.group is None else self._sum(x, self.group)

    def met(self, x: Tensor) -> Tensor:
        """The sum over all processes of x, on the CPU, however long some of them take to come."""
        group = self.meetings or self.group
        return x if group is None else self._sum(x, group)

    def _sum(self, x: Tensor, group: Group) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        try:
            group.allreduce([total]).wait()
        except RuntimeError as error:  # torch has no narrower one
            raise LostProcessError(self._loss()) from error
        return total

    def _loss(self) -> str:
        """What is known of why a sum failed."""
        for _ in range(20):  # a process closes its connections a moment before it has ended
            time.sleep(0.25)
            here = [(str(rank), pid) for rank, (machine, pid) in enumerate(self.members) if machine == platform.node()]
            if gone := [rank for rank, pid in here if _ended(pid)]:
                return f"rank {', '.join(gone)} of {self.world} has ended; its own words, if it had any, are above"
        return f"another of the {self.world} processes has ended on its machine, or did not answer in time"


@contextmanager
def joined(device: torch.device, *, compiling: bool = False) -> Iterator[Processes]:
    """The processes that torchrun started, as a group during the `with` block; ALONE where there is only this one.

    Args:
        device: of this process's model: sums go through nccl on a GPU, through gloo elsewhere.
        compiling: whether the first update takes minutes.
    Raises:
        LostProcessError: if the others cannot be reached.
    """
    rank, world, _ = launched()
    if world == 1:
        yield ALONE
        return
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("gloo", timeout=JOINING)
        meetings = distributed.new_group(backend="gloo", timeout=MEETINGS)
        group = distributed.new_group(backend=backend, timeout=COMPILING if compiling else SUMS)
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(f"rank {rank} of {world}: expected to reach the others, got: {error}") from error
    strangers = Processes(rank, world, group, meetings)
    members = [text.decode().split() for text in strangers.exchange(f"{platform.node()} {os.getpid()}".encode())]
    yield replace(strangers, members=tuple((machine, int(pid)) for machine, pid in members))
    distributed.destroy_process_group()  # after an error the connections last as long as the process, whose end is seen


class _Sum(torch.autograd.Function):
    """y_r = sum_s x_s in every process r, so that dL/dx_s = sum_r dL/dy_r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.summed(gradient), None


def _ended(pid: int) -> bool:
    """Whether a process of this machine has ended, though nobody may have asked yet how (a zombie)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    with suppress(OSError):  # elsewhere than on Linux there is no such file
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


ALONE = Processes()
