import math

import pytest

from worldmodel.system.metrics_file import read_row, write_row


def test_a_row_is_read_as_it_was_written_and_what_is_not_finite_is_nan():
    line = write_row(7, {"kl/mean": 0.1, "count": 3, "bad": math.inf, "worse": math.nan})
    assert line == '{"update": 7, "kl/mean": 0.1, "count": 3.0, "bad": null, "worse": null}\n'
    row = read_row(line)
    assert math.isnan(row.pop("bad")) and math.isnan(row.pop("worse"))
    assert row == {"update": 7.0, "kl/mean": 0.1, "count": 3.0}
    assert read_row('{"update": 7.5}') == {"update": 7.0}  # updates are whole


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "3",
        '{"kl": 1.0}',
        '{"update": null}',
        '{"update": 1, "kl": "x"}',
        '{"update": Infinity}',
        "[" * 10**5,
    ],
    ids=["", "cut", "list", "number", "no update", "null", "words", "infinite", "deep"],
)
def test_a_damaged_row_is_nothing(line):
    assert read_row(line) is None
