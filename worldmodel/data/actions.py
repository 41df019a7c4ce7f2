"""Sequences of actions, as a person writes them down -> as rows store them."""

from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from jaxtyping import Float
from torch import Tensor

from worldmodel.data.row_spaces import action_space_of_rows
from worldmodel.data.spaces import action_spec, encode_actions
from worldmodel.types import ActionSpec


def action_sequences(spec: ActionSpec, actions: Any, space: Space | None = None) -> Float[Tensor, "B H A"]:
    """B sequences of H actions as vectors.

    Args:
        spec: of the rows that the model knows.
        actions: [H, ...] or [B, H, ...], arrays, tensors or lists: of a categorical space whole numbers from zero, of a
            binary one zeros and ones, of a continuous one numbers in [-1, 1], the ends of the environment's range; or
            members of `space`. Vectors as rows store them will do as well.
        space: the environment's own action space, in whose units the actions then are.
    Raises:
        ValueError: if the actions are no such sequences, or lie outside the space; or the space is another one.
    """
    if space is not None and action_spec(space) != spec:
        raise ValueError(f"action_space: expected one whose actions are stored as {spec}, got {space}")
    found = np.asarray(actions.detach().cpu() if isinstance(actions, Tensor) else actions)
    if space is None and spec.kind == "categorical" and found.dtype.kind == "f":
        space = spaces.Box(0, 1, (spec.width,), np.float32)
        return torch.from_numpy(_sequences(space, found).astype(np.float32))
    space = action_space_of_rows(spec) if space is None else space
    found = _sequences(space, found)
    B, H = found.shape[:2]
    return torch.from_numpy(encode_actions(space, found.reshape(B * H, *found.shape[2:]))).view(B, H, spec.width)


def _sequences(space: Space, actions: np.ndarray) -> np.ndarray:
    """[B, H, ...] members of the space, B being 1 where there was a single sequence."""
    assert space.shape is not None
    lead = actions.ndim - len(space.shape)
    if lead not in (1, 2) or actions.shape[lead:] != space.shape or 0 in actions.shape[:lead]:
        expected = f"[H, ...] or [B, H, ...], where each action has the shape {space.shape} of {space}"
        raise ValueError(f"actions: expected {expected}, got the shape {actions.shape}")
    if isinstance(space, spaces.Box) and not ((actions >= space.low) & (actions <= space.high)).all():
        got = f"{actions.min():g} to {actions.max():g}; action_space names an environment's own units"
        raise ValueError(f"actions: expected numbers within {space}, got {got}")
    return actions if lead == 2 else actions[None]
