"""The evidence on a run's page: the rough gap over training, and what `worldmodel evidence` measured."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.evaluation.evidence_report import EvidenceReport
from worldmodel.report import evidence as draw
from worldmodel.report import panels, tables
from worldmodel.report.markup import Html, figure, join, table, tag
from worldmodel.report.panels import Drawn
from worldmodel.report.record import Record
from worldmodel.report.sections import PER_STEP, svg

ESTIMATES_NOTE = "Nats per step; standard errors over episodes, the gap's paired."
TERMS_NOTE = (
    "The bound's terms under the posterior, SMC's under the particles; the KL of SMC is between its own beliefs."
)
GAP = "Evidence minus bound is how far the posterior is from the exact one. "


def evidence(record: Record) -> Html | None:
    """What is known of the evidence, and so of the gap; nothing where it was never looked at."""
    rough, report = _rough(record), record.evidence
    if report is None:
        hint = tag("p", "Few particles, the beginnings of few episodes. ", tag("code", "worldmodel evidence RUN"))
        return join([rough, join([hint, " measures it in full."])]) if rough else None
    doubts = [tag("p", f"{doubt[0].upper() + doubt[1:]}.", class_="warning") for doubt in report.best.doubts]
    parts = [tag("p", summary(report)), *doubts, _noted(tables.estimates(report), ESTIMATES_NOTE)]
    if report.exact is not None:
        exact = f"The environment states its law: exactly {tables.with_error(report.exact)} nats per step."
        parts.append(_noted(tables.distances_from_exact(report), f"{exact} Differences are paired."))
    parts += [_noted(tables.terms(report), TERMS_NOTE), *_figures(report)]
    return join([*parts, *([rough] if rough else [])])


def summary(report: EvidenceReport) -> str:
    """How it was measured, and the gap, in a few sentences."""
    best = report.best
    chosen = f", which did best on {report.chosen_on} training episodes" if report.chosen_on else ""
    how = (
        f"{report.episodes} held-out episodes of {report.rows:,} rows, {report.runs} runs of every estimate; particles "
        f"from {report.proposal}{chosen}; the sandwich on {report.simulated} episodes that the model simulated. "
    )
    if best.doubts:
        return f"{how}With {best.particles} particles the gap is in doubt, so none is given."
    gap = tables.with_error(best.gap)
    return f"{how}With {best.particles} particles the bound is at least {gap} nats per step below the evidence."


def _noted(shown: tables.Table, note: str) -> Html:
    return join([table(*shown), tag("p", note, class_="unit")])


def _figures(report: EvidenceReport) -> list[Html]:
    drawings: tuple[tuple[str, str, Callable[[Axes], None], str], ...] = (
        (
            "By particles",
            "The bound does not move. The other two rise to the evidence; bars are standard errors over runs.",
            lambda axis: draw.draw_estimates(axis, report),
            "estimates",
        ),
        (
            "Gap and certificate",
            GAP + "It counts for little unless the sandwich is much narrower; open circles are in doubt.",
            lambda axis: draw.draw_gap(axis, report),
            "gap",
        ),
        (
            "Gap of the rows so far",
            "Where in an episode the gap opens, and where the sandwich does.",
            lambda axis: draw.draw_gap_so_far(axis, report),
            "gap so far",
        ),
        (
            "Effective particles",
            "Near zero, a single particle stands for all: the estimate is too low there.",
            lambda axis: draw.draw_ess(axis, report),
            "ess",
        ),
    )
    small = [figure(_svg(paint, name, (3.9, 2.8)), title, caption) for title, caption, paint, name in drawings]
    along = _svg(lambda axis: draw.draw_rows(axis, report.steps), "rows", (11, 3.1))
    caption = "Means over held-out episodes; the band is two standard errors. Dips are rows that nobody foresaw."
    return [tag("div", *small, figure(along, "Along the episode", caption, "wide"), class_="panels")]


def _svg(paint: Callable[[Axes], None], name: str, size: tuple[float, float]) -> Html:
    drawn = Figure(figsize=size, layout="constrained")
    paint(drawn.subplots())
    return svg(drawn, f"evidence {name}", name)


def _rough(record: Record) -> Html | None:
    """The rough gap over training."""
    gap, ess = (record.column(f"heldout_evidence/{name}") for name in ("gap", "ess"))
    if not len(gap.x):
        return None
    found = [
        figure(
            svg(panels.panel([Drawn(label, *curve, marker="o")], "updates", unit), f"rough {label}", label),
            title,
            caption,
        )
        for label, curve, unit, title, caption in (
            ("gap", gap, PER_STEP, "Rough gap over training", f"{GAP}With few particles it comes out too small."),
            ("ess", ess, "share of all particles", "Effective particles over training", "Of the rough estimate."),
        )
    ]
    return tag("div", *found, class_="panels")
