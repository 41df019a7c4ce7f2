"""Markup from Python: what is escaped, and how numbers are written."""

import base64

import pytest

from worldmodel.report.markup import Html, duration, join, number, picture, table, tag


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = tag("b", "1 < 2")
    assert inner == "<b>1 &lt; 2</b>"
    assert tag("p", inner, " & <i>", class_='"x"') == '<p class="&quot;x&quot;"><b>1 &lt; 2</b> &amp; &lt;i&gt;</p>'
    assert join([Html("<hr>"), "<hr>"]) == "<hr>&lt;hr&gt;"
    assert tag("img", alt="a", title=None) == '<img alt="a">'


def test_a_table_names_its_rows_and_columns():
    said = table(("", "a<"), [("row", "1")])
    assert '<th scope="col">a&lt;</th>' in said
    assert '<th scope="row">row</th><td>1</td>' in said


def test_a_picture_carries_its_bytes():
    said = picture("folder/film.gif", b"GIF89a", "a <film>")
    assert said == f'<img src="data:image/gif;base64,{base64.b64encode(b"GIF89a").decode()}" alt="a &lt;film&gt;">'


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
