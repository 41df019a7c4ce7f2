"""The evidence as a figure: estimates by particles, the gap and its certificate, curves along the episode."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.evaluation.evidence_report import ESTIMATORS, EvidenceReport, Steps
from worldmodel.evidence.estimate import Estimate
from worldmodel.report.figures import BASELINE, OPTIMISED, RAW, REWARD

TRUTH = "#000000"
NAMES = {"elbo": "ELBO", "iwae": "IWAE", "smc": "SMC"}
COLOURS = {"elbo": OPTIMISED, "iwae": REWARD, "smc": RAW}
CROWDED = 15  # times as wide as the gap, from where on a linear axis does not show the gap
QUIET = 0.02  # share of the rows at either end that may leave the picture


def evidence_figure(report: EvidenceReport) -> Figure:
    """Everything that was measured, on one page."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplot_mosaic([["estimates", "gap"], ["rows", "rows"], ["gap so far", "ess"]])
    draw_estimates(axes["estimates"], report)
    draw_gap(axes["gap"], report)
    draw_rows(axes["rows"], report.steps)
    draw_gap_so_far(axes["gap so far"], report)
    draw_ess(axes["ess"], report)
    for name, title in {
        "estimates": "Bound and estimates of the evidence",
        "gap": "Gap, and width of the sandwich",
        "rows": "Evidence of every row, and what the bound makes of it",
        "gap so far": "Gap of the rows so far",
        "ess": "Effective particles",
    }.items():
        axes[name].set_title(title, loc="left")
    figure.suptitle(
        f"Evidence of {report.episodes} held-out episodes ({report.rows:,} rows); particles from {report.proposal}"
    )
    return figure


def draw_estimates(axis: Axes, report: EvidenceReport) -> None:
    """ELBO, IWAE and SMC by particles, with the exact evidence; bars are standard errors over runs.

    The error over episodes is common to all, and much larger where episodes differ: it is in the tables.
    """
    particles = [one.particles for one in report.estimates]
    for name in ESTIMATORS:
        means = [getattr(one, name).mean for one in report.estimates]
        errors = np.nan_to_num([one.run_error[name] for one in report.estimates])
        axis.errorbar(particles, means, errors, fmt="o-", ms=4, capsize=3, color=COLOURS[name], label=NAMES[name])
    if report.exact is not None:
        axis.axhline(report.exact.mean, color=TRUTH, ls=":", lw=1.2, label="exact")
    _by_particles(axis, particles, "nats per step")
    axis.legend(framealpha=0.85, edgecolor="none", fontsize=8)  # the exact line can run behind it


def draw_gap(axis: Axes, report: EvidenceReport) -> None:
    """SMC - ELBO and the width of the sandwich by particles; bars are standard errors over episodes.

    A gap that is in doubt is an open circle.
    """
    particles = [one.particles for one in report.estimates]
    _errorbars(axis, particles, [one.gap for one in report.estimates], RAW, "gap, SMC $-$ ELBO")
    for one in report.estimates:
        if one.doubts:
            axis.plot(one.particles, one.gap.mean, "o", color=RAW, mfc="white", ms=6, zorder=5)
    _errorbars(axis, particles, [one.width for one in report.estimates], OPTIMISED, "width of the sandwich")
    if report.best.below_exact:
        missing = [one.below_exact["smc"] for one in report.estimates]
        _errorbars(axis, particles, missing, TRUTH, "exact $-$ SMC")
    _by_particles(axis, particles, "nats per step")
    _zero_and_scale(axis, [abs(one.gap.mean) for one in report.estimates], [one.width.mean for one in report.estimates])
    axis.legend(frameon=False, fontsize=8)


def draw_rows(axis: Axes, steps: Steps) -> None:
    """log p^(x_t | x_<t) beside the bound's contribution, reconstruction and -KL; a band of two standard errors."""
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
    _along(axis, "nats per step")
    axis.legend(frameon=False, fontsize=8, ncols=5, loc="lower right", bbox_to_anchor=(1, 0.99), borderaxespad=0)


def draw_gap_so_far(axis: Axes, report: EvidenceReport) -> None:
    """The gap of the first t rows, in nats, beside the width of the sandwich and the distance to the exact evidence."""
    steps = report.steps
    axis.plot(steps.gap_so_far, color=RAW, label="gap, SMC $-$ ELBO")
    axis.plot(steps.width_so_far, color=OPTIMISED, label="width of the sandwich, simulated episodes")
    if steps.exact is not None:
        axis.plot(np.cumsum(steps.exact - steps.evidence), color=TRUTH, ls=":", label="exact $-$ SMC")
    axis.legend(frameon=False, fontsize=8)
    _along(axis, "nats, summed")
    _zero_and_scale(axis, steps.gap_so_far, steps.width_so_far)


def draw_ess(axis: Axes, report: EvidenceReport) -> None:
    """Effective particles along the episode, as a share of all, with the share below which they are drawn anew."""
    axis.plot(report.steps.ess, color=RAW, label=f"of {report.best.particles} particles, mean over episodes")
    axis.axhline(report.threshold, color=BASELINE, ls="--", lw=0.8, label="drawn anew below this")
    axis.set_ylim(0, 1.02)
    _along(axis, "share of all particles")
    axis.legend(frameon=False, fontsize=8)


def _errorbars(axis: Axes, particles: list[int], estimates: Sequence[Estimate], colour: str, label: str) -> None:
    means, errors = np.array(estimates, np.float64).T
    axis.errorbar(particles, means, np.nan_to_num(errors), fmt="o-", ms=4, capsize=3, color=colour, label=label)


def _zero_and_scale(axis: Axes, gap: Sequence[float] | np.ndarray, width: Sequence[float] | np.ndarray) -> None:
    """A line at zero, and a scale on which both can be seen."""
    axis.axhline(0, color=BASELINE, lw=0.8)
    largest, widest = np.nanmax(gap), np.nanmax(width)
    if widest > CROWDED * largest > 0:
        lowest = min(0.0, np.nanmin(gap), np.nanmin(width))
        axis.set_yscale("symlog", linthresh=largest)
        axis.set_ylim(bottom=lowest - 0.1 * largest)
        axis.yaxis.set_major_formatter("{x:g}")


def _by_particles(axis: Axes, particles: list[int], y_label: str) -> None:
    axis.set_xscale("log")
    axis.set_xticks(particles, [str(count) for count in particles])
    axis.minorticks_off()
    axis.margins(x=0.12)
    _finish(axis, "particles", y_label)


def _along(axis: Axes, y_label: str) -> None:
    axis.margins(x=0.01)
    _finish(axis, "steps since the reset", y_label)


def _finish(axis: Axes, x_label: str, y_label: str) -> None:
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _without_outliers(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits that hold most of every curve: the first rows of an episode can lie far below all others."""
    ends = [np.nanquantile(curve, [QUIET, 1 - QUIET]) for curve in curves]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    room = 0.08 * (high - low) + 1e-6
    return low - room, high + room
