"""Small figures draw the numbers they are given, and as vector graphics belong to the page they stand in."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from worldmodel.evaluation.scoring_rules import Band
from worldmodel.report import charts
from worldmodel.report.charts import Drawn, score_scale
from worldmodel.report.record import Curve
from worldmodel.report.svg import css_colour, inline_svg, style
from worldmodel.report.vocabulary import RAW, RUNS, LineStyle


def drawn(count=5, colour=RAW, **options):
    return Drawn(LineStyle("model <b>", colour), np.arange(count), np.linspace(1, 2, count), **options)


def plain(*y, x=None):
    """A curve of these numbers."""
    return Drawn(LineStyle("", RAW), np.arange(len(y)) if x is None else x, np.array(y))


def panel(curves, *labels, **options):
    """A figure with the curves on its only axis."""
    figure = Figure()
    charts.draw_curves(figure.subplots(), curves, *labels, **options)
    return figure


def test_a_panel_draws_its_curves_and_the_bands_around_them():
    curve = drawn(between=(np.zeros(5), np.full(5, 3.0)))
    (axis,) = panel([curve, drawn(colour="#888888")], "updates", "nats").axes
    np.testing.assert_array_equal(axis.get_lines()[0].get_xydata(), np.stack([curve.x, curve.y], -1))
    assert axis.collections[0].get_datalim(axis.transData).extents[[1, 3]].tolist() == [0, 3]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("updates", "nats")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["model <b>", "model <b>"]


def test_a_logarithmic_axis_is_drawn_where_there_is_something_above_zero():
    (axis,) = panel([drawn()], "x", "y", scale="log").axes
    assert axis.get_yscale() == "log"
    (axis,) = panel([plain(0.0, np.nan)], "x", "y", scale="log").axes
    assert axis.get_yscale() == "linear"


@pytest.mark.parametrize(("top", "scale"), [(50.0, "linear"), (5000.0, "symlog")])
def test_nats_that_lie_far_apart_are_drawn_on_a_symmetric_logarithm(top, scale):
    (axis,) = panel([plain(-9.0, 0.0, 4.0, top)], "x", "y", scale="symlog").axes
    assert axis.get_yscale() == scale


def test_a_logarithm_shows_six_decades_at_most():
    (axis,) = panel([plain(1e-12, 1.0)], "x", "y", scale="log").axes
    low, high = axis.get_ylim()
    assert high > 1.0 and low == pytest.approx(1e-6 * high)


@pytest.mark.parametrize(("count", "hidden"), [(2, 0), (19, 0), (40, 2)])
def test_focus_hides_the_lowest_twentieth_and_nothing_of_a_few_points(count, hidden):
    y = np.arange(count, dtype=float)
    y[: max(1, hidden)] = -1000.0
    (axis,) = panel([plain(*y)], "x", "y", focus=True).axes
    assert (y < axis.get_ylim()[0]).sum() == hidden
    assert axis.get_ylim()[1] > y[-1]


def test_long_curves_are_thinned_to_means_of_neighbours():
    x = np.arange(1501.0)
    few_x, few_y = charts.thinned(x, 2 * x)
    assert len(few_x) <= charts.MOST_POINTS
    assert few_x[:2].tolist() == [1.0, 4.0]  # means of 0 1 2 and 3 4 5
    assert few_x[-1] == 1500.0  # the last group has one point
    np.testing.assert_array_equal(few_y, 2 * few_x)
    np.testing.assert_array_equal(charts.thinned(x[:9], x[:9])[0], x[:9])


def test_a_curve_with_a_single_number_is_a_dot():
    (axis,) = panel([plain(np.nan, 2.0), plain(1.0, 2.0)], "x", "y", legend=False).axes
    assert [line.get_marker() for line in axis.get_lines()] == ["o", "None"]


def test_counts_have_whole_ticks_and_other_numbers_need_not():
    (axis,) = panel([plain(1.0, 2.0, x=np.array([35, 37]))], "updates", "y").axes
    assert all(tick == round(tick) for tick in axis.get_xticks())
    (axis,) = panel([plain(1.0, 2.0, x=np.array([35.0, 36.5]))], "seconds", "y").axes
    assert any(tick != round(tick) for tick in axis.get_xticks())


@pytest.mark.parametrize("focus", [False, True])
@pytest.mark.parametrize("y", [(-7.40738,), (-7.40738, -7.4073800001)])
def test_the_ticks_of_a_flat_curve_are_told_apart(y, focus):
    figure = panel([plain(*y)], "x", "y", focus=focus)
    figure.draw_without_rendering()
    said = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(said) == len(set(said)) > 1
    assert not focus or max(map(len, said)) <= 6  # and are short


def test_the_heat_map_and_the_surprise_hold_what_they_are_given():
    values = np.arange(6.0).reshape(2, 3)
    axis = Figure().subplots()
    charts.draw_heat_map(axis, values)
    np.testing.assert_array_equal(axis.get_images()[0].get_array(), values)
    figure = Figure()
    charts.draw_surprise(figure.subplots(), np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([-1.0, -3.0]))
    np.testing.assert_array_equal([axis.get_lines()[0].get_ydata() for axis in figure.axes], [[1, 2], [-1, -3]])


def test_a_forecast_without_any_error_stays_on_the_axis_of_its_score():
    some, none = (Band(*[np.array(values)] * 3) for values in ([0.1, 0.2], [0.0, 0.2]))
    assert [score_scale("squared_error", bands) for bands in ([some], [some, none])] == ["log", "linear"]
    assert score_scale("coverage", [some]) == "linear" and score_scale("nll", [none]) == "symlog"


def svg(name="name", **options):
    with style():
        return inline_svg(panel([drawn(**options), drawn()], "updates & more", "nats"), name, 'a "curve"')


def test_vector_graphics_have_the_pages_colours_and_font_and_no_address():
    text = svg()
    root = ElementTree.fromstring(text)  # well-formed without any namespace
    assert root.attrib["aria-label"] == 'a "curve"'
    said = {"".join(element.itertext()) for element in root.iter("text")}
    assert {"updates & more", "model <b>"} <= said
    assert "http" not in text and "font-family" not in text and "xmlns" not in text
    assert RAW not in text and f"stroke: {css_colour(RAW)}" in text
    assert not re.search(r"#[0-9a-f]{6}\b", text)


def test_numbers_of_an_axis_keep_their_decimals():
    y = np.array([0.0001, 0.0006])
    with style():
        text = inline_svg(panel([plain(*y, x=y)], "x", "y"), "small", "")
    said = {"".join(element.itertext()) for element in ElementTree.fromstring(text).iter("text")}
    assert {"0.0002", "0.0004"} <= said


def test_figures_of_one_page_share_no_id():
    ids = [set(re.findall(r' id="([^"]+)"', svg(name))) for name in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]
    for text, own in zip((svg("one"), svg("two")), ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= own


def test_every_colour_of_a_run_follows_the_theme():
    assert len({css_colour(colour) for colour in RUNS}) == len(RUNS)
    assert all(css_colour(colour).startswith("var(--") for colour in RUNS)
    assert css_colour("#123456") == "#123456"


def test_what_a_run_takes_of_its_machine_is_drawn_from_zero():
    axis = Figure().subplots()
    charts.draw_resource(axis, "memory", Curve(np.array([1.0, 2.0]), np.array([1.01, 1.02])))
    low, high = axis.get_ylim()
    assert low == 0 and high > 1.02 and axis.get_ylabel() == "GiB"
