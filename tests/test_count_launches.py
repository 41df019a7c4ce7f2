"""The script that counts what an update launches: the page has what it counts."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("count_launches")


def row(name):
    """The numbers of a row of the page's table, a column each."""
    table = PAGE[PAGE.index("<!-- launches: begin") :]
    cells = re.search(rf"^\| {name} \| (.*) \|$", table, re.MULTILINE)[1]
    return [int(cell.replace(",", "")) for cell in cells.split(" | ")]


def test_the_page_has_what_is_counted(script):
    place, case = next((i, one) for i, one in enumerate(script.cases()) if one.name == "`cartpole_pixels_random`")
    whole, outside = script.counted(case, plain=False)
    as_it_runs, beside = 3 * place + 1, 3 * place + 2
    for part in ("encoder", "scan", "optimiser"):  # the checks of shapes ask tensors of the others themselves
        assert row(part)[as_it_runs : beside + 1] == [whole[part], outside[part]], part
