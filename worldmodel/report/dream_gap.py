"""The tables of the gap between a dream and its world."""

import numpy as np

from worldmodel.evaluation.dream_gap import DreamGap
from worldmodel.evaluation.episodes import summary
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.report.tables import Table

SHOWN = 12  # variables, at most: those that are furthest apart, in units of their std


def returns(gap: DreamGap) -> Table:
    """Returns and lengths in the world, in the dream, and how much more it is in the dream."""
    rows = []
    for name in ("returns", "lengths"):
        world, dream = (np.asarray(getattr(one, name), np.float64) for one in (gap.world, gap.dream))
        for place, values in (("world", world), ("dream", dream), ("dream - world", dream - world)):
            found = summary(values)
            mean, low, high, median = (f"{x:.2f}" for x in (found.mean, found.low, found.high, found.median))
            interval = f"{low} to {high}" if len(values) > 1 else ""
            rows.append((f"{name.removesuffix('s')}, {place}", mean, interval, median))
    return Table(("", "mean", "95 % interval", "median"), rows)


def variables(gap: DreamGap) -> Table:
    """Bias and distance of the variables that are furthest apart, some steps after the start."""
    shown = [h for h in horizons(len(gap.both)) if gap.both[h - 1]]
    furthest = sorted(gap.variables, key=lambda name: -_relative(gap, name, shown))[:SHOWN]
    rows = []
    for name in furthest:
        one = gap.variables[name]
        for h in shown:
            bias = "" if one.bias is None else _with_interval(one.bias, h)
            far = _with_interval(one.distance, h)
            rows.append((name if h == shown[0] else "", str(h), str(gap.both[h - 1]), bias, far, _short(one.std)))
    return Table(("", "step", "starts", "dream - world [95 %]", "|dream - world| [95 %]", "std"), rows)


def horizons(steps: int) -> list[int]:
    """The steps after the start that are shown: 1, and a quarter, half and all of them."""
    return sorted({1, steps // 4, steps // 2, steps} - {0})


def _relative(gap: DreamGap, name: str, shown: list[int]) -> float:
    one = gap.variables[name]
    return max((one.distance.mean[h - 1] / (one.std or 1.0) for h in shown), default=0.0)


def _with_interval(curve: Band, h: int) -> str:
    mean, low, high = (_short(x[h - 1]) for x in curve)
    return mean if low == high or not np.isfinite(curve.low[h - 1]) else f"{mean} [{low}, {high}]"


def _short(value: float) -> str:
    return f"{value:.2g}"
