"""Small figures of one axis, to stand side by side on a page: drawn anew from a run's record, sharp at any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from worldmodel.report.figures import RAW, draw_heat_map, draw_surprise

MOST_POINTS = 600  # on one curve; more than a panel has room for
_SHORT = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))


@dataclass(frozen=True)
class Drawn:
    """A curve and how it is drawn."""

    label: str
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    colour: str = RAW
    dash: str = "-"
    width: float = 1.3
    marker: str | None = None
    between: tuple[np.ndarray, np.ndarray] | None = None  # [n] each: a band around the curve


def panel(
    curves: Sequence[Drawn],
    x_label: str,
    y_label: str,
    *,
    scale: Literal["linear", "log", "symlog"] = "linear",
    focus: bool = False,
    legend: bool = True,
) -> Figure:
    """Curves over one axis.

    Args:
        curves: to draw, first at the bottom.
        x_label, y_label: with their units.
        scale: of the y axis. log is linear where nothing is greater than zero, and shows six decades at most; symlog
            is linear unless the numbers lie far apart, and then logarithmic beyond 10 in both directions.
        focus: leave the lowest twentieth of many numbers out of sight, which is how a run begins.
        legend: name the curves, where there is more than one.
    """
    figure, axis = _axis()
    for curve in curves:
        x, y = thinned(curve.x, curve.y)
        style: Any = {"ls": curve.dash, "lw": curve.width, "marker": curve.marker, "ms": 3.2, "color": curve.colour}
        axis.plot(x, y, label=curve.label, **style)
        if curve.between is not None:
            axis.fill_between(curve.x, *curve.between, color=curve.colour, alpha=0.16, lw=0)
    values = np.concatenate([curve.y for curve in curves])
    values = values[np.isfinite(values)]
    if scale == "log" and (values > 0).any():
        _logarithmic(axis)
    elif scale == "symlog" and len(values) and np.ptp(values) > 10 * max(10.0, abs(np.median(values))):
        axis.set_yscale("symlog", linthresh=10)
    elif focus and len(values):
        low, high = np.sort(values)[[len(values) // 20, -1]]
        axis.set_ylim(low - 0.06 * (high - low) - 1e-6, high + 0.06 * (high - low) + 1e-6)
    if legend and len(curves) > 1:
        axis.legend(frameon=False, loc="best")
    _finish(axis, x_label, y_label)
    return figure


def heat_map(values: np.ndarray) -> Figure:
    """The KL of every latent group at every place of the sequence, [S, T]."""
    figure, axis = _axis()
    draw_heat_map(axis, values)
    axis.set_title("")
    axis.set(xlabel="row of the training sequence", ylabel="latent group")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def surprise(kl: np.ndarray, optimised: np.ndarray, reward: np.ndarray) -> Figure:
    """The KL at every step of one episode beside its reward, [L] each, on a wide axis."""
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axis = figure.subplots()
    draw_surprise(axis, kl, optimised, reward)
    axis.set_title("")
    if (kl > 0).any():
        _logarithmic(axis)
    return figure


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points, each the mean of equally many neighbours; the last group may be smaller."""
    size = -(-len(x) // MOST_POINTS)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _axis() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.9, 2.55), layout="constrained")
    return figure, figure.subplots()


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log", nonpositive="clip")
    low, high = axis.get_ylim()
    low = axis.set_ylim(bottom=max(low, 1e-6 * high))[0]
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=6))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(_SHORT)


def _finish(axis: Axes, x_label: str, y_label: str) -> None:
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(_SHORT)
    axis.grid(alpha=0.35)
    axis.spines[["top", "right"]].set_visible(False)
