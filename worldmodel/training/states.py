"""The state of a model and its optimiser as named tensors, and back again."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MODEL, OPTIMIZER = "model/", "optimizer/"


def learner_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and buffers as `model/NAME`, and what the optimiser keeps of parameter i as `optimizer/i/NAME`."""
    state = {MODEL + name: value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        state |= {f"{OPTIMIZER}{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    return state


def restore_learner(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put back what `learner_state` gave.

    Raises:
        ValueError: if the state is of a model of another shape; nothing is changed then.
    """
    restore_model(model, state)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in under(OPTIMIZER, state).items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def restore_model(model: nn.Module, state: Mapping[str, Tensor], prefix: str = MODEL) -> None:
    """Put back the weights and buffers alone, whose names begin so. Raises ValueError as `restore_learner` does."""
    tensors, expected = under(prefix, state), model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(expected[name].shape) if name in expected else "nothing"
        if have != want:
            raise ValueError(f"expected {name} of shape {want}, got {have}; it was written with another configuration")
    model.load_state_dict(tensors)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
