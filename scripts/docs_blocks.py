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


def is_done(results: Iterable[Mapping[str, Any]], asked: Mapping[str, Any], run: Callable[[Any], Any]) -> bool:
    """Whether a run is among some results.

    Args:
        results: which may have an "effort": what the run cost.
        asked: what is asked for, as far as it is known before it is run, its effort too.
        run: of which run a result is.
    Raises:
        ValueError: if it is there with another effort.
    """
    found = [one for one in results if run(one) == run(asked)]
    for one in found:
        if one.get("effort") != asked.get("effort"):
            has, wants = (json.dumps(result.get("effort")) for result in (one, asked))
            raise ValueError(f"{run(asked)}: expected the stored effort, {has}, got {wants}; remove one of the results")
    return bool(found)


def kept_results(
    name: str, new: Iterable[Mapping[str, Any]], run: Callable[[Mapping[str, Any]], Any]
) -> list[dict[str, Any]]:
    """The results kept in docs/NAME with new ones in the place of older ones of the same run; all are kept there.

    Args:
        name: of the file of JSON lines.
        new: results.
        run: of which run a result is; results are in its order.
    Raises:
        ValueError: if a new result is of the run of an older one, with another effort; nothing is changed then.
    """
    path = DOCS / name
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    new = list(new)
    for one in new:
        is_done(old, one, run)
    by_run = {run(one): dict(one) for one in [*old, *new]}
    found = [by_run[key] for key in sorted(by_run)]
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    return found


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown, its cells as they print."""
    head = [*columns]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


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
