"""HTML from Python: plain text is escaped wherever it is put, markup is what this file made."""

import base64
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePath

from worldmodel.system.names import visible

VOID = {"img", "br", "meta", "link"}
MEDIA = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg"}


class Html(str):
    """Text that is markup already and is not escaped again."""


def plain(text: str) -> str:
    """Text as markup; of control characters, which HTML has no place for, only line ends and tabs stay."""
    return escape(re.sub(r"[^\n\t]+", lambda found: visible(found[0]), text))


def tag(name: str, *content: str, **attributes: str | None) -> Html:
    """An element: `tag("a", "here", href="#there")`. Attributes that Python reserves take a trailing underscore."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{plain(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Parts one after another; those that are plain text are escaped."""
    return Html("".join(part if isinstance(part, Html) else plain(part) for part in parts))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table whose first column names its rows, and which scrolls by itself where the page is narrow."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def figure(content: str, title: str, caption: str, class_: str | None = None) -> Html:
    """Something to look at, its title above and what to look for below it."""
    return tag("figure", tag("h3", title), content, tag("figcaption", caption), class_=class_)


def picture(name: str, data: bytes, description: str) -> Html:
    """An image file as a data URI; its kind is told by the name's ending."""
    kind = MEDIA[PurePath(name).suffix.lower()]
    return tag("img", src=f"data:{kind};base64,{base64.b64encode(data).decode()}", alt=description)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: so many decimals, fewer where it is large; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{digits if abs(value) < 1e4 else 0}f}"


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """3 h 5 min, 4 min 10 s, 12.3 s or 12 ms; never broken over lines."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 1:
        said = f"{1000 * seconds:.0f} ms"
    elif seconds < 59.95:
        said = f"{seconds:.1f} s"
    else:
        said = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return said.replace(" ", "\N{NO-BREAK SPACE}")
