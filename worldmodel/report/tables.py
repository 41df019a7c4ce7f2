"""The tables of evidence, gap and rate as text, and the doubts about a gap in words, for pages and the terminal alike.

A table is a header and rows, the first column naming the rows. Everything is in nats per step.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worldmodel.evaluation.evidence import ESTIMATORS, EvidenceReport
from worldmodel.evidence.estimate import DEGENERATE_ROWS, LEAST_ESS, Certificate, Doubt
from worldmodel.evidence.gap import GapDecomposition
from worldmodel.evidence.rate import Rate
from worldmodel.report import vocabulary
from worldmodel.report.formats import number, with_error
from worldmodel.report.vocabulary import IN_DOUBT, PER_STEP


class Table(NamedTuple):
    """What a table holds, as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def transposed(self) -> "Table":
        """Columns as rows, for where there is less width than height."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        return Table(header, rows)


def estimates(report: EvidenceReport) -> Table:
    """Bound, estimates, gap and certificate by number of particles."""
    rows = []
    for one in report.estimates:
        values = [with_error(getattr(one, name)) for name in ESTIMATORS]
        gap = IN_DOUBT if one.doubts else with_error(one.gap)
        over_runs = (f"± {number(one.run_error['smc'], 4)}",) if report.runs > 1 else ()
        width, degenerate = with_error(one.width), f"{one.degenerate_rows:.1%}"
        rows.append((str(one.particles), *values, *over_runs, gap, width, degenerate))
    names = (
        *(vocabulary.ESTIMATORS[name].name for name in ESTIMATORS),
        *(("SMC over runs",) if report.runs > 1 else ()),
    )
    header = ("particles", *names, "gap", vocabulary.WIDTH.name, "degenerate steps")
    return Table(header, rows)


def doubts(certificate: Certificate) -> tuple[str, ...]:
    """Why a gap is not printed, in words; empty where it is."""
    gap, width = certificate.gap, certificate.width
    words = {
        Doubt.DEGENERATE: (
            f"fewer than {LEAST_ESS:g} particles are effective after {certificate.degenerate_rows:.1%} of the steps "
            f"(at most {DEGENERATE_ROWS:.0%} may be so)"
        ),
        Doubt.WIDE: (
            f"the sandwich is {width.mean:.2g} ± {width.error:.2g} nats per step wide; beside a gap of {gap.mean:.2g} "
            f"neither its width nor the error of that may be more than {certificate.widest:.2g}"
        ),
        Doubt.NEGATIVE: (f"SMC lies {-gap.mean:.2g} nats per step below the ELBO: more particles, or rarer resampling"),
    }
    return tuple(words[doubt] for doubt in certificate.doubts)


def distances_from_exact(report: EvidenceReport) -> Table:
    """How far bound and estimates are below the exact evidence, by number of particles."""
    rows = [
        (str(one.particles), *(with_error(one.below_exact[name]) for name in ESTIMATORS)) for one in report.estimates
    ]
    return Table(("particles", *(f"exact − {vocabulary.ESTIMATORS[name].name}" for name in ESTIMATORS)), rows)


def terms(report: EvidenceReport) -> Table:
    """The terms of the bound and of SMC with the most particles, and how much of SMC's is due to each variable."""
    rows = [
        (vocabulary.term(name).name, number(term.bound), number(term.filtered), str(term.variables), number(each))
        for name, term in report.terms.items()
        for each in [term.filtered / term.variables]
    ]
    rows.append(("− KL", number(-report.kl), number(-report.information), "", ""))
    elbo, smc = report.best.elbo.mean, report.best.smc.mean
    rows.append(("sum", number(elbo), number(smc), str(report.variables), number(smc / report.variables)))
    return Table((PER_STEP, "bound", "SMC", "variables", "SMC, per variable"), rows)


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
    return Table(("", PER_STEP), rows)


def rate(found: Rate) -> Table:
    """The rate and its parts, each bounded from below and from above."""
    part = {name: with_error(estimate) for name, estimate in found.parts().items()}
    rows = [
        ("rate", part["rate"], part["rate"]),
        ("information that q keeps", part["information_low"], part["information_high"]),
        ("misfit of the prior", part["misfit_low"], part["misfit_high"]),
    ]
    return Table((PER_STEP, "from below", "from above"), rows)
