"""The results as docs/bugs.md shows them: verdicts, tables and the figure."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.museum.catalogue import CONTROL, EXHIBITS, THREADS, Exhibit
from scripts.museum.measuring import PREFIXES, sigmas
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW

SIGMAS = 5.0  # standard errors that a difference must exceed on every seed
COLUMNS = 4  # of the figure
ALL = PREFIXES[-1]  # rows: whole episodes
Result = Mapping[str, Any]  # a line of docs/bugs.jsonl
Spreads = Mapping[str, float]
OF_TRAININGS = ("loss", "bound_lost", "evidence_lost", "flags_lost")  # differences between two trainings


class Difference(NamedTuple):
    """A difference in nats per step over the seeds, and how sure its sign is."""

    mean: float
    sigmas: float  # standard errors from zero on the seed where they are fewest, with the sign; zero if that is mixed

    @property
    def sure(self) -> bool:
        """Whether every seed says so."""
        return abs(self.sigmas) > SIGMAS


def spreads_of(results: Sequence[Result]) -> Spreads:
    """How far two sound runs of different seeds are apart, the root mean square over the seeds of the control."""
    runs = [run for one in results if one["bug"] == CONTROL for run in one["runs"]]
    return {name: statistics.mean(run[name][0] ** 2 for run in runs) ** 0.5 if runs else 0.0 for name in OF_TRAININGS}


def difference(runs: Sequence[Result], name: str, spreads: Spreads) -> Difference:
    """One of the differences of `measuring.compared` over the seeds of an exhibit.

    Args:
        runs: of the exhibit, one a seed.
        name: of the difference.
        spreads: what is added, in squares, to the standard errors over episodes.
    """
    each = [sigmas(run[name][0], (run[name][1] ** 2 + spreads.get(name, 0.0) ** 2) ** 0.5) for run in runs]
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


def differences(result: Result, spreads: Spreads) -> dict[str, Difference]:
    """What an exhibit's row of the table shows: `loss`, `above_exact`, `off_ledger`, and `lost`, the surest loss."""
    if result["bug"] == CONTROL:
        spreads = {}  # its own differences
    names = (*OF_TRAININGS, "above_exact", "off_ledger")
    found = {name: difference(result["runs"], name, spreads) for name in names}
    lost = max((found.pop(name) for name in OF_TRAININGS[1:]), key=lambda one: one.sigmas)
    return found | {"lost": lost}


def verdict(result: Result, spreads: Spreads) -> Verdict:
    """Who notices an exhibit's bug."""
    found = differences(result, spreads)
    loss = found["loss"]
    return Verdict(
        "the same" if not loss.sure else "worse" if loss.mean > 0 else "better",
        found["above_exact"].sigmas > SIGMAS,
        found["off_ledger"].sure,
        found["lost"].sigmas > SIGMAS,
    )


def tables(results: Sequence[Result]) -> str:
    """All that the page has of the numbers: how they were made, the table of verdicts, that of numbers, the figure."""
    first = results[0]
    numbers = sorted({len(one["runs"]) for one in results})
    seeds = "1 seed" if numbers == [1] else f"{' or '.join(map(str, numbers))} seeds"
    longest = max(run["cpu_seconds"] for one in results for run in one["runs"])
    apart = ", ".join(f"{value:.3f} in {name.replace('_', ' ')}" for name, value in spreads_of(results).items())
    return "\n".join(
        [
            f"{seeds}, {first['updates']} updates, {first['episodes']} held-out episodes each. Differences are in nats "
            "per step, the mean over the seeds; in brackets standard errors, on the seed where they are fewest (0 "
            f"where seeds disagree about the sign). Two sound runs are apart by {apart}. An exhibit takes "
            f"{longest:.0f} CPU seconds at most, its sound run and all that is measured included.",
            "",
            *_verdicts(results),
            "",
            *_summary(results),
            "",
            "![losses](bugs.png)",
            "",
            "Held-out curves are of a few of these episodes and one draw of the latents, the same at every update, so "
            "that a curve may lie off as a whole, as the control's does; the table has all episodes. `ring` trains "
            "with `loss.kl_warmup`: its training loss begins without the KL.",
            "",
            *_numbers(results),
        ]
    )


def sources() -> str:
    """Where each bug is known from."""
    lines = ["| bug | public threads | what is said there |", "| --- | --- | --- |"]
    for name, exhibit in EXHIBITS.items():
        if name != CONTROL:
            threads = ", ".join(map(_link, exhibit.threads)) or "no public thread known"
            lines.append(f"| `{name}`: {exhibit.words} | {threads} | {exhibit.said} |")
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
    spreads = spreads_of(results)
    for result in results:
        found, shown = verdict(result, spreads), differences(result, spreads)
        cells = [
            f"{found.loss}: {_cell(shown['loss'])}",
            _above(shown["above_exact"], result["runs"][0]["above_exact"][2], bold=found.above_exact),
            _cell(shown["off_ledger"], bold=found.off_ledger),
            _cell(shown["lost"], bold=found.lost),
        ]
        lines.append(f"| {_words(result)} | {' | '.join(cells)} |")
    return lines


def _numbers(results: Sequence[Result]) -> list[str]:
    lines = [
        "Below the exact evidence, and the width of the sandwich (means over the seeds, nats per step):",
        "",
        "| bug | world | seeds | sound: bound | its evidence | with the bug: bound | its evidence | sandwich |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        names = ("sound_bound", "sound_evidence", "bound", "evidence", "width")
        cells = [f"{statistics.mean(run[name][0] for run in result['runs']):.3f}" for name in names]
        world, seeds = EXHIBITS[result["bug"]].world, len(result["runs"])
        lines.append(f"| {_words(result)} | {world} | {seeds} | {' | '.join(cells)} |")
    return lines


def _summary(results: Sequence[Result]) -> list[str]:
    spreads = spreads_of(results)
    found = {one["bug"]: verdict(one, spreads) for one in results if one["bug"] != CONTROL}
    groups = {
        "No worse by its losses, and caught by evidence or ledger": [
            name for name, one in found.items() if not one.by_losses and one.by_evidence
        ],
        "Worse by its losses, and caught by evidence or ledger": [
            name for name, one in found.items() if one.by_losses and one.by_evidence
        ],
        "Worse by its losses alone": [name for name, one in found.items() if one.by_losses and not one.by_evidence],
        "Caught by none": [name for name, one in found.items() if not (one.by_losses or one.by_evidence)],
    }
    lines = [
        f"- {words}: {len(names)} of {len(found)}{': ' if names else ''}{', '.join(f'`{name}`' for name in names)}."
        for words, names in groups.items()
    ]
    for one in results:
        if one["bug"] == CONTROL:
            alarmed = verdict(one, spreads).by_losses or verdict(one, spreads).by_evidence
            lines.append(f"- The control, where nothing is wrong, is {'' if alarmed else 'not '}caught.")
    return lines


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


def _above(found: Difference, rows: int, *, bold: bool) -> str:
    if found.mean <= 0:
        return "no"
    return _cell(found, bold=bold) + (f" in the first {f'{rows} rows' if rows > 1 else 'row'}" if rows < ALL else "")


def _cell(found: Difference, *, bold: bool = False) -> str:
    text = f"{found.mean:+.3f} ({found.sigmas:.0f})"
    return f"**{text}**" if bold else text


def _link(thread: str) -> str:
    name, number = thread.split("#")
    return f"[{thread}]({THREADS}{name}/issues/{number})"
