"""replay.json, the header of a replay: what its rows hold and, once it is finished, how many there are.

A header decides how much memory is allocated, so nothing in it is trusted: a checksum finds what was altered by
accident, and every number is checked against its limits.
"""

import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.records import RESTORE, DamagedReplayError
from worldmodel.data.spaces import MOST_CLASSES
from worldmodel.system.files import write_whole
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec

HEADER = "replay.json"  # what makes a folder a replay
STREAMS = "stream-*.rows"
SHARE = "rank-"  # and its number: the folder, in a run's replay, of what a process beside the first one has collected
FORMAT = 3
FORMATS = (2, 3)  # that can be read; rows are appended in the format that a replay was begun in
DIMENSIONS = {"vector": 1, "integer": 1, "image": 3, "categorical": 1, "binary": 1}  # by kind of leaf
ACTIONS = ("continuous", "categorical", "binary")
LARGEST_ROW = 2**30  # bytes; a record of NumPy may have twice that
MOST_STREAMS = 100_000  # environments side by side, each with a file that stays open


@dataclass(frozen=True)
class Contents:
    """How many rows a finished replay holds, and their checksums; they never change again."""

    rows: int
    checksums: tuple[int, ...]  # CRC-32 of the file of every stream


@dataclass(frozen=True)
class Header:
    """The contents of replay.json."""

    spec: EnvSpec
    capacity: int  # rows, over all streams
    streams: int
    contents: Contents | None = None  # none while rows may still be appended
    format: int = FORMAT

    @property
    def row_type(self) -> np.dtype:
        """The NumPy record that a row is stored as."""
        return row_type(self.spec, self.format)


def write_header(folder: Path, header: Header) -> None:
    """Write replay.json; raises OSError."""
    data: dict[str, Any] = {
        "format": header.format,
        "capacity": header.capacity,
        "streams": header.streams,
        "spec": asdict(header.spec),
        "contents": None if header.contents is None else asdict(header.contents),
    }
    write_whole(folder / HEADER, json.dumps({**data, "checksum": _checksum(data)}, indent=1))


def read_header(folder: Path) -> Header:
    """Read replay.json.

    Raises:
        FileNotFoundError: if there is none.
        DamagedReplayError: if it was altered or holds an impossible value; the message names the entry.
        ValueError: if it has another format.
    """
    path = folder / HEADER
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected stored rows, found no {HEADER} there{found_rows(folder)}")
    try:
        data = json.loads(path.read_bytes())
        form = data["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedReplayError(f"{path}: expected the header of a replay; {RESTORE}") from error
    if type(form) is not int or form not in FORMATS:
        raise ValueError(
            f"{folder}: expected replay format {' or '.join(map(str, FORMATS))}, got {form!r}; collect its rows again"
        )
    try:
        if form > 2 and data.pop("checksum") != _checksum(data):
            raise ValueError("its checksum belongs to other contents")
        return _header(data)
    except (ValueError, KeyError, TypeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise DamagedReplayError(f"{path}: expected the header of a replay; {RESTORE} ({what})") from error


def found_rows(folder: Path) -> str:
    """The end of a sentence about a missing header: the rows that lie there without it. Empty if there are none."""
    streams = [path for path in sorted(folder.glob(STREAMS)) if path.is_symlink() or path.stat().st_size]
    shown = ", ".join(f"{path.name} ({path.lstat().st_size:,} bytes)" for path in streams[:3])
    return f", but rows without it: {shown}{', ...' if len(streams) > 3 else ''}" if streams else ""


def share_folder(replay: Path, rank: int) -> Path:
    """Where one of the processes that share a training keeps its rows: the first one in the replay's folder itself."""
    return replay / f"{SHARE}{rank}" if rank else replay


def shares(replay: Path) -> dict[int, Path]:
    """The folders of the rows that processes beside the first one have collected, by rank; no links."""
    found = [path.parent for path in replay.glob(f"{SHARE}*/{HEADER}") if not path.parent.is_symlink()]
    ranks = {path.name.removeprefix(SHARE): path for path in found}
    return {int(rank): ranks[rank] for rank in sorted(ranks) if rank.isdecimal() and rank == str(int(rank))}


def row_type(spec: EnvSpec, form: int = FORMAT) -> np.dtype:
    """The NumPy record that a row is stored as."""
    check = ("check", np.uint32)  # of everything from `number` on
    head = [
        # The last row of an episode that was interrupted is closed when the next one begins: see `records`.
        *([("closed", np.uint8), check] if form == 2 else [check, ("closed", np.uint32)]),
        ("number", np.uint64),  # of rows written to its stream so far, this one included; zero in an unused slot
        *([] if form == 2 else [("before", np.uint64)]),  # rows of all streams before it was appended
        ("episode_step", np.int32),
        ("is_first", np.bool_),
        ("is_last", np.bool_),
        ("is_terminal", np.bool_),
        ("reward", np.float32),
    ]
    leaves = [(f"obs:{path}", leaf.dtype, leaf.shape) for path, leaf in spec.observations.items()]
    return np.dtype([*head, ("prev_action", np.float32, (spec.action.width,)), *leaves])


def spec_from_json(data: Any) -> EnvSpec:
    """The inverse of `dataclasses.asdict(spec)` after a round trip through JSON.

    Raises:
        ValueError, KeyError, TypeError: if the data is not such a spec.
    """
    data = _entries("spec", data)
    action = _entries("action", data["action"])
    observations = {path: _leaf(path, leaf) for path, leaf in _entries("observations", data["observations"]).items()}
    if not observations:
        raise ValueError("expected at least one observation, got none")
    if action["kind"] not in ACTIONS:
        raise ValueError(f"expected an action {', '.join(ACTIONS)}, got {action['kind']!r}")
    width = _whole("action's width", action["width"], 1, LARGEST_ROW // 4)
    classes = _wholes("action's classes", action["classes"])
    if sum(classes) != (width if action["kind"] == "categorical" else 0):
        raise ValueError(f"expected classes of the action that add up to its width {width}, got {list(classes)}")
    leaves = observations.values()
    size = 4 * width + sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    if size > LARGEST_ROW:
        raise ValueError(f"expected rows of at most {LARGEST_ROW:,} bytes, got {size:,}")
    return EnvSpec(observations, ActionSpec(action["kind"], width, classes))


def _leaf(path: str, data: Any) -> ObservationSpec:
    data = _entries(path, data)
    kind, shape, classes = data["kind"], _wholes(f"shape of {path}", data["shape"]), data["classes"]
    if kind not in DIMENSIONS or len(shape) != DIMENSIONS[kind]:
        raise ValueError(f"expected one of {', '.join(DIMENSIONS)} as {path}, got {kind!r} of shape {shape}")
    classes = _wholes(f"classes of {path}", classes)
    if sum(classes) > MOST_CLASSES:
        raise ValueError(f"expected at most {MOST_CLASSES} classes of {path}, got {sum(classes)}")
    if len(classes) != (shape[0] if kind == "categorical" else 0):
        raise ValueError(f"expected as many classes as variables of {path}, got {len(classes)} for shape {shape}")
    # A spec that was written before there were integer leaves has no bounds.
    bounds = {"least": -(2**63), "most": 2**63 - 1}
    low, high = (_wholes(f"{name} of {path}", data.get(name, []), **bounds) for name in ("low", "high"))
    expected = shape[0] if kind == "integer" else 0
    if (len(low), len(high)) != (expected, expected) or any(a > b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"expected {expected} bounds of {path}, the low ones first, got {list(low)} and {list(high)}")
    return ObservationSpec(kind, shape, classes, low=low, high=high)


def _header(data: dict[str, Any]) -> Header:
    streams = _whole("streams", data["streams"], 1, MOST_STREAMS)
    capacity = _whole("capacity", data["capacity"], streams, 2**62)
    return Header(spec_from_json(data["spec"]), capacity, streams, _contents(data, streams), data["format"])


def _contents(data: dict[str, Any], streams: int) -> Contents | None:
    contents = data.get("contents")
    if contents is None:
        return None
    checksums = _entries("contents", contents)["checksums"]
    if not isinstance(checksums, list) or len(checksums) != streams:
        raise ValueError(f"expected {streams} checksums, got {checksums!r}")
    return Contents(
        _whole("rows", contents["rows"], 0, 2**62), tuple(_whole("checksum", x, 0, 2**32 - 1) for x in checksums)
    )


def _entries(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected entries by name as {what}, got {value!r}")
    return value


def _wholes(what: str, values: Any, least: int = 1, most: int = LARGEST_ROW) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise ValueError(f"expected whole numbers as {what}, got {values!r}")
    return tuple(_whole(what, value, least, most) for value in values)


def _whole(what: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"expected a whole number from {least} to {most} as {what}, got {value!r}")
    return value


def _checksum(data: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())
