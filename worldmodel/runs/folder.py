"""A run's folder: made once, worked in by one process at a time, with a note of every start.

config.yaml, metrics.jsonl, lines/, figures/, imagination/, play/, report.html and versions.json are for people;
checkpoints/ (last, previous, best), replay/ (what it trains on) and heldout/ (what it is scored on) for the program.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from worldmodel.config import Config
from worldmodel.config_io import read_run_config, write_config
from worldmodel.data.offline import HELDOUT, REPLAY, prepare_data
from worldmodel.seeding import Stream, make_generator
from worldmodel.system.files import refuse_link, require_run, write_whole
from worldmodel.system.installation import versions
from worldmodel.system.provenance import provenance
from worldmodel.training.processes import ALONE, Processes
from worldmodel.training.wandb_filing import run_id


def make_folder(config: Config) -> Path:
    """A new folder, RUNS/NAME-TIME, with config.yaml in it.

    Raises:
        ValueError: if it cannot be made there.
    """
    stem = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ["", *(f"-{i}" for i in range(2, 100))]:
        folder = Path(config.runs) / (stem + suffix)
        try:
            folder.mkdir(parents=True)  # not asked for first: another run may start in the same second
            write_config(config, folder / "config.yaml")
        except OSError as error:
            if isinstance(error, FileExistsError) and Path(config.runs).is_dir():
                continue
            raise ValueError(f"runs: expected a folder that can be written in, got {config.runs!r}: {error}") from error
        return folder
    raise FileExistsError(f"{config.runs}: a hundred runs named {stem} exist already")


def read_settings(folder: Path) -> Config:
    """A run's settings. Where an earlier version wrote them, without `evaluation.seed`, that is the run's own seed.

    Raises:
        FileNotFoundError: if the folder is not a run's.
        ValueError: if its settings cannot be read.
    """
    require_run(folder)
    return read_run_config(folder / "config.yaml")


def stored_data(config: Config, folder: Path) -> tuple[Path, Path]:
    """Where a run's rows and its held-out episodes are: in its own folder, or with the stored data it learns from.

    Stored episodes that are not divided yet are divided into the run's folder.
    """
    own = folder / REPLAY, folder / HELDOUT
    if config.offline is None or any(path.exists() for path in own):  # the replay may have been removed to save room
        return own
    return prepare_data(
        config.offline,
        folder,
        heldout=config.evaluation.episodes,
        generator=make_generator(config.evaluation.seed, stream=Stream.HELDOUT),
        **reading(config),
    )


def reading(config: Config) -> dict[str, Any]:
    """The settings that decide how stored observations are read."""
    return {name: getattr(config.env, name) for name in ("image_size", "drop_text", "integers")}


@contextmanager
def locked(folder: Path, processes: Processes = ALONE) -> Iterator[None]:
    """Hold the lock of a run's folder, in which one process at a time may write.

    The lock is released when the process exits. Of several processes that share the training, only the one that writes
    takes it, and the others wait until it has.

    Raises:
        ValueError: if another process holds it, or the folder cannot be written in.
    """
    if not processes.writes:
        processes.greatest(0)
        yield
        return
    refuse_link(folder / ".lock")  # which would be emptied
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"{folder}: another process is working on this run; wait for it, or stop it") from error
    except OSError as error:
        raise ValueError(f"{folder}: expected a folder that can be written in: {error}") from error
    try:
        processes.greatest(0)
        yield
    finally:
        lock.release()


def note_session(folder: Path, update: int, device: str, explains: Mapping[str, Any]) -> tuple[str, bool]:
    """Add a start to versions.json: -> the run's id for W&B, and whether it had been started before.

    Args:
        folder: the run's.
        update: the last update by then.
        device: where the model is.
        explains: which data the run's bound explains, as `objectives.elbo.explained` has it.
    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / "versions.json"
    record: dict[str, Any] = _read_sessions(path) if path.exists() else {"wandb_id": None, "sessions": []}
    record["wandb_id"] = run_id(record["wandb_id"], os.environ)
    record["explains"] = dict(explains)
    session = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "update": update,
        "versions": versions(),
        "platform": platform.platform(),
        "device": device,
        **provenance(),
    }
    record["sessions"].append(session)
    _write_sessions(path, record)
    return record["wandb_id"], len(record["sessions"]) > 1


def note_wandb(folder: Path, wandb_id: str) -> None:
    """Note in versions.json the id under which W&B really keeps the run, such as one that a sweep gave it."""
    path = folder / "versions.json"
    record = _read_sessions(path)
    if record["wandb_id"] != wandb_id:
        _write_sessions(path, record | {"wandb_id": wandb_id})


def note_divergence(folder: Path, words: str) -> None:
    """Note in versions.json that its newest session diverged, and how."""
    path = folder / "versions.json"
    record = _read_sessions(path)
    record["sessions"][-1]["diverged"] = words
    _write_sessions(path, record)


def noted_divergence(folder: Path) -> str | None:
    """How the newest session diverged, if it did."""
    path = folder / "versions.json"
    return _read_sessions(path)["sessions"][-1].get("diverged") if path.exists() else None


def _write_sessions(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1))


def note_finish(folder: Path, update: int) -> None:
    """Note in versions.json that pictures and report were written after this update, the last one so far."""
    record = _read_sessions(folder / "versions.json")
    record["sessions"][-1]["finished"] = update
    _write_sessions(folder / "versions.json", record)


def is_finished(folder: Path, update: int) -> bool:
    """Whether pictures and report were written after this update."""
    return any(session.get("finished") == update for session in _read_sessions(folder / "versions.json")["sessions"])


def _read_sessions(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        sessions = list(record["sessions"])
        if isinstance(record["wandb_id"], str) and sessions and all(isinstance(one, dict) for one in sessions):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path}: expected the run's starts as JSON, found something else; restore it, or remove it")


def products(folder: Path) -> list[Path]:
    """The files of a run that a tracker should keep a copy of."""
    names = ("config.yaml", "checkpoints/best.safetensors", "checkpoints/last.safetensors", "report.html")
    return [folder / name for name in names if (folder / name).is_file()]
