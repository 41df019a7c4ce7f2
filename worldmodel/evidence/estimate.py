"""The evidence of B sequences: bound, estimates, their errors, and whether the gap between them may be believed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.data.batches import pad_rows
from worldmodel.evidence.iwae import DRAWS_AT_ONCE, iwae
from worldmodel.evidence.smc import THRESHOLD, ParticleEvidence, Start, smc
from worldmodel.objectives.elbo import Bound, sequence_elbo
from worldmodel.types import LatentSequence, ParticleSequence

RUNS = 2  # independent repetitions of an estimate: the fewest that show its Monte Carlo error
BOUND_DRAWS = 32  # of the latents, for the ELBO of one run

LEAST_ESS = 2.0  # effective particles; with fewer after a row, the estimate there is one particle's luck
DEGENERATE_ROWS = 0.02  # share of rows, at most, with fewer effective particles than that
WIDE = 0.25  # widest sandwich, as a share of the gap
NARROW = 0.002  # nats per step: a sandwich this narrow is good enough beside any gap
SIGMAS = 3.0  # standard errors that a gap may lie below zero


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


class Doubt(StrEnum):
    """Why a gap is not to be printed."""

    DEGENERATE = "degenerate"  # too many rows after which fewer than LEAST_ESS particles are effective
    WIDE = "wide"  # the sandwich is too wide beside the gap, or its width too uncertain
    NEGATIVE = "negative"  # SMC lies below the ELBO by more than noise explains


@dataclass(frozen=True)
class Certificate:
    """A gap beside what decides whether it may be printed."""

    gap: Estimate  # SMC - ELBO, nats per step
    width: Estimate  # of the sandwich with the same settings, nats per step; unknown if its error is NaN
    degenerate_rows: float  # share of rows after which fewer than LEAST_ESS particles are effective

    @property
    def widest(self) -> float:
        """The largest width of the sandwich, and the largest error of that, beside which the gap may be printed."""
        return max(NARROW, WIDE * self.gap.mean)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What speaks against the gap; empty where it may be printed. NaN anywhere speaks against it."""
        passed = {
            Doubt.DEGENERATE: self.degenerate_rows <= DEGENERATE_ROWS,
            Doubt.WIDE: abs(self.width.mean) <= self.widest and self.width.error <= self.widest,
            Doubt.NEGATIVE: self.gap.mean >= -SIGMAS * self.gap.error,
        }
        return tuple(doubt for doubt, fine in passed.items() if not fine)


class Certified:
    """What was measured with a gap, the width of its sandwich, and how often particles degenerate."""

    gap: Estimate
    width: Estimate
    degenerate_rows: float

    @property
    def certificate(self) -> Certificate:
        """The gap beside what decides whether it may be printed."""
        return Certificate(self.gap, self.width, self.degenerate_rows)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why the gap is not to be believed; empty where it may be."""
        return self.certificate.doubts


@dataclass(frozen=True)
class Evidence:
    """Bound and estimates of the log evidence of B sequences, R runs each, in nats; rows are means over the runs.

    The KL of the bound is sampled, so that the gap, a difference within sequences, has little noise of its own.
    """

    particles: int
    elbo: Float[Tensor, "R B"]
    iwae: Float[Tensor, "R B"]
    smc: Float[Tensor, "R B"]
    bound: Bound  # of the ELBO, [B, T]
    filtered: ParticleEvidence  # of SMC; `resampled` where any run did
    degenerate: Float[Tensor, "B T"]  # share of the runs in which fewer than LEAST_ESS particles are effective

    @property
    def steps(self) -> Int[Tensor, " B"]:
        """Rows that count."""
        return self.bound.valid.sum(1)

    @property
    def gap(self) -> Estimate:
        """SMC - ELBO in nats per step: KL(q || exact posterior) from below, its error over sequences."""
        return per_step((self.smc - self.elbo).mean(0), self.steps)

    def over_sequences(self, name: str) -> Estimate:
        """`elbo`, `iwae` or `smc` in nats per step; the error is over sequences: how far others could be."""
        return per_step(getattr(self, name).mean(0), self.steps)

    def over_runs(self, name: str) -> Estimate:
        """The same for these B sequences; the error is the estimator's Monte Carlo error only, NaN for one run."""
        runs = getattr(self, name).sum(1) / self.steps.sum()
        error = runs.std().item() / len(runs) ** 0.5 if len(runs) > 1 else math.nan
        return Estimate(runs.mean().item(), error)

    @property
    def degenerate_rows(self) -> float:
        """Share of the rows that count after which fewer than two particles are effective, the mean over runs."""
        return self.bound.mean(self.degenerate).item()


def evidence(
    sequence: LatentSequence,
    particles: int,
    *,
    runs: int = RUNS,
    generator: torch.Generator | None = None,
    prior_share: float = 0.0,
    threshold: float = THRESHOLD,
    first: Start | None = None,
    proposed: ParticleSequence | None = None,
) -> Evidence:
    """Bound and estimates, with N particles, or samples, a run.

    Args:
        sequence: the model and its B sequences; of many sequences, give some at a time and `join` the results.
        particles: N.
        runs: R independent repetitions.
        generator: source of all draws.
        prior_share, threshold, first: of `smc`.
        proposed: the same sequences with another proposal, for SMC; by default it is the posterior, as for the bound.
    Raises:
        ValueError: if an argument is out of range.
    """
    require_positive(particles=particles, runs=runs)
    bounds = [_mean_bound(sequence, generator) for _ in range(runs)]
    weighted = [iwae(sequence, particles, generator=generator).log_evidence for _ in range(runs)]
    moved = sequence if proposed is None else proposed
    settings: Any = {"prior_share": prior_share, "threshold": threshold, "first": first}
    filtered = [smc(moved, particles, generator=generator, **settings) for _ in range(runs)]
    return Evidence(
        particles,
        elbo=torch.stack([bound.elbo.sum(-1) for bound in bounds]),
        iwae=torch.stack(weighted),
        smc=torch.stack([run.log_evidence for run in filtered]),
        bound=_mean_of_bounds(bounds),
        filtered=ParticleEvidence(
            increment=_mean([run.increment for run in filtered]),
            log_likelihood=_mean_by_name([run.log_likelihood for run in filtered]),
            ess=_mean([run.ess for run in filtered]),
            resampled=torch.stack([run.resampled for run in filtered]).any(0),
            pareto_k=_mean([run.pareto_k for run in filtered]),
            relative_variance=_mean([run.relative_variance for run in filtered]),
        ),
        degenerate=_mean([(run.ess < LEAST_ESS).double() for run in filtered]),
    )


def join(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of all sequences, from that of some at a time with the same settings; rows are padded at the end."""
    T = max(part.bound.valid.shape[1] for part in parts)

    def rows(get: Callable[[Evidence], Tensor]) -> Tensor:
        return torch.cat([pad_rows(get(part), T) for part in parts])

    def rows_by_name(get: Callable[[Evidence], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([pad_rows(get(part)[name], T) for part in parts]) for name in get(parts[0])}

    return Evidence(
        parts[0].particles,
        elbo=torch.cat([part.elbo for part in parts], 1),
        iwae=torch.cat([part.iwae for part in parts], 1),
        smc=torch.cat([part.smc for part in parts], 1),
        bound=Bound(
            rows_by_name(lambda part: part.bound.log_likelihood),
            rows(lambda part: part.bound.kl_groups),
            rows(lambda part: part.bound.valid),
        ),
        filtered=ParticleEvidence(
            rows(lambda part: part.filtered.increment),
            rows_by_name(lambda part: part.filtered.log_likelihood),
            rows(lambda part: part.filtered.ess),
            rows(lambda part: part.filtered.resampled),
            rows(lambda part: part.filtered.pareto_k),
            torch.cat([part.filtered.relative_variance for part in parts]),
        ),
        degenerate=rows(lambda part: part.degenerate),
    )


def _mean_bound(sequence: LatentSequence, generator: torch.Generator | None) -> Bound:
    """The bound of each sequence, [B, T] in float64: the mean over `BOUND_DRAWS` draws, some at a time."""
    draws = [
        sequence_elbo(sequence, DRAWS_AT_ONCE, generator=generator, sampled_kl=True)
        for _ in range(BOUND_DRAWS // DRAWS_AT_ONCE)
    ]
    means = [
        Bound(
            {name: term.double().mean(0) for name, term in draw.log_likelihood.items()},
            draw.kl_groups.double().mean(0),
            sequence.valid,
        )
        for draw in draws
    ]
    return _mean_of_bounds(means)


def _mean_of_bounds(bounds: Sequence[Bound]) -> Bound:
    terms = _mean_by_name([bound.log_likelihood for bound in bounds])
    return Bound(terms, _mean([bound.kl_groups for bound in bounds]), bounds[0].valid)


def _mean_by_name(terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _mean([term[name] for term in terms]) for name in terms[0]}


def _mean(x: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(x)).mean(0)


def per_step(total: Float[Tensor, " B"], steps: Int[Tensor, " B"]) -> Estimate:
    """sum(total) / sum(steps), in nats per step, and its standard error over sequences. NaN for a single sequence.

    All sequences are of one process. They differ in length, so it is a ratio of means: its error is that of the
    residuals total - mean * steps.
    Source: Cochran 1977, Sampling Techniques, 3rd ed., chapter 6.
    """
    B = len(total)
    mean = total.double().sum() / steps.sum()
    residual = total - mean * steps
    error = (B / (B - 1) * residual.square().sum()).sqrt() / steps.sum() if B > 1 else mean * float("nan")
    return Estimate(mean.item(), error.item())
