"""Figures as SVG that belongs to a page: its text is the page's text, its colours follow the page's theme, and its
numbers are shown under the pointer.
"""

import io
import re
from contextlib import AbstractContextManager
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from worldmodel.report.formats import readable
from worldmodel.report.hover import strips
from worldmodel.report.vocabulary import COLOURS, TRUTH

# The page's style sheet gives each variable a light and a dark value.
_VARIABLES = {light: name for name, (light, _) in COLOURS.items()} | {TRUTH: "ink", "#262626": "ink", "#b0b0b0": "grid"}
_RC: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 9.5,
    "axes.edgecolor": "#b0b0b0",
    "axes.linewidth": 0.8,
    "xtick.color": "#b0b0b0",
    "ytick.color": "#b0b0b0",
    "xtick.labelcolor": "#000000",
    "ytick.labelcolor": "#000000",
    "lines.solid_capstyle": "round",
}


def style() -> AbstractContextManager[None]:
    """The drawing parameters that `inline_svg` counts on, as a context in which figures are made and rendered."""
    return rc_context(_RC)


def css_colour(colour: str) -> str:
    """A colour of a figure as the style sheet's variable; one without a variable stays what it is."""
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """A figure as an <svg> element to stand inside a page.

    Args:
        figure: with a transparent background, made within `style()`.
        name: unlike that of any other figure on the page; the element's own ids are derived from it.
        description: what a reader who cannot see it is told.
    Returns:
        Markup without a namespace, an address or a font of its own.
    """
    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Type")))
    text = buffer.getvalue()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    inside = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    for pattern, instead in (
        (r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", ""),
        (r'<g id="[^"]*"', "<g"),  # every figure would call its parts by the same names
        (r"base64,\s+", "base64,"),
        (r"\s*\n\s*", " "),
        (r"xlink:href=", "href="),
    ):
        inside = re.sub(pattern, instead, inside, flags=re.DOTALL)
    inside += str(strips(figure))
    inside = re.sub(r' (?:d|x|y|style|transform)="[^"]*"', lambda found: _attribute(found[0]), inside)
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, readable(description))
    return start + Markup(inside) + Markup("</svg>")


def _attribute(text: str) -> str:
    """The page's font and colours instead of the figure's, and hundredths of a point."""
    text = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: css_colour(found[0]), text)
