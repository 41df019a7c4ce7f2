"""What the studies share: results kept as they come, and the blocks of documentation that scripts write."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results that a study has stored in a folder, oldest first; none if it has not begun."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def add_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Store one more result, so that a study that is interrupted goes on after it."""
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


def kept_results(
    name: str, new: Iterable[Mapping[str, Any]], run: Callable[[Mapping[str, Any]], Any]
) -> list[dict[str, Any]]:
    """The results kept in docs/NAME with new ones in the place of older ones of the same run; all are kept there.

    Args:
        name: of the file of JSON lines.
        new: results.
        run: of which run a result is; results are in its order.
    """
    path = DOCS / name
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    by_run = {run(one): dict(one) for one in [*old, *new]}
    found = [by_run[key] for key in sorted(by_run)]
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    return found


def write_block(page: str, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` on a page of docs/.

    Raises:
        ValueError: if the page has not exactly one such place.
    """
    path = DOCS / page
    pattern = re.compile(rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    new, count = pattern.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", path.read_text())
    if count != 1:
        raise ValueError(f"{page}: expected one block named {name}, got {count}")
    path.write_text(new)
