"""The metrics of a run so far, from which its curves are drawn; and cutting metrics.jsonl back to a checkpoint."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.held_out import Reconstruction
from worldmodel.report.record import Curve
from worldmodel.system.files import open_to_append, write_whole
from worldmodel.system.metrics_file import read_row
from worldmodel.system.names import file_name

KL_OVER_TRAINING = "kl/over_training"  # the name of the lines
KL_PLACE, KL_UPDATE = "row of the sequence", "update "  # its columns; a number follows the latter
CURVES = 10  # in a picture; more could not be told apart
TABLES = ("kl", "train", "heldout", "acting", "acting_heldout", "acting_evidence", "heldout_evidence")


class History:
    """Columns of metrics by table, TABLES, each with a column `update`; and the rows collected by each update."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), kl: Mapping[int, np.ndarray] | None = None) -> None:
        """Args:
        rows: metrics of earlier updates, as `metrics.jsonl` holds them.
        kl: by earlier update, the KL by place in the training sequence, as `read_kl` gives it.
        """
        self.tables: dict[str, dict[str, list[float]]] = {table: {} for table in TABLES}
        self.env_steps: dict[int, float] = {}  # by update
        self.kl: dict[int, np.ndarray] = dict(kl or {})  # by update: [T] mean raw KL at each place of the sequence
        self.frames: dict[str, dict[int, np.ndarray]] = {}  # by image and update: what this session reconstructed
        for row in rows:
            values = {name: math.nan if value is None else value for name, value in row.items()}
            self.add(int(values.pop("update")), values)

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """Keep those of an update's metrics that belong to a table: `kl/mean` is column `mean` of table `kl`."""
        if "env_steps" in values:
            self.env_steps[update] = values["env_steps"]
        for table, columns in self.tables.items():
            own = {name.split("/", 1)[1]: x for name, x in values.items() if name.startswith(f"{table}/")}
            for name, value in {"update": update, **own}.items() if own else ():
                columns.setdefault(name, []).append(value)

    def over_env_steps(self, metric: str) -> Curve:
        """A metric of one of the tables over environment steps; empty where there is none."""
        table, name = metric.split("/", 1)
        columns = self.tables[table]
        update, y = (np.array(columns.get(key, ()), np.float64) for key in ("update", name))
        if len(y) != len(update):  # of a table that was not always written with this column
            return Curve(np.empty(0), np.empty(0))
        clock = Curve(np.array([*self.env_steps], np.float64), np.array([*self.env_steps.values()], np.float64))
        return Curve(update, y).over(clock)

    def add_kl(self, update: int, by_position: np.ndarray) -> None:
        """Keep the KL, [T], of training sequences at an update."""
        self.kl[update] = by_position

    def kl_over_training(self) -> dict[str, np.ndarray]:
        """The KL by place in the training sequence: a column for each of `CURVES` evaluations, spread over them all,
        the newest among them."""
        updates = sorted(self.kl)
        chosen = dict.fromkeys(np.linspace(0, len(updates) - 1, min(CURVES, len(updates))).round().astype(int).tolist())
        places = {KL_PLACE: np.arange(len(self.kl[updates[-1]]))} if updates else {}
        return places | {f"{KL_UPDATE}{updates[i]}": self.kl[updates[i]] for i in chosen}

    def add_frames(self, update: int, images: Mapping[str, Reconstruction]) -> None:
        """Keep how the model saw each image at an update."""
        for name, seen in images.items():
            self.frames.setdefault(name, {})[update] = seen.filtered


def read_kl(folder: Path, update: int) -> dict[int, np.ndarray]:
    """Of a run's folder, the KL by place in the training sequence after earlier evaluations, by update, as far as the
    run is resumed behind them; empty where none was written, or it cannot be read."""
    try:
        columns = json.loads((folder / "lines" / f"{file_name(KL_OVER_TRAINING)}.json").read_text())
        named = {name.removeprefix(KL_UPDATE): x for name, x in columns.items() if name.startswith(KL_UPDATE)}
        kl = {int(name): np.array([math.nan if v is None else v for v in x], np.float64) for name, x in named.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {made: x for made, x in kl.items() if made <= update}


def rewind_metrics(path: Path, update: int, log: Callable[[str], None]) -> list[dict[str, float]]:
    """Cut a run's metrics.jsonl back to the updates that its checkpoint has seen: -> the rows that stay.

    Later rows are moved to metrics-discarded.jsonl: the resumed run makes them again. A damaged line is dropped with a
    message; an unfinished last line, which a killed process leaves, is dropped without one.
    """
    if not path.exists():
        return []
    *lines, unfinished = path.read_bytes().split(b"\n")
    kept: list[bytes] = []
    discarded: list[bytes] = []
    rows = []
    for place, line in enumerate([*lines, unfinished], 1):
        row = read_row(line)
        if row is None:
            if place <= len(lines):
                log(f"{path}: line {place} of {len(lines)} is damaged and was left out")
        elif row["update"] <= update:
            kept.append(line)
            rows.append(row)
        else:
            discarded.append(line)
    if discarded:
        with open_to_append(path.with_name("metrics-discarded.jsonl")) as file:
            file.writelines(line.decode() + "\n" for line in discarded)
    write_whole(path, b"".join(line + b"\n" for line in kept))
    return rows
