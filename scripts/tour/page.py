"""The output of a section, and the style of all figures, in which each quantity has one colour."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from worldmodel.report.figures import render
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW, REWARD

TRUTH, BOUND, RATE, GAP, SMC, IWAE, FAINT = "#222222", RAW, OPTIMISED, "#b5403c", REWARD, "#7a5195", BASELINE
WRONG = "#d1479b"
LANGUAGE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}
BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """The figure and the numbers of one section of the article."""

    figure: Figure
    numbers: Mapping[str, str]  # what was measured, by what it is


def canvas(*panels: Any, height: float = 3.1, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as the article, and its axes by `Figure.subplots(*panels, **options)`."""
    figure = Figure(figsize=(8.4, height), layout="constrained")
    return figure, figure.subplots(*panels, **options)


def label(axis: Axes, title: str, x: str, y: str) -> None:
    """Title and units of an axis."""
    axis.set(title=title, xlabel=x, ylabel=y)


def f64(numbers: Any) -> Tensor:
    """A float64 tensor, as the oracles require."""
    return torch.tensor(numbers, dtype=torch.float64)


def nats(x: float, digits: int = 4) -> str:
    """A number of nats with a true minus sign."""
    return f"{x:.{digits}f}".replace("-", "−")


def rounding(x: float) -> str:
    """An error of rounding, without the digits that another machine would change."""
    return "less than 1e-9" if abs(x) < 1e-9 else f"{x:.1e}"


def table(numbers: Mapping[str, str], say: Callable[[str], str] = str) -> str:
    """The numbers of a section as Markdown, each cell as `say` puts it: `str` leaves the English."""
    rows = [f"| {say(name)} | {say(value)} |" for name, value in numbers.items()]
    header = f"| {say('measured')} | {say('nats, unless it says otherwise')} |"
    return "\n".join([header, "| --- | ---: |", *rows, ""])


def fill(article: str, sections: Mapping[str, Section], say: Callable[[str], str] = str) -> str:
    """The article with the numbers of these sections between their markers, each cell as `say` puts it.

    Raises:
        ValueError: if the article's markers are not those of the sections, in the same order.
    """
    marked = [name for _, name, _ in BLOCK.findall(article)]
    if marked != list(sections):
        raise ValueError(f"article: expected markers for {list(sections)}, in this order, got {marked}")
    return BLOCK.sub(lambda match: match[1] + table(sections[match[2]].numbers, say) + match[3], article)


def save(section: Section, path: Path) -> None:
    """The figure as PNG, in 200 colours, which is enough for line drawings."""
    image = Image.open(io.BytesIO(render(section.figure))).convert("RGB")
    image.quantize(200, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
