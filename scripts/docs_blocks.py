"""The parts of the documentation that scripts write: what stands between two markers."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


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
