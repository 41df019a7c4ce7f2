"""Runs that differ in nothing but their seed, taken together: their mean, and how much seeds differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.report.record import Curve, Record, settings

# What may differ in a group beside the seed: where a run lies, where it ran, who was told of it,
# and how its model is planned with, which no training reads.
ASIDE = {"seed", "name", "runs", "device", "tracking", "env.asynchronous", "env.step_timeout", "env.restarts"}


@dataclass(frozen=True)
class SeedGroup:
    """One run, or several of different seeds whose other settings are the same."""

    name: str
    records: tuple[Record, ...]


def grouped(records: Sequence[Record], names: Sequence[str]) -> list[SeedGroup]:
    """Runs by their settings, in order. A run that repeats another's settings and seed makes a group of its own.

    Args:
        records, names: the runs and what each is called.
    Returns:
        Groups that are called after their first run, with its number of runs where there are more.
    """
    found: list[tuple[dict[str, Any], dict[Any, int]]] = []  # settings, and the places of the runs by seed
    for place, record in enumerate(records):
        flat = settings(record.config)
        kept = {key: x for key, x in flat.items() if key not in ASIDE and not key.startswith(("wandb.", "planner."))}
        seed = flat.get("seed")
        alike = (places for other, places in found if other == kept and seed not in places)
        places = next(alike, None)
        if places is None:
            found.append((kept, {seed: place}))
        else:
            places[seed] = place
    return [_group([records[i] for i in places.values()], names[min(places.values())]) for _, places in found]


def _group(records: Sequence[Record], name: str) -> SeedGroup:
    return SeedGroup(name if len(records) == 1 else f"{name} (n = {len(records)})", tuple(records))


def over_seeds(group: SeedGroup, value: Callable[[Record], float | None], shown: Callable[[float | None], str]) -> str:
    """A run's number; of several the mean ± the standard deviation over seeds (n - 1), with the count that have one."""
    known = [x for x in map(value, group.records) if x is not None]
    if len(known) < 2:
        return shown(known[0] if known else None)
    missing = f" (of {len(known)})" if len(known) < len(group.records) else ""
    difference = np.array(known) - known[0]  # exactly zero where all are the same
    return f"{shown(float(known[0] + difference.mean()))} ± {shown(float(difference.std(ddof=1)))}{missing}"


def each(texts: Sequence[str]) -> str:
    """Texts of a group's runs: one where all say the same."""
    return ", ".join(dict.fromkeys(texts))


def mean_curve(curves: Sequence[Curve]) -> tuple[Curve, tuple[np.ndarray, np.ndarray]]:
    """The mean of two or more curves where all of them are, and one standard deviation (n - 1) below and above it."""
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    shared = (x >= max(curve.x[0] for curve in curves)) & (x <= min(curve.x[-1] for curve in curves))
    x = x[shared]
    y = np.stack([np.interp(x, *curve) for curve in curves])  # [runs, n]
    mean, std = y.mean(0), y.std(0, ddof=1)
    return Curve(x, mean), (mean - std, mean + std)
