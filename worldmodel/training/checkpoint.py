"""A training state on disk: one safetensors file, written whole or not at all. Nothing that is loaded can run code.

Tensors are named `model/...`, `optimizer/...` and `random/...`; the file's header holds a checksum of them and, as
JSON, the counters and the run's settings. `last` is the newest state, `previous` the one before it, `best` the one with
the highest held-out bound.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from worldmodel.data.suites import current_id
from worldmodel.system.files import make_own_folder, write_whole

FORMAT = 2
PREVIOUS = "previous.safetensors"
ENV_ID = "env.id"  # the one setting whose values may be renamed and mean the same


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written, or belongs to another model; the message says what to do."""


class Checkpoint(NamedTuple):
    """A checkpoint in memory, its checksum found right."""

    path: Path
    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    settings: dict[str, Any]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: Mapping[str, Tensor],
    counters: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    keep_previous: bool = False,
) -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder is made.
        model, optimizer: their whole state is stored.
        random: states of random generators by name, uint8 [n].
        counters, settings: anything that JSON can hold.
        keep_previous: keep the file that was there as `previous`.
    Raises:
        OSError: if there is no room or no right to write. The old file is still there then.
        ValueError: if the folder is a link.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    tensors |= {f"random/{name}": state for name, state in random.items()}
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"format": FORMAT, "counters": dict(counters), "settings": dict(settings)}
    header["checksum"] = _checksum(header, stored)
    make_own_folder(path.parent)
    content = save(stored, metadata={"worldmodel": json.dumps(header)})
    try:
        write_whole(path, content, durable=True, keep=path.with_name(PREVIOUS) if keep_previous else None)
    except OSError as error:
        raise OSError(f"{path}: the checkpoint could not be written ({error}); make room, then resume") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint whole, and check it. Whoever needs several things of it reads it once and hands it on.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no file")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("worldmodel", "{}"))
            form, checksum = header.get("format"), header.get("checksum")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from error
    if form != FORMAT:
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {form!r}")
    if checksum != _checksum(header, tensors):
        raise CheckpointError(f"{path}: damaged: its contents are not what was written")
    _check_header(path, header)
    return Checkpoint(path, tensors, header["counters"], header["settings"])


def load_model(source: Path | Checkpoint, model: nn.Module) -> dict[str, Any]:
    """Put a checkpoint's weights into a model of the same shape: -> the counters.

    Raises:
        CheckpointError: if the file is missing, damaged, or from a model of another shape.
    """
    checkpoint = _in_memory(source)
    _put(checkpoint.path, model, _part(checkpoint.tensors, "model/"))
    return checkpoint.counters


def load_training_state(
    source: Path | Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Put a whole checkpoint into a model and its optimiser: -> random states by name, and the counters.

    Raises:
        CheckpointError: if the file is missing, damaged, or from a model of another shape.
    """
    checkpoint = _in_memory(source)
    load_model(checkpoint, model)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(checkpoint.tensors, "optimizer/").items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
    return _part(checkpoint.tensors, "random/"), checkpoint.counters


def require_settings(source: Path | Checkpoint, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """See that a checkpoint was written under these settings.

    Args:
        source: the file, or what was read from it.
        settings: as config.yaml has them, by section or by name.
        defaults: likewise; of settings that the checkpoint does not name, being older than they are.
    Raises:
        CheckpointError: if it was written under others, all of which the message names; or cannot be read.
    """
    checkpoint = _in_memory(source)
    now, then = _flat(settings), _flat(defaults) | _flat(checkpoint.settings)
    differing = [f"{key} = {then[key]!r}, which is no setting any more" for key in then if key not in now]
    differing += [
        f"{key} = {then.get(key)!r}, and config.yaml has {now[key]!r}"
        for key in now
        if now[key] != then.get(key) and json.dumps(now[key]) != json.dumps(then.get(key))  # NaN is not even itself
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint.path}: was written with {'; with '.join(differing)}; restore config.yaml, or begin a new run"
        )


def read_counters(path: Path) -> dict[str, Any]:
    """The counters of a checkpoint; raises CheckpointError."""
    return read_checkpoint(path).counters


def newest_sound(paths: Iterable[Path]) -> tuple[Checkpoint | None, list[str]]:
    """The first of these checkpoints that is there and whole, and what is wrong with those before it."""
    complaints: list[str] = []
    for path in paths:
        if not path.is_file():
            continue
        try:
            return read_checkpoint(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def _put(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(expected[name].shape) if name in expected else "nothing"
        if have != want:
            raise CheckpointError(
                f"{path}: expected {name} of shape {want}, got {have}; it was written with another configuration"
            )
    model.load_state_dict(tensors)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sections as section.name, as JSON keeps them; an environment by its present id."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings)).items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    if isinstance(flat.get(ENV_ID), str):
        flat[ENV_ID] = current_id(flat[ENV_ID])
    return flat


def _in_memory(source: Path | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else read_checkpoint(source)


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse what no run can have written, whatever the checksum says."""
    for part in ("counters", "settings"):
        if not isinstance(header.get(part), dict):
            raise CheckpointError(f"{path}: expected {part} by name, got {header.get(part)!r}")
    counters = header["counters"]
    for name in ("updates", "env_steps"):
        if type(counters.get(name)) is not int or counters[name] < 0:
            raise CheckpointError(f"{path}: expected a whole number as its counter {name}, got {counters.get(name)!r}")
    evaluated = counters.get("evaluated")
    if evaluated is not None and type(evaluated) is not int:
        raise CheckpointError(f"{path}: expected a whole number as its counter evaluated, got {evaluated!r}")
    best, seconds = counters.get("best_elbo"), counters.get("seconds", {})
    if best is not None and type(best) not in (int, float):
        raise CheckpointError(f"{path}: expected a number as its counter best_elbo, got {best!r}")
    if not isinstance(seconds, dict) or not all(type(value) in (int, float) for value in seconds.values()):
        raise CheckpointError(f"{path}: expected seconds by stage, got {seconds!r}")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    check = zlib.crc32(json.dumps({key: header.get(key) for key in ("counters", "settings")}).encode())
    for name in sorted(tensors):
        check = zlib.crc32(name.encode(), check)
        check = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, check)
    return check
