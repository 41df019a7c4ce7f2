"""How numbers, durations and text of any kind are written."""

import pytest

from worldmodel.report.formats import counted, duration, number, readable


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (float("nan"), "not finite"),
        (float("-inf"), "not finite"),
        (0.0, "0"),
        (-0.00012, "-1.2e-04"),
        (0.001, "0.001"),
        (-1.2345, "-1.234"),
        (9999.5, "9,999.500"),
        (12345.6, "12,346"),
    ],
)
def test_a_number_is_written_as_short_as_it_stays_readable(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0124, "12 ms"),
        (1.0, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (250, "4 min 10 s"),
        (11100, "3 h 5 min"),
    ],
)
def test_a_duration_is_written_in_the_units_one_would_say_it_in(seconds, written):
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == written


def test_control_characters_are_written_as_escapes_but_for_line_ends_and_tabs():
    assert readable("a\0b\x1b[0m\n\tc") == "a\\x00b\\x1b[0m\n\tc"


def test_one_of_a_thing_is_singular():
    assert [counted(n, "step") for n in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
