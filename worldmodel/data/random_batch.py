"""Random rows, to run a model without an environment or to time it."""

import torch
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.data.policy import random_actions
from worldmodel.types import Batch, EnvSpec, ObservationSpec


def random_batch(spec: EnvSpec, batch: int, length: int, generator: torch.Generator) -> Batch:
    """B truncated episodes of T rows each, with independent random observations, actions and rewards.

    Args:
        spec: what a row holds.
        batch, length: B and T, at least 1.
        generator: source of all draws; the batch is on its device.
    Raises:
        ValueError: if B or T is not positive.
    """
    require_positive(batch=batch, length=length)
    device = generator.device
    step = torch.arange(length, dtype=torch.int32, device=device).expand(batch, -1)
    is_first = step == 0
    rewards = torch.randn(batch, length, generator=generator, device=device)
    actions = random_actions(spec.action, (batch, length), generator)
    return Batch(
        obs={path: _observations(leaf, (batch, length), generator) for path, leaf in spec.observations.items()},
        prev_action=actions * ~is_first[..., None],
        reward=rewards * ~is_first,
        is_first=is_first,
        is_last=step == length - 1,
        is_terminal=torch.zeros_like(is_first),
        episode_step=step,
        valid=torch.ones_like(is_first),
    )


def _observations(leaf: ObservationSpec, lead: tuple[int, int], generator: torch.Generator) -> Tensor:
    device = generator.device
    if leaf.kind == "vector":
        return torch.randn(*lead, *leaf.shape, generator=generator, device=device)
    if leaf.kind == "integer":
        columns = [
            torch.randint(low, high + 1, lead, generator=generator, device=device)
            for low, high in zip(leaf.low, leaf.high, strict=True)
        ]
        return torch.stack(columns, -1).to(leaf.torch_dtype)
    if leaf.kind == "categorical":
        columns = [torch.randint(n, lead, generator=generator, device=device) for n in leaf.classes]
        return torch.stack(columns, -1).to(torch.int32)
    levels = 256 if leaf.kind == "image" else 2
    return torch.randint(levels, (*lead, *leaf.shape), generator=generator, device=device, dtype=torch.uint8)
