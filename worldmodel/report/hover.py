"""The numbers of a chart under the pointer, without a script.

Strips of nothing lie side by side over the chart. The style sheet shows a strip's line and words while the pointer, or
a finger, is on it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldmodel.report.formats import readable

POINTS = 72  # an inch, and so an <svg>'s unit
NARROWEST = 6.0  # strip, in points
ABOVE, BESIDE = 8.0, 4.0  # from the top of the axes to the first words, and from the line to the words, in points
LINE = 10.0  # from one line of words to the next, in points
MOST_CURVES = 8  # that have words


class _Curve(NamedTuple):
    """A curve as it was drawn."""

    name: str
    colour: str
    x: np.ndarray  # [n] data
    y: np.ndarray  # [n] data
    across: np.ndarray  # [n] points from the left of the figure

    def nearest(self, across: float) -> int | None:
        """The point nearest to a place; none beyond the ends of the curve."""
        near = int(np.abs(self.across - across).argmin())
        inside = self.across.min() - NARROWEST <= across <= self.across.max() + NARROWEST
        return near if inside else None


def strips(figure: Figure) -> Markup:
    """Elements to end an <svg> with: at each place along the x axis, the nearest point of every curve that has a name.

    Args:
        figure: of one chart, rendered already, so that its axes are where they stay.
    Returns:
        With the figure's colours; nothing where no curve has a name.
    """
    curves = [curve for axis in figure.axes for curve in _curves(axis, figure.dpi)][:MOST_CURVES]
    if not curves:
        return Markup("")
    densest = max(curves, key=lambda curve: len(curve.x))
    inside, height = figure.axes[0].get_position(), POINTS * figure.get_size_inches()[1]
    left, right = np.array([inside.x0, inside.x1]) * POINTS * figure.get_size_inches()[0]
    top, bottom = height * (1 - inside.y1), height * (1 - inside.y0)
    edges = np.linspace(left, right, 1 + max(1, min(len(densest.x), int((right - left) / NARROWEST))))
    drawn = []
    for begin, end in pairwise(edges.tolist()):
        near = densest.nearest((begin + end) / 2)
        if near is not None:
            line = float(densest.across[near])
            words = _words(curves, figure.axes[0].get_xlabel(), float(densest.x[near]), line)
            side = "start" if line < (left + right) / 2 else "end"
            drawn.append(_strip((begin, top, end - begin, bottom - top), line, words, side))
    return Markup("").join(drawn)


def _curves(axis: Axes, dpi: float) -> Iterator[_Curve]:
    handles, names = axis.get_legend_handles_labels()
    for handle, name in zip(handles, names, strict=True):
        line = handle[0] if isinstance(handle, Container) else handle
        if not isinstance(line, Line2D) or line.get_transform() != axis.transData:
            continue  # a band, or a level across the whole chart
        x, y = np.asarray(line.get_data(), np.float64)
        kept = np.isfinite(x) & np.isfinite(y)
        if kept.any():
            placed = axis.transData.transform(np.stack([x[kept], y[kept]], -1))[:, 0]
            across = placed * POINTS / dpi
            yield _Curve(_plain(name), to_hex(line.get_color()), x[kept], y[kept], across)


def _words(curves: Sequence[_Curve], x_label: str, x: float, across: float) -> list[tuple[str, str]]:
    """What is said at a place: words and their colour, line by line."""
    said = [(f"{_plain(x_label)} {_number(x)}", "var(--muted)")]
    for curve in curves:
        near = curve.nearest(across)
        if near is not None:
            elsewhere = "" if curve.x[near] == x else f" at {_number(curve.x[near])}"
            said.append((f"{curve.name} {_number(curve.y[near])}{elsewhere}", curve.colour))
    return said


def _strip(box: tuple[float, float, float, float], line: float, words: list[tuple[str, str]], anchor: str) -> Markup:
    """A strip in this box (left, top, width, height), its line, and its words to the right or to the left of that."""
    _, top, _, height = box
    x = f"{line + (BESIDE if anchor == 'start' else -BESIDE):.1f}"
    lines = [
        Markup('<tspan x="{}" y="{}" style="fill: {}">{}</tspan>').format(
            x, f"{top + ABOVE + i * LINE:.1f}", colour, readable(text)
        )
        for i, (text, colour) in enumerate(words)
    ]
    return Markup(
        '<g class="at"><rect x="{}" y="{}" width="{}" height="{}"/><path d="M{} {}V{}"/>'
        '<text text-anchor="{}">{}</text></g>'
    ).format(*(f"{one:.1f}" for one in (*box, line, top, top + height)), anchor, Markup("").join(lines))


def _number(value: float) -> str:
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _plain(name: str) -> str:
    """A name without Matplotlib's signs for mathematics."""
    return name.replace("$-$", "\N{MINUS SIGN}").replace(r"\$", "$")
