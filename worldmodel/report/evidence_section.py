"""The evidence on a run's page: the rough gap over training, and what `worldmodel evidence` measured."""

from functools import partial

from worldmodel.evaluation.evidence_report import EvidenceReport
from worldmodel.report import charts, tables
from worldmodel.report import evidence as draw
from worldmodel.report import vocabulary as say
from worldmodel.report.charts import Drawn
from worldmodel.report.document import TALL, WIDE, Block, Chart, Panels, Rows, Text, chart
from worldmodel.report.formats import with_error
from worldmodel.report.record import Record
from worldmodel.report.vocabulary import RAW, UPDATES, Look

ESTIMATES_NOTE = "Nats per step; standard errors over episodes, the gap's paired."
TERMS_NOTE = (
    "The bound's terms under the posterior, SMC's under the particles; the KL of SMC is between its own beliefs."
)


def evidence(record: Record) -> list[Block]:
    """What is known of the evidence, and so of the gap; nothing where it was never looked at."""
    drawn, report = _rough(record), record.evidence
    rough: list[Block] = [Panels(drawn)] if drawn else []
    if report is None:
        words, after = "Few particles, the beginnings of few episodes. ", " measures it in full."
        return [*rough, Text(words, "worldmodel evidence RUN", after)] if rough else []
    doubts = [Text(f"{doubt[0].upper() + doubt[1:]}.", look="warning") for doubt in report.best.doubts]
    blocks: list[Block] = [Text(summary(report)), *doubts, Rows(tables.estimates(report), ESTIMATES_NOTE)]
    if report.exact is not None:
        exact = f"The environment states its law: exactly {with_error(report.exact)} nats per step."
        blocks.append(Rows(tables.distances_from_exact(report), f"{exact} Differences are paired."))
    return [*blocks, Rows(tables.terms(report), TERMS_NOTE), Panels(_charts(report)), *rough]


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
    gap = with_error(best.gap)
    return f"{how}With {best.particles} particles the bound is at least {gap} nats per step below the evidence."


def _charts(report: EvidenceReport) -> list[Chart]:
    return [_chart(name, report, wide=name == "rows") for name in draw.CHARTS]


def _chart(name: str, report: EvidenceReport, wide: bool) -> Chart:
    size = WIDE if wide else TALL
    return chart(say.EVIDENCE[name], lambda axis: draw.CHARTS[name](axis, report), size, wide=wide)


def _rough(record: Record) -> list[Chart]:
    """The rough gap over training."""
    curves = {name: record.column(f"heldout_evidence/{name}") for name in say.ROUGH}
    if not len(curves["gap"].x):
        return []
    return [
        chart(said, partial(charts.draw_curves, curves=[drawn], x_label=UPDATES, y_label=said.unit))
        for name, said in say.ROUGH.items()
        for drawn in [Drawn(Look(name, RAW, marker="o"), *curves[name])]
    ]
