"""Reads a W&B run's file (.wandb) without a server, so that tests can look at what was really logged.

The file is a LevelDB log: 32 KiB blocks of chunks, each with a header of checksum, length and kind. A record, which is
a protobuf message, is one full chunk, or a first, some middle and a last one.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read(path: Path) -> dict[str, Any]:
    """A finished run as its `run`, `config`, `history` (a list of rows), `summary`, `metrics` (definitions by name),
    `artifacts` (name, kind, paths, aliases), `files` and `exit` status."""
    from wandb.proto import wandb_internal_pb2

    out: dict[str, Any] = {"run": {}, "config": {}, "history": [], "summary": {}, "metrics": {}, "artifacts": []}
    out |= {"files": [], "exit": None}
    for data in raw_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        _add(out, record.WhichOneof("record_type"), record)
    return out


def read_folder(folder: Path) -> dict[str, Any]:
    """The only offline run in a folder `wandb`, as `read` gives it; with its own `folder`."""
    (file,) = folder.glob("offline-run-*/*.wandb")
    return read(file) | {"folder": file.parent}


def _add(out: dict[str, Any], kind: str, record: Any) -> None:
    if kind == "history":
        row = {"_step": record.history.step.num}
        for item in record.history.item:
            _put(row, item)
        out["history"].append(row)
    elif kind == "summary":
        for item in record.summary.update:
            _put(out["summary"], item)
    elif kind == "run":
        run = record.run
        out["run"] = {"id": run.run_id, "project": run.project, "name": run.display_name, "tags": [*run.tags]}
        out["run"] |= {"entity": run.entity, "group": run.run_group, "notes": run.notes, "sweep": run.sweep_id}
        for item in run.config.update:
            _put(out["config"], item)
    elif kind == "metric":
        one = record.metric
        summary = {name for name in ("min", "max", "last") if getattr(one.summary, name)}
        out["metrics"][one.name or one.glob_name] = (one.step_metric, summary)
    elif kind == "files":
        out["files"] += [file.path for file in record.files.files]
    elif kind == "artifact":
        paths = [entry.path for entry in record.artifact.manifest.contents]
        out["artifacts"].append((record.artifact.name, record.artifact.type, paths, [*record.artifact.aliases]))
    elif kind == "exit":
        out["exit"] = record.exit.exit_code


def raw_records(path: Path) -> Iterator[bytes]:
    """The bytes of each record, checksums verified; stops where the writer stopped."""
    data = path.read_bytes()
    if struct.unpack("<4sHB", data[:HEADER])[:2] != (b":W&B", 0xBEE1):
        raise ValueError(f"{path}: expected a .wandb file, got one that begins with {data[:HEADER]!r}")
    position, record = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        checksum, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        if left < HEADER or kind == 0:  # zeros fill what is left of a block
            position += left
            continue
        chunk = data[position + HEADER : position + HEADER + length]
        if len(chunk) < length:
            return
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"{path}: the checksum at byte {position} is wrong")
        position += HEADER + length
        record = chunk if kind in (FULL, FIRST) else record + chunk
        if kind in (FULL, LAST):
            yield record


def _put(row: dict[str, Any], item: Any) -> None:
    *outer, last = item.nested_key or [item.key]
    for key in outer:
        row = row.setdefault(key, {})
    row[last] = json.loads(item.value_json)
