"""The tables of `imagination_study.py`, from its results."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = (1, 12, 24, 48)
Result = Mapping[str, Any]


def split(results: Iterable[Result]) -> str:
    """Nats of the observation by number of samples, under the plain bound: a table a preset, means over final seeds."""
    parts = []
    for preset, found in by(results, "preset").items():
        runs = [one for one in found if one["cell"] == "bound" and len(one["seeds"]) == 1]
        runs = [one for one in final(runs) if one["samples"] == 1024]
        if not runs:
            continue
        ahead = [h for h in SHOWN if h in runs[0]["ahead"]]
        first = runs[0]
        lines = [
            f"`{preset}`, {seeds_of(runs)}, {first['futures']} futures of {first['episodes']} held-out episodes each:",
            "",
            f"| negative log-likelihood of `obs`, nats | {' | '.join(f'{h} ahead' for h in ahead)} |",
            "| --- |" + " --- |" * len(ahead),
        ]
        names = {f"nll {size}": f"{size:,} futures" for size in (16, 64, 256, 1024)}
        names |= {"looked": "1,024 futures, the last z proposed by q as well", "worst": "1,024, the worst future"}
        names |= {"marginal": "marginal of the training rows", "exact": "exact"}
        for key, words in names.items():
            if key in first["obs"]:
                lines.append(f"| {words} | {' | '.join(nats(mean_at(runs, key, h)) for h in ahead)} |")
        product = [statistics.mean(one["product"]["hedged"][h - 1] for one in runs) for h in ahead]
        lines.insert(-1 - ("exact" in first["obs"]), f"| 256 futures, hedged | {' | '.join(map(nats, product))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def mends(results: Iterable[Result]) -> str:
    """What was tried: a row a preset, way of training and seeds."""
    head = ("preset", "trained on", "seeds", "samples", "bound", "nll, 12", "nll, last", "hedged, last")
    head += (
        "beats marginal until",
        "hedged until",
        "lost, last",
        "covered, 1",
        "at the resolution, 1",
        "covered, 12",
        "covered, last",
    )
    head += ("50 %, 12", "spread / error, 12")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for (preset, cell), found in by(results, "preset", "cell").items():
        groups = [[one] for one in found if len(one["seeds"]) > 1 or min(one["seeds"]) >= 100]
        single = final([one for one in found if len(one["seeds"]) == 1 and one["seeds"][0] < 100])
        lines += [f"| {preset} | {cell} | {' | '.join(row(runs))} |" for runs in [single, *groups] if runs]
    return "\n".join(lines)


def row(runs: list[Result]) -> list[str]:
    """The numbers of runs that differ in their seed alone: means over them."""
    last = runs[0]["ahead"][-1]
    alone = "product" in runs[0]

    def covered(key: str, h: int) -> str:
        return f"{mean_at(runs, key, h):.3f}"

    def until(method: str) -> str:
        return ", ".join(str(better_until(one["product"], method)) for one in runs) if alone else ""

    hedged = nats(statistics.mean(one["product"]["hedged"][-1] for one in runs)) if alone else ""
    ratio = mean_at(runs, "spread", 12) / mean_at(runs, "error", 12)
    return [
        seeds_of(runs).removeprefix("seed ").removeprefix("seeds "),
        ", ".join(f"{one['samples']:,}" for one in runs),
        f"{statistics.mean(one['bound'] for one in runs):.3f}" if alone else "",
        nats(mean_at(runs, "nll", 12)),
        nats(mean_at(runs, "nll", last)),
        hedged,
        until("model"),
        until("hedged"),
        f"{mean_at(runs, 'lost', last):.1%}",
        covered("cover 90", 1),
        covered("cover 90, at the resolution", 1),
        covered("cover 90", 12),
        covered("cover 90", last),
        covered("cover 50", 12),
        f"{ratio:.2f}",
    ]


def better_until(product: Mapping[str, Any], method: str) -> int:
    """Up to which horizon a method has no more nats than the marginal."""
    worse = (h for h, (a, b) in enumerate(zip(product[method], product["marginal"], strict=True)) if a > b)
    return next(worse, len(product["marginal"]))


def final(runs: list[Result]) -> list[Result]:
    """Runs of the seeds that nothing was tuned on, where there are some."""
    return [one for one in runs if max(one["seeds"]) < 100] or runs


def mean_at(runs: list[Result], score: str, h: int) -> float:
    """Mean over runs of a score of the observation at a horizon; of `worst` the largest."""
    values = [one["obs"][score][one["ahead"].index(h)] for one in runs]
    return max(values) if score == "worst" else statistics.mean(values)


def seeds_of(runs: list[Result]) -> str:
    """Which seeds, in words; those of an ensemble with a plus between them."""
    names = ["+".join(map(str, one["seeds"])) for one in runs]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


def nats(value: float) -> str:
    """A number of nats, with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def by(results: Iterable[Result], *keys: str) -> dict[Any, list[Result]]:
    """Results by one key or several."""
    found: dict[Any, list[Result]] = {}
    for one in results:
        values = tuple(one[key] for key in keys)
        found.setdefault(values if len(keys) > 1 else values[0], []).append(one)
    return found
