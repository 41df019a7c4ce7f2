"""A training state on disk: one safetensors file, written whole or not at all. Nothing that is loaded can run code.

Tensors are named `model/...`, `optimizer/...` and `random/...`; counters are JSON in the file's header;
the configuration is config.yaml in the run's folder. `last` is the newest state, `best` the one with the highest
held-out bound.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another model; the message says which and what to do."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: Mapping[str, Tensor],
    counters: Mapping[str, Any],
) -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder is made.
        model, optimizer: their whole state is stored.
        random: states of random generators by name, uint8 [n].
        counters: anything that JSON can hold.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    tensors |= {f"random/{name}": state for name, state in random.items()}
    header = {"format": FORMAT, "counters": dict(counters)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(stored, partial, metadata={"worldmodel": json.dumps(header)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_model(path: Path, model: nn.Module) -> dict[str, Any]:
    """Put a checkpoint's weights into a model of the same shape: -> the counters.

    Raises:
        CheckpointError: if the file is missing, damaged, or from a model of another shape.
    """
    tensors, counters = _read(path, "model/")
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(expected[name].shape) if name in expected else "nothing"
        if have != want:
            raise CheckpointError(
                f"{path}: expected {name} of shape {want}, got {have}; it was written with another configuration"
            )
    model.load_state_dict(tensors)
    return counters


def load_training_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Put a whole checkpoint into a model and its optimiser: -> random states by name, and the counters."""
    counters = load_model(path, model)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _read(path, "optimizer/")[0].items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
    return _read(path, "random/")[0], counters


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("worldmodel", "{}"))
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {header.get('format')!r}")
    return tensors, header["counters"]
