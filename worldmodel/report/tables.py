"""The tables of evidence, gap and rate as text: a page shows them as HTML, a command in the terminal.

A table is a header and rows, the first column naming the rows. Everything is in nats per step.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worldmodel.evaluation.evidence_report import ESTIMATORS, EvidenceReport
from worldmodel.evidence.estimate import Estimate
from worldmodel.evidence.gap import GapDecomposition
from worldmodel.evidence.rate import Rate
from worldmodel.report.markup import number

IN_DOUBT = "in doubt"
TERM_NAMES = {"elbo": "ELBO", "kl": "KL"}  # every other term of the bound is a log-likelihood


class Table(NamedTuple):
    """What a table holds, as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def transposed(self) -> "Table":
        """Columns as rows, for where there is less width than height."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        return Table(header, rows)


def with_error(estimate: Estimate) -> str:
    """A mean with its standard error: 0.1410 ± 0.0040."""
    return f"{number(estimate.mean, 4)} ± {number(estimate.error, 4)}"


def term_name(term: str) -> str:
    """A term of the bound in words: `elbo` and `kl` are what they say, everything else is a log-likelihood."""
    return TERM_NAMES.get(term, f"log p({term})")


def estimates(report: EvidenceReport) -> Table:
    """Bound, estimates, gap and certificate by number of particles."""
    rows = []
    for one in report.estimates:
        values = [with_error(getattr(one, name)) for name in ESTIMATORS]
        gap = IN_DOUBT if one.doubts else with_error(one.gap)
        over_runs = (f"± {number(one.run_error['smc'], 4)}",) if report.runs > 1 else ()
        width, degenerate = with_error(one.width), f"{one.degenerate_rows:.1%}"
        rows.append((str(one.particles), *values, *over_runs, gap, width, degenerate))
    names = (*map(str.upper, ESTIMATORS), *(("SMC over runs",) if report.runs > 1 else ()))
    header = ("particles", *names, "gap", "width of the sandwich", "degenerate steps")
    return Table(header, rows)


def distances_from_exact(report: EvidenceReport) -> Table:
    """How far bound and estimates are below the exact evidence, by number of particles."""
    rows = [
        (str(one.particles), *(with_error(one.below_exact[name]) for name in ESTIMATORS)) for one in report.estimates
    ]
    return Table(("particles", *(f"exact − {name.upper()}" for name in ESTIMATORS)), rows)


def terms(report: EvidenceReport) -> Table:
    """The terms of the bound and of SMC with the most particles, and how much of SMC's is due to each variable."""
    rows = [
        (term_name(name), number(term.bound), number(term.filtered), str(term.variables), number(each))
        for name, term in report.terms.items()
        for each in [term.filtered / term.variables]
    ]
    rows.append(("− KL", number(-report.kl), number(-report.information), "", ""))
    elbo, smc = report.best.elbo.mean, report.best.smc.mean
    rows.append(("sum", number(elbo), number(smc), str(report.variables), number(smc / report.variables)))
    return Table(("nats per step", "bound", "SMC", "variables", "SMC, per variable"), rows)


def gap(found: GapDecomposition) -> Table:
    """The bounds, the log evidence, and the parts of the gap; the parts that are in doubt have no number."""
    levels, parts = found.levels(), found.parts()
    titles = {
        **({"ELBO, q as trained": levels["trained"]} if "trained" in levels else {}),
        "ELBO, filtering q": levels["filtering"],
        "ELBO, smoothing q": levels["smoothing"],
        "ELBO, refined q": levels["refined"],
        "log evidence": levels["log_evidence"],
        "filtering: the future not seen": parts["filtering"],
        "amortisation: one network for all": parts["amortisation"],
        "family: what no such q has": parts["family"],
        "gap": parts["gap"],
    }
    doubtful = {"family: what no such q has", "gap"} if found.doubts else set()
    rows = [(title, IN_DOUBT if title in doubtful else with_error(value)) for title, value in titles.items()]
    return Table(("", "nats per step"), rows)


def rate(found: Rate) -> Table:
    """The rate and its parts, each bounded from below and from above."""
    part = {name: with_error(estimate) for name, estimate in found.parts().items()}
    rows = [
        ("rate", part["rate"], part["rate"]),
        ("information that q keeps", part["information_low"], part["information_high"]),
        ("misfit of the prior", part["misfit_low"], part["misfit_high"]),
    ]
    return Table(("nats per step", "from below", "from above"), rows)
