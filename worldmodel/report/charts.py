"""Charts: every one is a function that draws on an axis. Pictures and pages put the axis in a figure of their own."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, MaxNLocator, NullFormatter

from worldmodel.evaluation.scoring_rules import COVERAGE, Band
from worldmodel.report import vocabulary
from worldmodel.report.record import Curve
from worldmodel.report.vocabulary import LineStyle
from worldmodel.system.names import label

MOST_POINTS = 600  # on one curve; more than a chart has room for
FINEST = 1e-6  # a squared error or a CRPS below this is nothing
SCALES: dict[str, Literal["log", "symlog"]] = {"nll": "symlog", "squared_error": "log", "crps": "log"}
FLAT = 0.01  # of the largest number on a chart with focus, that its axis spans at least


@dataclass(frozen=True)
class Drawn:
    """A curve and how it is drawn."""

    look: LineStyle
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    between: tuple[np.ndarray, np.ndarray] | None = None  # [n] each: a band around the curve


class Short(Formatter):
    """Numbers of an axis in few digits, but in as many as it takes to tell neighbours apart."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        assert self.axis is not None
        ends = self.axis.get_view_interval()
        span, largest = abs(ends[1] - ends[0]), max(abs(end) for end in ends)
        digits = 3 + math.ceil(math.log10(largest / span)) if span else 0
        return f"{value:.{min(15, max(6, digits))}g}".replace("-", "\N{MINUS SIGN}")


def draw_curves(
    axis: Axes,
    curves: Sequence[Drawn],
    x_label: str,
    y_label: str,
    *,
    scale: Literal["linear", "log", "symlog"] = "linear",
    focus: bool = False,
    legend: bool = True,
) -> None:
    """Curves over one axis; a single point is a dot.

    Args:
        axis: drawn on.
        curves: to draw, first at the bottom.
        x_label, y_label: with their units.
        scale: of the y axis. log is linear where nothing is greater than zero, and shows six decades at most; symlog
            is linear unless the numbers differ widely, and then logarithmic beyond 10 in both directions.
        focus: leave the lowest twentieth of many numbers out of sight, which is how a run begins.
        legend: name the curves, where there is more than one.
    """
    for curve in curves:
        look = curve.look
        marker = "o" if np.isfinite(curve.y).sum() == 1 else look.marker
        style: Any = {"ls": look.dash, "lw": look.width, "marker": marker, "ms": 3.2, "color": look.colour}
        axis.plot(*thinned(curve.x, curve.y), label=look.name, **style)
        if curve.between is not None:
            axis.fill_between(curve.x, *curve.between, color=look.colour, alpha=0.16, lw=0)
    values = np.concatenate([curve.y for curve in curves])
    values = values[np.isfinite(values)]
    if scale == "log" and (values > 0).any():
        _logarithmic(axis)
    elif scale == "symlog" and len(values) and np.ptp(values) > 10 * max(10.0, abs(np.median(values))):
        axis.set_yscale("symlog", linthresh=10)
    elif focus and len(values):
        low, high = np.sort(values)[[len(values) // 20, -1]]
        room = max(0.06 * (high - low), (FLAT * max(abs(low), abs(high)) - (high - low)) / 2) + 1e-6
        axis.set_ylim(low - room, high + room)
    if legend and len(curves) > 1:
        axis.legend(frameon=False, fontsize="small")
    name_axes(axis, x_label, y_label)
    counted = all((curve.x == np.rint(curve.x)).all() for curve in curves)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=counted))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(Short())


def draw_term(axis: Axes, name: str, curves: Mapping[str, Curve]) -> None:
    """One term of the bound over training; `curves` are by split, train and heldout."""
    drawn = [Drawn(vocabulary.SPLITS[split], *curve) for split, curve in curves.items() if len(curve.x)]
    draw_curves(axis, drawn, vocabulary.UPDATES, vocabulary.term(name).unit, focus=name != "kl")


def draw_acting(axis: Axes, name: str, curves: Mapping[str, Curve]) -> None:
    """One of the charts of how a run acts, `vocabulary.ACTING`; `curves` are by metric, over environment steps."""
    looks = vocabulary.ACTING_CURVES[name]
    drawn = [Drawn(look, *curves[metric]) for metric, look in looks.items() if metric in curves]
    draw_curves(axis, drawn, vocabulary.ENV_STEPS, vocabulary.ACTING[name].unit)


def draw_resource(axis: Axes, name: str, curve: Curve) -> None:
    """What a run takes of its machine, one of `vocabulary.RESOURCES`, over training and from zero."""
    wording = vocabulary.RESOURCES[name]
    drawn = [Drawn(LineStyle(wording.name, vocabulary.RAW), *curve)]
    draw_curves(axis, drawn, vocabulary.UPDATES, wording.unit)
    axis.set_ylim(bottom=0)


def draw_kl_history(axis: Axes, history: Mapping[str, Curve]) -> None:
    """Mean, median and 95 % quantile of the raw KL over training, and the mean of what the loss sees if it differs.

    Args:
        axis: drawn on.
        history: by statistic; the mean of what the loss sees is `optimised_mean`. Any may be missing.
    """
    curves = [Drawn(look, *history[name]) for name, look in vocabulary.KL_STATISTICS.items() if name in history]
    mean, seen = history.get("mean"), history.get("optimised_mean")
    if mean is not None and seen is not None and _differ(mean.y, seen.y):
        curves.append(Drawn(vocabulary.KL_OPTIMISED, *seen))
    draw_curves(axis, curves, vocabulary.UPDATES, vocabulary.KL_HISTORY.unit, scale="log")


def draw_kl(axis: Axes, x: np.ndarray, raw: np.ndarray, optimised: np.ndarray | None, x_label: str) -> None:
    """The KL along a sequence, with its optimised twin where that differs."""
    curves = [Drawn(LineStyle("raw", vocabulary.RAW), x, raw)]
    if optimised is not None and _differ(raw, optimised):
        curves.append(Drawn(LineStyle("as optimised", vocabulary.OPTIMISED), x, optimised))
    draw_curves(axis, curves, x_label, "nats", scale="log")


def draw_heat_map(axis: Axes, heat_map: np.ndarray) -> None:
    """The KL of every latent group at every place of the sequence, [S, T]; a thousandth of a nat and less is black."""
    scale = LogNorm(1e-3, max(1e-2, float(np.nanmax(heat_map))), clip=True)
    image = axis.imshow(heat_map, aspect="auto", cmap="magma", interpolation="nearest", norm=scale)
    axis.figure.colorbar(image, ax=axis, label=vocabulary.KL_BY_GROUP.unit)
    name_axes(axis, vocabulary.PLACE, "latent group")
    axis.grid(visible=False)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_surprise(axis: Axes, kl: np.ndarray, optimised: np.ndarray, reward: np.ndarray) -> None:
    """The KL at every step of one episode beside its reward, [L] each."""
    axis.plot(kl, color=vocabulary.RAW, label="KL, raw")
    if _differ(kl, optimised):
        axis.plot(optimised, color=vocabulary.OPTIMISED, label="KL, as optimised")
    if (kl > 0).any():
        _logarithmic(axis)
    name_axes(axis, "step of the episode", vocabulary.SURPRISE.unit)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    other = axis.twinx()
    other.plot(reward, color=vocabulary.REWARD, lw=0.8, alpha=0.8, label="reward")
    other.set_ylabel("reward")
    other.spines["top"].set_visible(False)
    handles = axis.get_legend_handles_labels()[0] + other.get_legend_handles_labels()[0]
    axis.legend(handles=handles, frameon=False, fontsize="small", loc="upper right")


def draw_open_loop(axis: Axes, ahead: np.ndarray, errors: Mapping[str, np.ndarray]) -> None:
    """The open-loop errors of a leaf by horizon, [H] each, by the names that lines/open_loop_*.json has for them."""
    looks = {
        name: vocabulary.OPEN_LOOP_METHODS.get(name, LineStyle(label(name), vocabulary.BASELINE, ":"))
        for name in errors
    }
    curves = [Drawn(looks[name], ahead, error) for name, error in errors.items()]
    draw_curves(axis, curves, vocabulary.AHEAD, vocabulary.OPEN_LOOP.unit, scale="log")


def draw_score(axis: Axes, metric: str, methods: Mapping[str, Band]) -> None:
    """One score of one leaf by horizon, every method a line, its interval a band. The legend is the caller's."""
    ahead = [np.arange(1, len(band.mean) + 1) for band in methods.values()]
    curves = [
        Drawn(vocabulary.method(name), x, band.mean, between=(band.low, band.high))
        for x, (name, band) in zip(ahead, methods.items(), strict=True)
    ]
    if metric == "coverage":
        longest = max(ahead, key=len)
        nominal = LineStyle("nominal coverage", vocabulary.TRUTH, ":", width=0.8)
        curves.append(Drawn(nominal, longest, np.full(len(longest), COVERAGE)))
    scale = score_scale(metric, methods.values())
    draw_curves(axis, curves, vocabulary.AHEAD, vocabulary.score(metric).unit, scale=scale, legend=False)


def score_scale(metric: str, bands: Iterable[Band]) -> Literal["linear", "log", "symlog"]:
    """The scale of a score's axis: not logarithmic where a forecast makes no error at all, which would not be seen."""
    if SCALES.get(metric) == "log" and not all((band.mean > FINEST).all() for band in bands):
        return "linear"
    return SCALES.get(metric, "linear")


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points, each the mean of equally many neighbours; the last group may be smaller."""
    size = -(-len(x) // MOST_POINTS)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def name_axes(axis: Axes, x_label: str, y_label: str) -> None:
    """What the axes say, over a faint grid."""
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether what the loss sees is worth a second curve beside the first."""
    return len(a) == len(b) and not np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log", nonpositive="clip")
    low, high = axis.get_ylim()
    low = axis.set_ylim(bottom=max(low, 1e-6 * high))[0]
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=6))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(Short())
