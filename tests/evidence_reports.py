"""A measurement of the evidence written by hand, every number of it known."""

import math

import numpy as np

from worldmodel.evaluation.certificates import PartEvidence
from worldmodel.evaluation.evidence import EvidenceCurves, EvidenceReport, Measured, Term
from worldmodel.evidence.estimate import Estimate


def make_measured(particles: int, *, exact: bool, wide: bool = False) -> Measured:
    """Estimates that are recognised by the number of particles; a `wide` sandwich leaves the gap in doubt."""
    some = particles / 1000
    return Measured(
        particles=particles,
        elbo=Estimate(-2.0625, 0.01),
        iwae=Estimate(-2.0 + some, 0.02),
        smc=Estimate(-1.9375 + some, 0.03),
        run_error={"elbo": 0.001, "iwae": 0.002, "smc": math.nan},
        gap=Estimate(0.125 + some, 0.004),
        width=Estimate(0.75 if wide else 0.0078, 0.0009),
        degenerate_rows=0.004,
        below_exact={name: Estimate(0.0625 - some, 0.005) for name in ("elbo", "iwae", "smc")} if exact else {},
        pareto_k=0.375 if particles > 4 else math.nan,
        heavy_rows=0.25 if particles > 4 else math.nan,
    )


def make_parts(*, wide: bool = False) -> tuple[PartEvidence, PartEvidence]:
    """The first two steps, and the third; `wide` is the sandwich of the first."""
    shared = {"particles": 16, "degenerate_rows": 0.004, "elbo": Estimate(-2.0625, 0.01), "smc": Estimate(-1.75, 0.03)}
    width = Estimate(0.75 if wide else 0.0078, 0.0009)
    first = PartEvidence(1, 2, 2, 4, proposal="far ahead", gap=Estimate(0.3125, 0.005), width=width, **shared)
    later = PartEvidence(
        3, 3, 2, 1, proposal="nearby", gap=Estimate(0.25, 0.006), width=Estimate(0.0156, 0.0008), **shared
    )
    return first, later


def make_report(*, exact: bool = True, wide: bool = False, parts: tuple[PartEvidence, ...] = ()) -> EvidenceReport:
    """Three steps of two episodes, with 4 and 16 particles; `wide` is the sandwich with 4."""
    return EvidenceReport(
        episodes=2,
        rows=5,
        runs=1,
        seed=3,
        proposal="the posterior",
        prior_share=0.0,
        threshold=0.5,
        chosen_on=6,
        simulated=2,
        estimates=(make_measured(4, exact=exact, wide=wide), make_measured(16, exact=exact)),
        exact=Estimate(-1.875, 0.25) if exact else None,
        terms={"obs": Term(-1.5, -1.25, 3), "reward": Term(-0.5, -0.375, 1), "continue": Term(0.0, 0.0, 1)},
        kl=0.25,
        information=0.75,
        steps=EvidenceCurves(
            episodes=np.array([2, 2, 1]),
            evidence=np.array([-2.0, 1.25, 1.5]),
            evidence_error=np.array([0.1, 0.1, np.nan]),
            reconstruction=np.array([-1.0, 1.5, 1.5]),
            kl=np.array([2.0, 0.5, 0.0]),
            ess=np.array([0.5, 0.75, 1.0]),
            width_so_far=np.array([0.25, 0.5, np.nan]),
            exact=np.array([-1.75, 1.25, 1.5]) if exact else None,
        ),
        parts=parts,
    )
