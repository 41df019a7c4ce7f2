"""A run's folder, read: whatever is in it of metrics, curves, pictures, settings and versions. Reads and nothing else.

Only the folder is looked at, so an old, an interrupted or a foreign run can be read. Files that an earlier version did
not write may be absent; `notes` says which file was damaged.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel.data.suites import current_id
from worldmodel.evaluation.decomposed import Decomposed
from worldmodel.evaluation.evidence import EvidenceReport
from worldmodel.evaluation.scores import Scores
from worldmodel.system.files import require_run
from worldmodel.system.metrics_file import read_row
from worldmodel.system.plain_yaml import read_mapping
from worldmodel.train_ratio import updates_paid

PICTURES = (".png", ".gif")
Columns = Mapping[str, np.ndarray]


class Curve(NamedTuple):
    """y over x, [n] each."""

    x: np.ndarray
    y: np.ndarray

    def over(self, clock: "Curve") -> "Curve":
        """This curve over updates as one over what a clock says of those updates; empty where it says nothing."""
        x = np.interp(self.x, clock.x, clock.y) if len(clock.x) else np.empty(0)
        return Curve(x, self.y[: len(x)])


@dataclass(frozen=True)
class Session:
    """One start of the process that trained: the first, or a resumption."""

    started: str
    update: int
    about: dict[str, str]  # device, platform and versions by package


class Explained(NamedTuple):
    """A term of the bound: which data it explains."""

    measure: str  # density, mass or mixed
    exact: bool  # or a lower bound


@dataclass(frozen=True)
class Record:
    """What a run's folder says."""

    folder: Path
    config: dict[str, Any]
    rows: tuple[dict[str, float], ...]  # one an update, in order; NaN where a number was not finite
    lines: dict[str, Columns]  # by file stem, such as kl_surprise
    pictures: dict[str, bytes]  # by path in the folder, such as figures/bound.png
    scores: Scores | None
    evidence: EvidenceReport | None
    gap: Decomposed | None
    sessions: tuple[Session, ...]
    explains: dict[str, Explained] | None  # the bound's terms by name; None of a run that did not record them
    notes: tuple[str, ...]

    def column(self, name: str) -> Curve:
        """A metric over updates; empty if it was never written."""
        found = [(row["update"], row[name]) for row in self.rows if name in row]
        x, y = np.array(found, np.float64).reshape(-1, 2).T
        return Curve(x, y)

    def names(self, prefix: str) -> list[str]:
        """Every metric with this prefix, without it, as first written."""
        return list(
            dict.fromkeys(key.removeprefix(prefix) for row in self.rows for key in row if key.startswith(prefix))
        )

    def first(self, name: str) -> float | None:
        """A metric where it was first written."""
        return next((row[name] for row in self.rows if name in row), None)

    def last(self, name: str) -> float | None:
        """A metric where it was last written."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    @property
    def updates(self) -> int:
        """The last update that anything was written for."""
        return int(self.rows[-1]["update"])

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the best held-out bound; none before the first evaluation."""
        scored = [row for row in self.rows if np.isfinite(row.get("heldout/elbo", np.nan))]
        return max(scored, key=lambda row: row["heldout/elbo"], default=None)

    @property
    def planned(self) -> int | None:
        """Updates that the settings ask or pay for; none where the settings do not say."""
        try:
            training, replay = self.config["training"], self.config["replay"]
            if self.config.get("offline") is not None and training.get("updates") is not None:
                return int(training["updates"])
            sizes = {name: replay[name] for name in ("batch_size", "sequence_length")}
            return updates_paid(
                training["env_steps"], prefill=training["prefill"], train_ratio=training["train_ratio"], **sizes
            )
        except (KeyError, TypeError, ZeroDivisionError):
            return None

    @property
    def stages(self) -> dict[str, float]:
        """Seconds that each stage took in all, longest first; empty where they were not measured."""
        seconds = {name: self.last(f"seconds/{name}") or 0.0 for name in self.names("seconds/")}
        return dict(sorted(seconds.items(), key=lambda item: -item[1]))

    def elapsed(self) -> Curve:
        """Seconds over updates: the sum of the stages, or else what the rate of updates amounts to."""
        if stages := self.names("seconds/"):
            rows = [row for row in self.rows if any(f"seconds/{stage}" in row for stage in stages)]
            seconds = [sum(row.get(f"seconds/{stage}", 0.0) for stage in stages) for row in rows]
            return Curve(np.array([row["update"] for row in rows]), np.array(seconds))
        update, rate = self.column("rate/updates_per_second")
        return Curve(update[rate > 0], (update / np.where(rate > 0, rate, 1.0))[rate > 0])

    @property
    def source(self) -> str | None:
        """Where the rows come from: the stored data of a run without an environment, or else the environment's id."""
        env_id = self.setting("env.id")
        return self.setting("offline") or (current_id(env_id) if isinstance(env_id, str) else env_id)

    @property
    def heldout_seed(self) -> Any:
        """What decided the held-out episodes: the run's own seed, where an earlier version wrote the settings."""
        flat = settings(self.config)
        return flat.get("evaluation.seed", flat.get("seed"))

    def setting(self, key: str) -> Any:
        """A setting by dotted key, or none."""
        return settings(self.config).get(key)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted key. An empty mapping is a value of its own."""

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in section.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(config, ""))


def read_record(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        FileNotFoundError: if it is not a run's folder.
        ValueError: if its settings cannot be read, or it has no metrics yet.
    """
    require_run(folder)
    notes: list[str] = []
    rows = _metrics(folder / "metrics.jsonl", notes)
    if not rows:
        raise ValueError(f"{folder}: expected metrics, found no row in metrics.jsonl; the run made no update it logged")
    lines = {path.stem: _json(path, notes, _columns) for path in sorted((folder / "lines").glob("*.json"))}
    sessions, explains = _json(folder / "versions.json", notes, _versions) or ((), None)
    return Record(
        folder=folder,
        config=read_mapping(folder / "config.yaml"),
        rows=rows,
        lines={name: columns for name, columns in lines.items() if columns},
        pictures=_pictures(folder),
        scores=_json(folder / "imagination" / "scores.json", notes, Scores.from_json),
        evidence=_json(folder / "evidence" / "evidence.json", notes, EvidenceReport.from_json),
        gap=_json(folder / "evidence" / "gap.json", notes, Decomposed.from_json),
        sessions=sessions,
        explains=explains,
        notes=tuple(notes),
    )


def _metrics(path: Path, notes: list[str]) -> tuple[dict[str, float], ...]:
    """One row an update. A run that was resumed goes on from its checkpoint, so rows past that are of a lost branch."""
    merged: dict[int, dict[str, float]] = {}
    written = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for place, line in enumerate(written, 1):
        row = read_row(line)
        if row is None:
            where = "the last line" if place == len(written) else f"line {place} of {len(written)}"
            notes.append(f"metrics.jsonl: {where} is damaged and was left out")
            continue
        update = int(row["update"])
        if merged and update < max(merged):
            merged = {key: value for key, value in merged.items() if key < update}
        merged.setdefault(update, {}).update(row)
    return tuple(merged.values())


def _json(path: Path, notes: list[str], form: Any) -> Any:
    """A file in one of the forms below; a note and nothing where it is not."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise TypeError(f"expected an object, got {type(data).__name__}")
        return form(data)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        notes.append(f"{path.parent.name}/{path.name} is damaged and was left out")
        return None


def _columns(data: dict[str, Any]) -> dict[str, np.ndarray]:
    columns = {key: np.array(column, np.float64) for key, column in data.items() if isinstance(column, list)}
    if len(columns) < 2 or len({column.shape for column in columns.values()}) > 1:
        raise ValueError("expected two columns or more, of one length")
    return columns


def _versions(data: dict[str, Any]) -> tuple[tuple[Session, ...], dict[str, Explained] | None]:
    return _sessions(data), _explains(data["explains"]) if "explains" in data else None


def _explains(data: dict[str, Any]) -> dict[str, Explained]:
    return {str(name): Explained(str(term["measure"]), bool(term["exact"])) for name, term in data.items()}


def _sessions(data: dict[str, Any]) -> tuple[Session, ...]:
    return tuple(
        Session(
            str(session["started"]),
            int(session["update"]),
            {
                **{key: str(session[key]) for key in ("device", "platform") if key in session},
                **{name: str(version) for name, version in session.get("versions", {}).items()},
            },
        )
        for session in data["sessions"]
    )


def _pictures(folder: Path) -> dict[str, bytes]:
    paths = [path for part in ("figures", "imagination", "play") for path in sorted((folder / part).glob("*"))]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths if path.suffix in PICTURES}
