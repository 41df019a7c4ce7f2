"""Pages of HTML made of sections, and sections made of the blocks below. How they look is in `templates/`.

Everything that is put into a page is text and is escaped there; only charts, which are drawn here, are markup.
"""

import base64
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.report import vocabulary
from worldmodel.report.formats import count, number, readable
from worldmodel.report.svg import css_colour, inline_svg, style
from worldmodel.report.tables import Table
from worldmodel.report.vocabulary import LineStyle, Wording

SMALL, TALL, WIDE = (3.9, 2.55), (3.9, 2.8), (11, 3.0)  # inches


class Text(NamedTuple):
    """A paragraph, some of which may be code."""

    words: str
    code: str = ""
    after: str = ""
    look: str = ""  # a class of the style sheet


class Points(NamedTuple):
    """A list."""

    items: Sequence[str]


class TableBlock(NamedTuple):
    """A table with a note below it; its rows may have a curve's colour in front, or a bar as a last column.

    The last column of an explained one is a sentence, which a narrow screen shows below the rest of its row.
    """

    table: Table
    note: str = ""
    looks: Sequence[LineStyle] = ()
    shares: Sequence[float] = ()
    explained: bool = False


class Chart(NamedTuple):
    """Something to look at, its title above and what to look for below it: drawn here, or a picture's data URI.

    A dark page turns light into dark on a picture that inverts, and dims every other.
    """

    title: str
    caption: str
    described: str  # what a reader who cannot see it is told
    svg: Markup | None = None
    source: str = ""
    wide: bool = False
    inverts: bool = False


class Panels(NamedTuple):
    """Charts side by side, under the key that they share."""

    charts: Sequence[Chart]
    looks: Sequence[LineStyle] = ()
    note: str = ""


class Fold(NamedTuple):
    """A table, preformatted text or a picture that is shown when it is asked for."""

    summary: str
    content: Table | Chart | str


Block = Text | Points | TableBlock | Chart | Panels | Fold


class Section(NamedTuple):
    """A part of a page; one without blocks is left out."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def document(template: str, title: str, sections: Sequence[Section], **values: Any) -> str:
    """A whole page.

    Args:
        template: the file whose block `head` is the top of the page.
        title: plain text.
        sections: in order; those with nothing in them are left out.
        values: what else the template asks for.
    """
    kept = [section for section in sections if section.blocks]
    return _templates().get_template(template).render(title=title, sections=kept, **values)


def chart(
    wording: Wording, draw: Callable[[Axes], None], size: tuple[float, float] = SMALL, *, wide: bool = False
) -> Chart:
    """A chart drawn on an axis of its own, named and explained by the vocabulary."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        return Chart(
            wording.name, wording.caption, wording.title, inline_svg(figure, wording.title, wording.title), wide=wide
        )


def picture(wording: Wording, name: str, data: bytes, *, wide: bool = False, inverts: bool = False) -> Chart:
    """A picture of the folder; its kind is told by the ending of its name. One of curves alone inverts."""
    source = f"data:image/{PurePath(name).suffix[1:]};base64,{base64.b64encode(data).decode()}"
    return Chart(wording.name, wording.caption, wording.title, source=source, wide=wide, inverts=inverts)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("worldmodel.report"),
        autoescape=True,
        finalize=lambda value: readable(value) if type(value) is str else value,  # markup is readable already
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["colours"] = vocabulary.COLOURS
    found.filters |= {
        **{"number": number, "count": count, "css_colour": css_colour},
        "kind": lambda block: type(block).__name__,
        "term_name": lambda name: vocabulary.term(name).name,
    }
    return found
