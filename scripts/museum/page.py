"""The results as docs/bugs.md shows them: verdicts, tables and the figure."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.museum.catalogue import CONTROL, EXHIBITS, THREADS, Exhibit
from scripts.museum.measuring import sigmas
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW

SIGMAS = 5.0  # standard errors that a difference must exceed on every seed
COLUMNS = 4  # of the figure
Result = Mapping[str, Any]  # a line of docs/bugs.jsonl
# Compared are two trainings, so that the spread of sound ones counts too: difference -> the sound runs' own number.
OF_TRAININGS = {
    "loss": "sound_loss",
    "bound_lost": "sound_bound",
    "evidence_lost": "sound_evidence",
    "flags_lost": "sound_flags",
}


class Difference(NamedTuple):
    """A difference in nats per step over the seeds, and how sure its sign is."""

    mean: float
    sigmas: float  # standard errors from zero on the seed where they are fewest, with the sign of most; zero if mixed

    @property
    def sure(self) -> bool:
        """Whether every seed says so."""
        return abs(self.sigmas) > SIGMAS


def difference(runs: Sequence[Result], name: str) -> Difference:
    """One of the differences of `measuring.compared` over the seeds of an exhibit."""
    trained = [run[OF_TRAININGS[name]][0] for run in runs] if name in OF_TRAININGS else []
    spread = statistics.stdev(trained) if len(trained) > 1 else 0.0  # of a single seed, it is not known
    each = [sigmas(run[name][0], (run[name][1] ** 2 + spread**2) ** 0.5) for run in runs]
    least = min(each, key=abs) if min(each) > 0 or max(each) < 0 else 0.0
    return Difference(statistics.mean(run[name][0] for run in runs), least)


class Verdict(NamedTuple):
    """Who notices a bug."""

    loss: str  # how the held-out loss looks beside that of a sound run: worse, better or the same
    above_exact: bool  # the report exceeds what is possible
    off_ledger: bool  # the report is not the bound of the weights
    lost: bool  # the weights are worth less than a sound run's

    @property
    def by_losses(self) -> bool:
        """Whether ordinary losses notice, with a sound run beside."""
        return self.loss == "worse"

    @property
    def by_evidence(self) -> bool:
        """Whether exact evidence, or the ledger, notices."""
        return self.above_exact or self.off_ledger or self.lost


def verdict(result: Result) -> Verdict:
    """Who notices an exhibit's bug."""
    found = {name: difference(result["runs"], name) for name in (*OF_TRAININGS, "above_exact", "off_ledger")}
    loss = found["loss"]
    lost = [found[name] for name in ("bound_lost", "evidence_lost", "flags_lost")]
    return Verdict(
        "the same" if not loss.sure else "worse" if loss.mean > 0 else "better",
        found["above_exact"].sigmas > SIGMAS,
        found["off_ledger"].sure,
        any(one.sigmas > SIGMAS for one in lost),
    )


def tables(results: Sequence[Result]) -> str:
    """All that the page has of the numbers: how they were made, the table of verdicts, that of numbers, the figure."""
    first = results[0]
    seeds = "/".join(map(str, sorted({len(one["runs"]) for one in results})))
    longest = max(run["cpu_seconds"] for one in results for run in one["runs"])
    return "\n".join(
        [
            f"{seeds} seeds, {first['updates']} updates, {first['episodes']} held-out episodes each. Differences are "
            "in nats per step, the mean over the seeds; in brackets standard errors, on the seed where they are "
            "fewest (0 where seeds disagree about the sign). An exhibit takes "
            f"{longest:.0f} CPU seconds at most, its sound run and all that is measured included.",
            "",
            *_verdicts(results),
            "",
            *_summary(results),
            "",
            "![losses](bugs.png)",
            "",
            *_numbers(results),
        ]
    )


def sources() -> str:
    """Where each bug is known from."""
    lines = ["| bug | public threads |", "| --- | --- |"]
    for exhibit in EXHIBITS.values():
        if exhibit is not EXHIBITS[CONTROL]:
            lines.append(f"| {exhibit.words} | {', '.join(map(_link, exhibit.threads)) or 'no public thread known'} |")
    return "\n".join(lines)


def figure(results: Sequence[Result], path: Path) -> None:
    """The curves of every exhibit beside those of its sound run, on the first seed."""
    rows = -(-len(results) // COLUMNS)
    drawing = Figure(figsize=(3.1 * COLUMNS, 2.1 * rows), layout="constrained")
    grid = drawing.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, result in zip(grid, results, strict=False):
        _curves(axes, result)
    for axes in grid[len(results) :]:
        axes.axis("off")
    handles, labels = grid[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    drawing.supxlabel("updates", fontsize=9)
    drawing.supylabel("loss, nats per step", fontsize=9)
    drawing.savefig(path, dpi=90)


def _verdicts(results: Sequence[Result]) -> list[str]:
    lines = [
        "| bug | its held-out loss beside a sound run's | report above the exact evidence | report off the ledger | "
        "evidence lost |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results:
        found, runs = verdict(result), result["runs"]
        lost = max((difference(runs, n) for n in ("bound_lost", "evidence_lost", "flags_lost")), key=lambda d: d.sigmas)
        cells = [
            f"{found.loss}: {_cell(difference(runs, 'loss'))}",
            _cell(difference(runs, "above_exact"), bold=found.above_exact),
            _cell(difference(runs, "off_ledger"), bold=found.off_ledger),
            _cell(lost, bold=found.lost),
        ]
        lines.append(f"| {_words(result)} | {' | '.join(cells)} |")
    return lines


def _numbers(results: Sequence[Result]) -> list[str]:
    lines = [
        "Below the exact evidence, and the width of the sandwich (means over the seeds, nats per step):",
        "",
        "| bug | world | sound: bound | its evidence | with the bug: bound | its evidence | sandwich |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        names = ("sound_bound", "sound_evidence", "bound", "evidence", "width")
        cells = [f"{statistics.mean(run[name][0] for run in result['runs']):.3f}" for name in names]
        lines.append(f"| {_words(result)} | {EXHIBITS[result['bug']].world} | {' | '.join(cells)} |")
    return lines


def _summary(results: Sequence[Result]) -> list[str]:
    found = {one["bug"]: verdict(one) for one in results if one["bug"] != CONTROL}
    groups = {
        "No worse by its losses, and caught by evidence": [
            name for name, one in found.items() if not one.by_losses and one.by_evidence
        ],
        "Worse by its losses and caught by evidence": [
            name for name, one in found.items() if one.by_losses and one.by_evidence
        ],
        "Worse by its losses alone": [name for name, one in found.items() if one.by_losses and not one.by_evidence],
        "Caught by none": [name for name, one in found.items() if not (one.by_losses or one.by_evidence)],
    }
    lines = [
        f"- {words}: {len(names)} of {len(found)}{': ' if names else ''}{', '.join(f'`{name}`' for name in names)}."
        for words, names in groups.items()
    ]
    control = [one for one in results if one["bug"] == CONTROL]
    alarmed = any(verdict(one).by_evidence or verdict(one).by_losses for one in control)
    return lines + (
        [f"- The control, where nothing is wrong, is {'' if alarmed else 'not '}caught."] if control else []
    )


def _curves(axes: Axes, result: Result) -> None:
    for name, colour, label in (("sound", BASELINE, "sound"), ("curves", OPTIMISED, "with the bug")):
        curves = result[name]
        axes.plot(curves["update"], curves["train"], color=colour, lw=0.8, alpha=0.6, label=f"{label}, training")
        axes.plot(curves["update"], curves["heldout"], color=colour, lw=1.6, label=f"{label}, held out")
    axes.axhline(-result["exact"], color=RAW, lw=1, ls=":", label="minus the exact evidence")
    shown = [result[name][kind] for name in ("sound", "curves") for kind in ("train", "heldout")]
    late = [x for losses in shown for x in losses[len(losses) // 5 :]]  # after the fall of all losses at first
    room = 0.08 * (max(late) - min(late))
    axes.set_ylim(min(*late, -result["exact"]) - room, max(late) + room)
    axes.set_title(result["bug"], fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _words(result: Result) -> str:
    exhibit: Exhibit = EXHIBITS[result["bug"]]
    return f"`{result['bug']}`: {exhibit.words}"


def _cell(found: Difference, *, bold: bool = False) -> str:
    text = f"{found.mean:+.3f} ({found.sigmas:.0f})"
    return f"**{text}**" if bold else text


def _link(thread: str) -> str:
    name, number = thread.split("#")
    return f"[{thread}]({THREADS}{name}/issues/{number})"
