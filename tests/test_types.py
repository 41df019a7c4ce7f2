"""Rows on their way between devices."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from worldmodel.data.random_batch import random_batch
from worlds import MIXED_SPEC


class Copies(TorchDispatchMode):
    """Notes of every copy to a device whether it is waited for; none is made."""

    def __init__(self):
        super().__init__()
        self.queued = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.queued.append(kwargs.get("non_blocking", False))
            return args[0]
        return func(*args, **(kwargs or {}))


def test_what_goes_to_a_gpu_is_copied_from_pinned_memory(monkeypatch, generator):
    batch, pinned, copied = random_batch(MIXED_SPEC, 2, 3, generator), [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.clone()) or pinned[-1])
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, **how: copied.append((x, device, how)) or x)
    batch.to("cuda:1")
    assert [id(x) for x, *_ in copied] == [id(x) for x in pinned]
    assert len(copied) == len(MIXED_SPEC.observations) + len(batch) - 1
    assert all((device, how) == ("cuda:1", {"non_blocking": True}) for _, device, how in copied)


@pytest.mark.parametrize(
    ("there", "back", "queued"),
    [("meta", "cpu", False), ("meta", torch.device("cpu"), False), ("cpu", "meta", True)],
    ids=["to the host", "to the host, a torch.device", "to a device"],
)
def test_copies_to_the_host_are_waited_for_and_others_are_queued(there, back, queued, generator):
    batch = random_batch(MIXED_SPEC, 2, 3, generator).to(there)  # meta stands for a GPU: what is copied is not there
    with Copies() as copies:
        batch.to(back)
    assert copies.queued == [queued] * (len(MIXED_SPEC.observations) + len(batch) - 1)
