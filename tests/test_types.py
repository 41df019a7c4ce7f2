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
