"""Tables as text, and the doubts about a gap in words: a page shows them as HTML, a command in the terminal.

A table is a header and rows; its first column names the rows. Numbers are in nats per step unless the table says
otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from worldmodel.evaluation.evidence import ESTIMATORS, EvidenceReport
from worldmodel.evaluation.held_out import Evaluation
from worldmodel.evaluation.open_loop import OpenLoopError
from worldmodel.evaluation.scores import Scores
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.evidence.estimate import DEGENERATE_ROWS, LEAST_ESS, Certificate, Doubt, Estimate
from worldmodel.evidence.reliability import UNRELIABLE
from worldmodel.report import vocabulary
from worldmodel.report.formats import counted, number, several, with_error
from worldmodel.report.vocabulary import IN_DOUBT, PER_STEP

INTERVAL = "90 % interval"
CALIBRATION_NOTE = (
    "Of numbers, which have intervals. More than 0.9 is as much out of line as less; intervals that are as wide as the "
    "floor of the standard deviations hold whatever is known better than that."
)


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


def parts(report: EvidenceReport) -> Table:
    """Bound, estimate, gap and certificate of the first steps, and of those after them."""
    rows = [
        (
            f"{one.first} to {one.last}",
            *(with_error(getattr(one, name)) for name in ("elbo", "smc")),
            IN_DOUBT if one.doubts else with_error(one.gap),
            with_error(one.width),
            f"{one.degenerate_rows:.1%}",
            str(one.episodes),
        )
        for one in report.parts
    ]
    names = (vocabulary.ESTIMATORS[name].name for name in ("elbo", "smc"))
    return Table(("steps", *names, "gap", vocabulary.WIDTH.name, "degenerate steps", "episodes"), rows)


def certified(report: EvidenceReport) -> str:
    """What the certificates of the parts certify and what not, and where their particles come from."""
    first, *later = report.parts
    drawn = "the first from a reset, the nearest of many to the recorded one"
    left_open = "recorded steps that are unlike the model's own"
    if later:
        drawn += ", the later ones from the state that one draw of the posterior left after recorded steps"
        left_open = f"other states after those steps, nor {left_open}"
    sources = "; ".join(f"steps {one.first} to {one.last} from {one.proposal}" for one in report.parts)
    return (
        "The sandwich is an upper limit of how far, in the mean, SMC lies below the log evidence of steps that the "
        f"model draws itself under the recorded actions ({drawn}); it does not certify {left_open}. "
        f"{first.particles} particles: {sources}."
    )


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


def remedy(report: EvidenceReport) -> str:
    """What may remove the doubts about gaps; empty where there are none, or too many steps lose their particles."""
    doubtful = [one.certificate for one in (report.best, *report.parts) if one.doubts]
    if not doubtful or max(one.degenerate_rows for one in doubtful) > BEYOND_HELP:
        return ""
    return f"more particles may remove the doubt: --particles {8 * report.best.particles}"


def weights(report: EvidenceReport) -> str:
    """What the tails of the weights say of the estimate with the most particles; empty where that is not known."""
    best = report.best
    if math.isnan(best.pareto_k):
        return ""
    return (
        f"Pareto k of the weights of {best.particles} particles: {best.pareto_k:.2f} after the median step, and more "
        f"than {UNRELIABLE:g}, where averages of them are unreliable, after {best.heavy_rows:.1%} of the steps."
    )


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


def gap(levels: Mapping[str, Estimate], parts: Mapping[str, Estimate], certificate: Certificate | None) -> Table:
    """The bounds, the log evidence, and the parts of the gap; the parts that are in doubt have no number."""
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
    doubtful = {"family: what no such q has", "gap"} if certificate and certificate.doubts else set()
    rows = [(title, IN_DOUBT if title in doubtful else with_error(value)) for title, value in titles.items()]
    return Table(("", PER_STEP), rows)


def held_out(evaluation: Evaluation, floors: Mapping[str, Tensor]) -> Table:
    """The bound and its terms, the KL of every step, images in bits, and the floors of the standard deviations."""
    rows = [(vocabulary.term(name).name, f"{value:.4f}") for name, value in evaluation.per_step.items()]
    rows += [(f"KL, {vocabulary.kl_summary(name)}", f"{value:.4f}") for name, value in evaluation.kl.summary.items()]
    rows += [(vocabulary.bits(name), f"{bits:.4f}") for name, bits in evaluation.bits_per_dimension.items()]
    rows += [(f"{name}, floor of the std", several(floor.tolist())) for name, floor in floors.items()]
    return Table(("held-out", PER_STEP), rows)


def open_loop(errors: Mapping[str, OpenLoopError]) -> Table:
    """The open-loop errors of every leaf at a few horizons."""
    methods = (look.name for look in vocabulary.OPEN_LOOP_METHODS.values())
    rows = [
        (name, str(h), *(f"{error[h - 1]:.4f}" for error in by_method))
        for name, by_method in errors.items()
        for h in few_horizons(len(by_method.model))
    ]
    return Table((vocabulary.OPEN_LOOP.unit, vocabulary.AHEAD, *methods), rows)


def imagination(leaf: str, metrics: Mapping[str, Mapping[str, Band]], horizon: int) -> Table:
    """The scores of one leaf, the model's with intervals: a row for each metric, and in it a line for each horizon."""
    names = {name: look.name for name, look in vocabulary.METHODS.items()}
    header = (leaf, "ahead", names.pop("model"), INTERVAL, *names.values())
    rows = []
    for metric, methods in metrics.items():
        lines = []
        for h in few_horizons(horizon):
            mean, low, high = _at(methods.get("model"), h)
            baselines = (_at(methods.get(name), h)[0] for name in names)
            lines.append((str(h), mean, f"{low} to {high}" if low else "", *baselines))
        rows.append((vocabulary.score(metric).unit, *("\n".join(column) for column in zip(*lines, strict=True))))
    return Table(header, rows)


def calibration(scores: Scores) -> Table:
    """How often what happened lies in 90 % intervals, and for how long imagination beats the marginal, by leaf."""
    ahead = few_horizons(scores.horizon)
    rows = []
    for leaf, metrics in scores.scores.items():
        covered = metrics.get("coverage", {}).get("model")
        shares = [_at(covered, h)[0] for h in ahead]
        until = scores.better_until(leaf)
        words = "" if until is None else f"all {until}" if until == scores.horizon else str(until)
        if words or any(shares):
            rows.append((leaf, *shares, words))
    return Table(("inside 90 % intervals", *(f"{h} ahead" for h in ahead), "steps better than the marginal"), rows)


def few_horizons(longest: int) -> list[int]:
    """The horizons that a table shows: 1, a quarter of the longest, a half, and the longest."""
    return sorted({1, longest // 4, longest // 2, longest} - {0})


def _at(band: Band | None, h: int) -> tuple[str, ...]:
    """Mean, low and high at a horizon; empty where there is none, or it is not finite."""
    values = (math.nan,) * 3 if band is None else (float(x[h - 1]) for x in band)
    return tuple(f"{value:.3g}" if math.isfinite(value) else "" for value in values)


def rate(parts: Mapping[str, Estimate]) -> Table:
    """The rate and its parts, each bounded from below and from above."""
    part = {name: with_error(estimate) for name, estimate in parts.items()}
    rows = [
        ("rate", part["rate"], part["rate"]),
        ("information that q keeps", part["information_low"], part["information_high"]),
        ("misfit of the prior", part["misfit_low"], part["misfit_high"]),
    ]
    return Table((PER_STEP, "from below", "from above"), rows)


def rate_heading(alternatives: int, *, first: bool, exact: bool) -> str:
    """Which steps a rate is of, and from what other rows its parts were found."""
    if first:
        return f"first steps, {counted(alternatives, 'other episode')} each"
    source = "the environment's exact law" if exact else "the model's own prediction"
    return f"every step, {counted(alternatives, 'draw')} from {source}"


# Share of degenerate steps above which more particles are not advised. Eight times as many cured 12 % (LunarLander, see
# docs/evidence.md); four times as many left 39 % of 61 % (frames).
BEYOND_HELP = 0.25
SATURATED = (
    "the lower bound on the information is near its ceiling, the logarithm of the number of alternatives plus one: "
    "more alternatives raise it"
)
