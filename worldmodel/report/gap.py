"""The decomposition of the gap and of the rate as a part of a run's page."""

from worldmodel.evaluation.decomposed import Decomposed, StoredRate
from worldmodel.report import tables
from worldmodel.report.document import Block, TableBlock, Text
from worldmodel.report.record import Record

PARTS_NOTE = (
    "Filtering, amortisation and family sum to the gap; errors are those of differences within episodes. A smoothing "
    "posterior that was trained too shortly makes filtering too small, and amortisation too large by as much."
)
RATE_NOTE = "The rate is the KL of the bound: information that q keeps, and what the prior pays beside it."


def gap(record: Record) -> list[Block]:
    """Where the gap comes from, and what the rate is made of; nothing where it was never decomposed."""
    found = record.gap
    if found is None:
        return []
    doubts = tables.doubts(found.certificate) if found.certificate else ()
    return [
        Text(_sentence(found)),
        *(Text(f"The gap is in doubt: {reason}.", look="warning") for reason in doubts),
        TableBlock(tables.gap(found.levels, found.parts, found.certificate), PARTS_NOTE),
        *_rate(found.first_row, first=True, exact=found.exact),
        *(_rate(found.every_row, first=False, exact=found.exact) if found.every_row else []),
    ]


def _sentence(found: Decomposed) -> str:
    return (
        f"The gap decomposed, on {found.episodes} held-out episodes of {found.rows:,} steps: two posteriors, one that "
        "filters and one that smooths, were trained equally long against the frozen model, and the second was then "
        "refined on each episode."
    )


def _rate(found: StoredRate, *, first: bool, exact: bool) -> list[Block]:
    heading = tables.rate_heading(found.alternatives, first=first, exact=exact)
    near = f" {tables.SATURATED[0].upper()}{tables.SATURATED[1:]}." if found.saturated else ""
    return [TableBlock(tables.rate(found.parts), f"{heading[0].upper()}{heading[1:]}. {RATE_NOTE}{near}")]
