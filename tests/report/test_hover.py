"""Numbers under the pointer: those of the nearest points, where they are drawn, and of nothing else."""

import re

import numpy as np
from matplotlib.figure import Figure

from run_folder import Page
from worldmodel.report.hover import MOST_CURVES, NARROWEST, strips
from worldmodel.report.svg import css_colour, inline_svg, style
from worldmodel.report.vocabulary import RAW


def drawn(draw, size=(3.9, 2.55)) -> tuple[list[str], list[dict]]:
    """The words of every strip of a chart, and the attributes of the strips' rectangles."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        text = inline_svg(figure, "a chart", "a chart")
    words = [" | ".join(re.findall(r"<tspan[^>]*>(.*?)</tspan>", found)) for found in text.split('class="at"')[1:]]
    rectangles = Page(text).all("rect")  # the first one clips the curves
    return words, rectangles[len(rectangles) - len(words) :]


def test_every_strip_says_the_nearest_point_of_every_curve():
    def draw(axis):
        axis.plot([0, 100, 200, 300], [1.0, -2.5, 0.00012345, 4e6], color=RAW, label="dense")
        axis.plot([100, 250], [7, 8], label="sparse")
        axis.set_xlabel("updates")

    words, _ = drawn(draw)
    assert words == [
        "updates 0 | dense 1",  # before the sparse curve begins
        "updates 100 | dense \N{MINUS SIGN}2.5 | sparse 7",
        "updates 200 | dense 0.0001234 | sparse 8 at 250",
        "updates 300 | dense 4,000,000",
    ]


def test_strips_lie_side_by_side_over_the_axes_and_are_wide_enough_to_hit():
    _, boxes = drawn(lambda axis: axis.plot(np.arange(500), np.arange(500), label="many"))
    left, widths = (np.array([float(box[name]) for box in boxes]) for name in ("x", "width"))
    assert (widths >= NARROWEST - 0.1).all() and len(boxes) > 20
    np.testing.assert_allclose(left[1:], (left + widths)[:-1], atol=0.11)


def test_the_line_of_a_strip_stands_at_its_point_also_on_a_logarithmic_axis():
    def draw(axis):
        axis.plot([16, 64, 256], [1, 2, 3], marker="o", label="SMC")
        axis.set_xscale("log")

    with style():
        figure = Figure(figsize=(3.9, 2.55), layout="constrained")
        draw(figure.subplots())
        text = inline_svg(figure, "a chart", "a chart")
    (curve,) = re.findall(r'd="M ([\d.]+) [\d.]+ L ([\d.]+) [\d.]+ L ([\d.]+) [\d.]+ ?" clip-path', text)
    lines = re.findall(r'd="M([\d.]+) [\d.]+V', text)
    np.testing.assert_allclose([float(x) for x in lines], [float(x) for x in curve], atol=0.06)


def test_bands_levels_and_curves_without_a_name_say_nothing():
    def draw(axis):
        axis.fill_between([0, 1], [0, 0], [1, 1], label="band")
        axis.axhline(0.5, label="level")
        axis.plot([0, 1], [0, 1])

    assert drawn(draw) == ([], [])
    figure = Figure()
    figure.subplots().imshow(np.eye(2))
    assert strips(figure) == ""


def test_points_that_are_not_finite_are_no_points():
    words, _ = drawn(lambda axis: axis.plot([0, 1, 2], [1, np.nan, 3], label="holed"))
    assert [word.split("| ")[1] for word in words] == ["holed 1", "holed 3"]


def test_error_bars_and_both_axes_of_a_chart_are_read_and_names_are_escaped():
    def draw(axis):
        axis.errorbar([1, 2], [3.0, 4.0], [0.1, 0.1], color=RAW, label="gap, SMC $-$ ELBO")
        other = axis.twinx()
        other.plot([1, 2], [-1, -2], label="<i>reward")

    words, _ = drawn(draw)
    assert words[0].endswith("gap, SMC \N{MINUS SIGN} ELBO 3 | &lt;i&gt;reward \N{MINUS SIGN}1")


def test_words_have_the_colour_of_their_curve_and_a_chart_of_many_curves_has_only_so_many():
    def draw(axis):
        for i in range(MOST_CURVES + 3):
            axis.plot([0, 1], [i, i], color=RAW, label=f"run {i}")

    with style():
        figure = Figure(figsize=(3.9, 2.55), layout="constrained")
        draw(figure.subplots())
        text = inline_svg(figure, "a chart", "a chart")
    assert f'style="fill: {css_colour(RAW)}">run 0 0<' in text and RAW not in text
    assert f"run {MOST_CURVES - 1} " in text and f">run {MOST_CURVES} " not in text
