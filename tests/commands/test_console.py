"""Tables in a narrow terminal: words are folded, numbers are not."""

import io

import pytest
from rich.console import Console

from worldmodel.commands.console import show_table
from worldmodel.report.tables import Table

TABLE = Table(
    ("a", "a heading of many words", "interval", "another heading of many words", "more", "most"),
    [
        ("one", "-1.23e+03", "-1.24e+03 to -1.21e+03", "0.000343\n0.000429", "-1.23456789e+03", "1"),
        ("two", "2", "1 to 3", "4\n5", "6", "7"),
    ],
)
NUMBERS = ("-1.23e+03", "-1.24e+03 to -1.21e+03", "0.000343", "0.000429", "-1.23456789e+03")


@pytest.mark.parametrize("width", [70, 80, 200])
def test_numbers_stay_whole_where_words_are_folded(width):
    console = Console(width=width, file=io.StringIO(), markup=False)
    show_table(console, TABLE, whole={"interval"})
    shown = console.file.getvalue()
    assert [number for number in NUMBERS if number not in shown] == []
    assert ("a heading of many words" in shown) is (width == 200)


def test_rows_are_spaced_where_that_is_asked_for():
    heights = []
    for spaced in (False, True):
        console = Console(width=200, file=io.StringIO())
        show_table(console, TABLE, title="above", caption="below", spaced=spaced)
        shown = console.file.getvalue()
        assert "above" in shown and "below" in shown
        heights.append(len(shown.splitlines()))
    assert heights[1] == heights[0] + 1
