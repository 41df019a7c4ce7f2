"""The metrics of a run so far: what its curves are drawn from, and its record on disk when it goes on."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TABLES = ("kl", "train", "heldout")


class History:
    """Columns of metrics by table: `kl`, `train` and `heldout`, each with a column `update`."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Args:
        rows: metrics of earlier updates, as `metrics.jsonl` holds them.
        """
        self.tables: dict[str, dict[str, list[float]]] = {table: {} for table in TABLES}
        self.frames: dict[str, dict[int, np.ndarray]] = {}  # by image and update: what this session reconstructed
        for row in rows:
            values = {name: math.nan if value is None else value for name, value in row.items()}
            self.add(int(values.pop("update")), values)

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """Keep those of an update's metrics that belong to a table: `kl/mean` is column `mean` of table `kl`."""
        for table, columns in self.tables.items():
            own = {name.split("/", 1)[1]: x for name, x in values.items() if name.startswith(f"{table}/")}
            for name, value in {"update": update, **own}.items() if own else ():
                columns.setdefault(name, []).append(value)


def rewind_metrics(path: Path, update: int) -> list[dict[str, Any]]:
    """Cut a run's metrics.jsonl to the updates that its checkpoint has seen: -> the rows that stay.

    Later rows, which will be made again, are moved to metrics-discarded.jsonl; what is not a row, such as half a line
    that a killed process left, is dropped.
    """
    if not path.exists():
        return []
    kept: list[dict[str, Any]] = []
    discarded: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            (kept if row["update"] <= update else discarded).append(row)
        except (ValueError, KeyError, TypeError):
            continue
    if discarded:
        with path.with_name("metrics-discarded.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in discarded)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(partial, path)
    return kept
