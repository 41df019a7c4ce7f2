"""metrics.jsonl: a line of JSON for each call, with its update and numbers by name; null where one is not finite."""

import json
import math
from collections.abc import Mapping


def json_number(value: float) -> float | None:
    """A number as JSON has it: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def write_row(update: int, values: Mapping[str, float]) -> str:
    """A line of metrics.jsonl, its end included."""
    return json.dumps({"update": update, **{name: json_number(value) for name, value in values.items()}}) + "\n"


def read_row(line: str | bytes) -> dict[str, float] | None:
    """A line of metrics.jsonl, NaN where a number was not finite; nothing where it is damaged."""
    try:
        row = json.loads(line)
        update = float(int(row["update"]))
        values = {key: math.nan if value is None else float(value) for key, value in row.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return {**values, "update": update}
