"""The evidence as a figure and as a section of a run's page: estimates, gap and certificate, curves along episodes."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.evaluation.evidence import ESTIMATORS, EvidenceReport
from worldmodel.report import charts, tables, vocabulary
from worldmodel.report.charts import Drawn, name_axes
from worldmodel.report.document import TALL, WIDE, Block, Chart, Panels, TableBlock, Text, chart
from worldmodel.report.formats import with_error
from worldmodel.report.record import Record
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW, REWARD, TRUTH, UPDATES, LineStyle

ESTIMATES_NOTE = "Nats per step; standard errors over episodes, the gap's paired."
TERMS_NOTE = (
    "The bound's terms under the posterior, SMC's under the particles; the KL of SMC is between its own beliefs."
)
CROWDED = 15  # times as wide as the gap, from where on a linear axis does not show the gap
QUIET = 0.02  # share of the steps, at the top and at the bottom, that may lie outside the picture


def evidence_figure(report: EvidenceReport) -> Figure:
    """Everything that was measured, on one page."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplot_mosaic([["estimates", "gap"], ["rows", "rows"], ["gap so far", "ess"]])
    for name, draw in CHARTS.items():
        draw(axes[name], report)
        axes[name].set_title(vocabulary.EVIDENCE[name].title, loc="left")
    figure.suptitle(
        f"Evidence of {report.episodes} held-out episodes ({report.rows:,} steps); particles from {report.proposal}"
    )
    return figure


def draw_estimates(axis: Axes, report: EvidenceReport) -> None:
    """ELBO, IWAE and SMC by particles, with the exact evidence; bars are standard errors over runs.

    The error over episodes is common to all, and much larger where episodes differ: it is in the tables.
    """
    particles = [one.particles for one in report.estimates]
    for name in ESTIMATORS:
        means = [getattr(one, name).mean for one in report.estimates]
        errors = [one.run_error[name] for one in report.estimates]
        _errorbars(axis, particles, list(zip(means, errors, strict=True)), vocabulary.ESTIMATORS[name])
    if report.exact is not None:
        axis.axhline(report.exact.mean, color=TRUTH, ls=":", lw=1.2, label="exact")
    _by_particles(axis, particles, "estimates")
    axis.legend(framealpha=0.85, edgecolor="none", fontsize="small")  # the exact line can run behind it


def draw_gap(axis: Axes, report: EvidenceReport) -> None:
    """SMC - ELBO and the width of the sandwich by particles; bars are standard errors over episodes.

    A gap that is in doubt is an open circle.
    """
    particles = [one.particles for one in report.estimates]
    _errorbars(axis, particles, [one.gap for one in report.estimates], vocabulary.GAP)
    for one in report.estimates:
        if one.doubts:
            axis.plot(one.particles, one.gap.mean, "o", color=RAW, mfc="white", ms=6, zorder=5)
    _errorbars(axis, particles, [one.width for one in report.estimates], vocabulary.WIDTH)
    if report.best.below_exact:
        missing = [one.below_exact["smc"] for one in report.estimates]
        _errorbars(axis, particles, missing, vocabulary.MISSING)
    _by_particles(axis, particles, "gap")
    _zero_and_scale(axis, [abs(one.gap.mean) for one in report.estimates], [one.width.mean for one in report.estimates])
    axis.legend(frameon=False, fontsize="small")


def draw_rows(axis: Axes, report: EvidenceReport) -> None:
    """log p^(x_t | x_<t) beside the bound's contribution, reconstruction and -KL; a band of two standard errors."""
    steps = report.steps
    t = np.arange(len(steps.evidence))
    low, high = steps.evidence - 2 * steps.evidence_error, steps.evidence + 2 * steps.evidence_error
    axis.fill_between(t, low, high, color=RAW, alpha=0.15, lw=0)
    axis.plot(t, steps.reconstruction, color=REWARD, lw=1.0, label="reconstruction")
    axis.plot(t, -steps.kl, color=BASELINE, lw=1.0, label="$-$KL")
    axis.plot(t, steps.bound, color=OPTIMISED, lw=1.0, label="bound, their sum")
    axis.plot(t, steps.evidence, color=RAW, lw=1.4, label="evidence, SMC")
    if steps.exact is not None:
        axis.plot(t, steps.exact, color=TRUTH, ls=":", lw=1.2, label="evidence, exact")
    axis.set_ylim(*_without_outliers([steps.evidence, steps.reconstruction, -steps.kl, steps.bound]))
    _along(axis, "rows")
    axis.legend(frameon=False, fontsize="small", ncols=5, loc="lower right", bbox_to_anchor=(1, 0.99), borderaxespad=0)


def draw_gap_so_far(axis: Axes, report: EvidenceReport) -> None:
    """The gap of the first t steps in nats, beside the width of the sandwich and the distance to the exact evidence."""
    steps = report.steps
    axis.plot(steps.gap_so_far, color=vocabulary.GAP.colour, label=vocabulary.GAP.name)
    axis.plot(steps.width_so_far, color=vocabulary.WIDTH.colour, label=f"{vocabulary.WIDTH.name}, simulated episodes")
    if steps.exact is not None:
        axis.plot(
            np.cumsum(steps.exact - steps.evidence),
            color=vocabulary.MISSING.colour,
            ls=":",
            label=vocabulary.MISSING.name,
        )
    axis.legend(frameon=False, fontsize="small")
    _along(axis, "gap so far")
    _zero_and_scale(axis, steps.gap_so_far, steps.width_so_far)


def draw_ess(axis: Axes, report: EvidenceReport) -> None:
    """Effective particles along the episode, as a share of all, with the share below which they are resampled."""
    axis.plot(report.steps.ess, color=RAW, label=f"of {report.best.particles} particles, mean over episodes")
    axis.axhline(report.threshold, color=BASELINE, ls="--", lw=0.8, label="resampled below this")
    axis.set_ylim(0, 1.02)
    _along(axis, "ess")
    axis.legend(frameon=False, fontsize="small")


CHARTS: dict[str, Callable[..., None]] = {  # by name, as `vocabulary.EVIDENCE` has them
    "estimates": draw_estimates,
    "gap": draw_gap,
    "gap so far": draw_gap_so_far,
    "ess": draw_ess,
    "rows": draw_rows,
}


def evidence(record: Record) -> list[Block]:
    """What is known of the evidence, and so of the gap; nothing where it was never looked at."""
    drawn, report = _rough(record), record.evidence
    rough: list[Block] = [Panels(drawn)] if drawn else []
    if report is None:
        words, after = "Few particles, the beginnings of few episodes. ", " measures it in full."
        return [*rough, Text(words, "worldmodel evidence RUN", after)] if rough else []
    reasons = tables.doubts(report.best.certificate)
    doubts = [Text(f"{reason[0].upper() + reason[1:]}.", look="warning") for reason in reasons]
    blocks: list[Block] = [
        Text(evidence_sentences(report)),
        *doubts,
        TableBlock(tables.estimates(report), ESTIMATES_NOTE),
        *([Text(words)] if (words := tables.weights(report)) else []),
    ]
    for one in report.parts:
        blocks += [
            Text(f"Steps {one.first} to {one.last}: {reason}.", look="warning")
            for reason in tables.doubts(one.certificate)
        ]
    if report.parts:
        blocks.append(TableBlock(tables.parts(report), tables.certified(report)))
    if report.exact is not None:
        exact = f"The environment states its law: exactly {with_error(report.exact)} nats per step."
        blocks.append(TableBlock(tables.distances_from_exact(report), f"{exact} Differences are paired."))
    return [*blocks, TableBlock(tables.terms(report), TERMS_NOTE), Panels(_charts(report)), *rough]


def evidence_sentences(report: EvidenceReport) -> str:
    """How it was measured, and the gap, in a few sentences."""
    best = report.best
    chosen = f", which did best on {report.chosen_on} training episodes" if report.chosen_on else ""
    how = (
        f"{report.episodes} held-out episodes of {report.rows:,} steps, {report.runs} runs of every estimate; "
        f"particles from {report.proposal}{chosen}; "
        f"the sandwich on {report.simulated} episodes that the model simulated. "
    )
    if best.doubts:
        return f"{how}With {best.particles} particles the gap is in doubt, so none is given."
    gap = with_error(best.gap)
    return f"{how}With {best.particles} particles the bound is at least {gap} nats per step below the evidence."


def _charts(report: EvidenceReport) -> list[Chart]:
    """Every chart of a measurement; the one along the episode is wide."""
    return [
        chart(vocabulary.EVIDENCE[name], partial(draw, report=report), WIDE if wide else TALL, wide=wide)
        for name, draw in CHARTS.items()
        for wide in [name == "rows"]
    ]


def _rough(record: Record) -> list[Chart]:
    """The rough gap over training."""
    curves = {name: record.column(f"heldout_evidence/{name}") for name in vocabulary.ROUGH}
    if not len(curves["gap"].x):
        return []
    return [
        chart(wording, partial(charts.draw_curves, curves=[drawn], x_label=UPDATES, y_label=wording.unit))
        for name, wording in vocabulary.ROUGH.items()
        for drawn in [Drawn(LineStyle(name, RAW, marker="o"), *curves[name])]
    ]


def _errorbars(axis: Axes, particles: list[int], estimates: Sequence[tuple[float, float]], look: LineStyle) -> None:
    means, errors = np.array(estimates, np.float64).T
    errors = np.nan_to_num(errors)
    axis.errorbar(particles, means, errors, fmt="o-", ms=4, capsize=3, color=look.colour, label=look.name)


def _zero_and_scale(axis: Axes, gap: Sequence[float] | np.ndarray, width: Sequence[float] | np.ndarray) -> None:
    """A line at zero, and a scale on which both can be seen."""
    axis.axhline(0, color=BASELINE, lw=0.8)
    largest, widest = np.nanmax(gap), np.nanmax(width)
    if widest > CROWDED * largest > 0:
        lowest = min(0.0, np.nanmin(gap), np.nanmin(width))
        axis.set_yscale("symlog", linthresh=largest)
        axis.set_ylim(bottom=lowest - 0.1 * largest)
        axis.yaxis.set_major_formatter("{x:g}")


def _by_particles(axis: Axes, particles: list[int], chart: str) -> None:
    axis.set_xscale("log")
    axis.set_xticks(particles, [str(count) for count in particles])
    axis.minorticks_off()
    axis.margins(x=0.12)
    name_axes(axis, "particles", vocabulary.EVIDENCE[chart].unit)


def _along(axis: Axes, chart: str) -> None:
    axis.margins(x=0.01)
    name_axes(axis, vocabulary.SINCE_RESET, vocabulary.EVIDENCE[chart].unit)


def _without_outliers(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits that hold most of every curve: the first steps of an episode can lie far below all others."""
    ends = [np.nanquantile(curve, [QUIET, 1 - QUIET]) for curve in curves]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    room = 0.08 * (high - low) + 1e-6
    return low - room, high + room
