"""The page and the figure of `trick_study.py`: docs/tricks.md from its results."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs_blocks import DOCS, write_block
from matplotlib.figure import Figure

from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW

Result = Mapping[str, Any]
WIDE = 0.25  # of a sandwich, as a share of the ELBO's gap: beyond it SMC's number is an upper limit of the excess


def write_page(results: Sequence[Result], words: Mapping[str, str]) -> None:
    """Put tables and figure into docs/tricks.md."""
    by_trick = {name: [row for row in results if row["trick"] == name] for name in words}
    by_trick = {name: rows for name, rows in by_trick.items() if rows}
    figure(by_trick, words, DOCS / "tricks.png")
    write_block("tricks.md", "tricks", tables(by_trick, words))


def tables(by_trick: Mapping[str, Sequence[Result]], words: Mapping[str, str]) -> str:
    """Two tables: what a trick costs, and what it says of itself."""
    first = next(iter(by_trick.values()))
    updates = sorted({row["updates"] for rows in by_trick.values() for row in rows})
    seconds = statistics.median(row["cpu_seconds"] for rows in by_trick.values() for row in rows)
    costs = [
        "| trick | bound | evidence | sandwich | 1 ahead | 5 ahead | 20 ahead |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    errors = ["| trick | 1 ahead | 5 ahead | 20 ahead |", "| --- | --- | --- | --- |"]
    claims = ["| trick | optimised | true bound | exact | KL |", "| --- | --- | --- | --- | --- |"]
    for name, rows in by_trick.items():
        star = "\\*" if wide(rows) else ""
        ahead = [spread(rows, lambda row, k=k: row["ahead"][k]["mean"]) + star for k in ("1", "5", "20")]
        costs.append(
            f"| {words[name]} | {spread(rows, 'elbo_gap')} | {spread(rows, 'smc_excess')}{star} | "
            f"{spread(rows, 'width')} | {' | '.join(ahead)} |"
        )
        bound = spread(rows, lambda row: row["exact"] - row["elbo_gap"])
        measured = [row for row in rows if "squared_error" in row]
        if measured:
            by_horizon = (spread(measured, lambda row, k=k: row["squared_error"][k]) for k in ("1", "5", "20"))
            errors.append(f"| {words[name]} | {' | '.join(by_horizon)} |")
        claims.append(
            f"| {words[name]} | {spread(rows, 'claimed')} | {bound} | {spread(rows, 'exact')} | {spread(rows, 'kl')} |"
        )
    seeds = {len(rows) for rows in by_trick.values()}
    return "\n".join(
        [
            f"{'/'.join(map(str, sorted(seeds)))} seeds each, {'/'.join(map(str, updates))} updates (median "
            f"{seconds:.0f} CPU seconds with one thread); mean over seeds ± standard deviation over seeds, in nats per "
            f"step. Standard error of one run's bound and evidence over held-out episodes: "
            f"{statistics.mean(row['elbo_gap_error'] for row in first):.3f} and "
            f"{statistics.mean(row['smc_excess_error'] for row in first):.3f} without a trick.",
            "",
            "![costs](tricks.png)",
            "",
            "Below the exact value, in nats per step:",
            "",
            *costs,
            "",
            "\\* the sandwich is wider than a quarter of the bound's gap: SMC has not converged, and what it says of",
            "evidence and of the rows ahead is an upper limit of what was lost.",
            "",
            "What each run believes of itself, in nats per step:",
            "",
            *claims,
            "",
            "Squared error of the mean of 32 imagined futures, in units of the data's variance (no ±: of one seed):",
            "",
            *errors,
        ]
    )


def wide(rows: Sequence[Result]) -> bool:
    return statistics.mean(abs(row["width"]) for row in rows) > WIDE * statistics.mean(row["elbo_gap"] for row in rows)


def spread(rows: Sequence[Result], value: str | Callable[[Result], float]) -> str:
    """Mean ± standard deviation over seeds."""
    numbers = [row[value] if isinstance(value, str) else value(row) for row in rows]
    mean = statistics.mean(numbers)
    return f"{mean:.3f} ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else f"{mean:.3f}"


def figure(by_trick: Mapping[str, Sequence[Result]], words: Mapping[str, str], path: Path) -> None:
    """Bound, evidence and imagination of every trick, one dot a seed, on a logarithmic axis."""
    columns: list[tuple[str, str, Callable[[Result], float]]] = [
        ("the bound's gap", RAW, lambda row: row["elbo_gap"]),
        ("evidence lost (SMC)", OPTIMISED, lambda row: row["smc_excess"]),
        ("5 steps ahead", BASELINE, lambda row: row["ahead"]["5"]["mean"]),
    ]
    drawing = Figure(figsize=(9, 0.52 * len(by_trick) + 1.2), layout="constrained")
    axes = drawing.subplots()
    for place, rows in enumerate(by_trick.values()):
        for offset, (label, colour, value) in zip((-0.24, 0.0, 0.24), columns, strict=True):
            numbers = [max(value(row), 1e-3) for row in rows]
            at = [place + offset] * len(numbers)
            axes.plot(statistics.mean(numbers), at[0], "|", color=colour, markersize=11, markeredgewidth=2.2)
            axes.plot(numbers, at, "o", color=colour, markersize=3.6, label=label if place == 0 else None)
    axes.set_xscale("log")
    axes.set_yticks(range(len(by_trick)), [words[name] for name in by_trick], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("nats per step below the exact value (0.001 and less at 0.001)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    drawing.savefig(path, dpi=110)
