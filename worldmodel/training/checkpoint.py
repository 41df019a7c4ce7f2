"""A training state on disk: one safetensors file, written whole or not at all. Nothing that is loaded can run code.

The state has named parts: one for each learner, `policy` for a policy that keeps memory, `random` for the random
generators, and for each further process that shared the training `rank-1` and so on, with its own `policy` and
`random`. The tensors of a part are named `PART/...`: `world/model/...` are the world model's weights. The file's
header holds, as JSON, a checksum of the tensors, the counters and the run's settings. `last` is the newest state,
`previous` the one before it, `best` the one with the highest held-out bound, or of a run that acts with the highest
return.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from worldmodel.data.suites import current_id
from worldmodel.system.files import make_own_folder, write_whole
from worldmodel.training.states import restore_model, under

FORMAT = 4  # 3 had another density for two-hot rewards, 2 other names as well
WORLD, POLICY, RANDOM = "world", "policy", "random"  # parts that every run may have
BEHAVIOUR = "behaviour"  # actor and critic, of a run that learns them
RENAMED = {  # how names of tensors began in format 2, and how they begin now; the first that fits counts
    "model/rssm.": f"{WORLD}/model/dynamics.",
    "model/hindsight.": f"{WORLD}/model/backward_network.",
    "model/": f"{WORLD}/model/",
    "optimizer/": f"{WORLD}/optimizer/",
    "random/policy": f"{POLICY}/generator",
}
PREVIOUS = "previous.safetensors"
ENV_ID = "env.id"  # the one setting whose values may be renamed and mean the same


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written, or belongs to another model; the message says what to do."""


class Checkpoint(NamedTuple):
    """A checkpoint in memory, its checksum found right."""

    path: Path
    parts: dict[str, dict[str, Tensor]]  # by the part's name
    counters: dict[str, Any]
    settings: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of a part; raises CheckpointError if the checkpoint has no such part."""
        if name not in self.parts:
            raise CheckpointError(f"{self.path}: expected a part {name}, got only {', '.join(sorted(self.parts))}")
        return self.parts[name]

    def of_rank(self, rank: int) -> "Checkpoint | None":
        """With a process's policy and random generators in the place of the first one's; None if it has none."""
        if rank == 0:
            return self
        own = self.parts.get(part_of_rank(rank))
        if own is None:
            return None
        return self._replace(parts={name: under(f"{name}/", own) for name in (POLICY, RANDOM)})


def part_of_rank(rank: int) -> str:
    """The part of what belongs to a process beside the first one alone."""
    return f"rank-{rank}"


def save_checkpoint(
    path: Path,
    parts: Mapping[str, Mapping[str, Tensor]],
    counters: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    keep_previous: bool = False,
) -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder is made.
        parts: the state of everything that has one, by name: learners, the policy, random generators.
        counters, settings: anything that JSON can hold.
        keep_previous: keep the file that was there as `previous`.
    Raises:
        OSError: if there is no room or no right to write. The old file is still there then.
        ValueError: if the folder is a link.
    """
    tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"format": FORMAT, "counters": dict(counters), "settings": dict(settings)}
    header["checksum"] = _checksum(header, stored)
    make_own_folder(path.parent)
    content = save(stored, metadata={"worldmodel": json.dumps(header)})
    try:
        write_whole(path, content, durable=True, keep=path.with_name(PREVIOUS) if keep_previous else None)
    except OSError as error:
        raise OSError(f"{path}: the checkpoint could not be written ({error}); make room, then resume") from error


def load_checkpoint(path: Path) -> Checkpoint:
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
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from error
    if form not in (2, 3, FORMAT):
        raise CheckpointError(f"{path}: expected checkpoint format 2 to {FORMAT}, got {form!r}")
    if checksum != _checksum(header, tensors):
        raise CheckpointError(f"{path}: damaged: its contents are not what was written")
    _check_header(path, header)
    decoder = header["settings"].get("decoder")
    if form < FORMAT and isinstance(decoder, dict) and decoder.get("reward") == "twohot":
        words = "its two-hot reward is a density that this version no longer has (its mean was wrong)"
        raise CheckpointError(f"{path}: {words}; train the model again")
    if form == 2:
        tensors = {_present_name(name): value for name, value in tensors.items()}
    names = dict.fromkeys(name.partition("/")[0] for name in tensors)
    parts = {name: under(f"{name}/", tensors) for name in names}
    return Checkpoint(path, parts, header["counters"], header["settings"])


def load_model(source: Path | Checkpoint, model: nn.Module) -> dict[str, Any]:
    """Put a checkpoint's weights into a world model of the same shape: -> the counters.

    Raises:
        CheckpointError: if the file is missing, damaged, or from a model of another shape.
    """
    checkpoint = _in_memory(source)
    with said_of(checkpoint.path):
        restore_model(model, checkpoint.part(WORLD))
    return checkpoint.counters


def load_agent(source: Path | Checkpoint, agent: nn.Module) -> None:
    """Put a checkpoint's actor and critic into ones of the same shape.

    Raises:
        CheckpointError: if the file is missing, damaged, has no actor, or one of another shape.
    """
    checkpoint = _in_memory(source)
    with said_of(checkpoint.path):
        restore_model(agent, checkpoint.part(BEHAVIOUR))


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """A ValueError in the `with` block, in which a part is put back, becomes a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


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
    return load_checkpoint(path).counters


def newest_sound(paths: Iterable[Path]) -> tuple[Checkpoint | None, list[str]]:
    """The first of these checkpoints that is there and whole, and what is wrong with those before it."""
    complaints: list[str] = []
    for path in paths:
        if not path.is_file():
            continue
        try:
            return load_checkpoint(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sections as section.name, as JSON keeps them; an environment by its present id."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(settings)).items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    if isinstance(flat.get(ENV_ID), str):
        flat[ENV_ID] = current_id(flat[ENV_ID])
    return flat


def _in_memory(source: Path | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else load_checkpoint(source)


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
    for name in ("best_elbo", "best_return"):
        best = counters.get(name)
        if best is not None and type(best) not in (int, float):
            raise CheckpointError(f"{path}: expected a number as its counter {name}, got {best!r}")
    seconds = counters.get("seconds", {})
    if not isinstance(seconds, dict) or not all(type(value) in (int, float) for value in seconds.values()):
        raise CheckpointError(f"{path}: expected seconds by stage, got {seconds!r}")


def _present_name(name: str) -> str:
    """What a tensor of format 2 is called now."""
    for before, now in RENAMED.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    check = zlib.crc32(json.dumps({key: header.get(key) for key in ("counters", "settings")}).encode())
    for name in sorted(tensors):
        check = zlib.crc32(name.encode(), check)
        check = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, check)
    return check
