"""The evidence of held-out episodes, measured: bound, estimates, certificate, terms and curves.

Episodes are scored whole from their reset, as many at a time as memory allows. Three ways of moving the particles are
tried on other episodes than those that are reported; the one with the highest estimate there is used, which the
unbiasedness of each allows. The sandwich is of episodes that the model simulates under the actions of half of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require_positive, require_several
from worldmodel.data.batches import at_once, in_parts, select, trimmed
from worldmodel.evaluation.evidence_report import ESTIMATORS, EvidenceReport, Measured, Steps, Term, over_episodes
from worldmodel.evidence.estimate import Evidence, doubts, evidence, join, per_step
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.sandwich import Sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.simulation import simulate
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch, EnvSpec

PILOT_PARTICLES = 64  # that the proposal is chosen with, at most
PILOT_RUNS = 2
ROUGH_DRAWS = 8  # of the latents, for the bound beside a rough estimate


class Proposal(NamedTuple):
    """Where particles come from, and below which share of effective ones they are drawn anew; see `smc`."""

    words: str
    prior_share: float
    threshold: float


GUIDED = Proposal("the posterior", 0.0, 0.5)
PROPOSALS = (
    GUIDED,
    Proposal("the posterior with a tenth of the prior", 0.1, 0.5),
    Proposal("the posterior, rarely resampled", 0.0, 0.1),  # where it has seen rows that the weights have not
)


class RoughEvidence(NamedTuple):
    """An estimate from few particles, in nats per step: a low one, so its gap is too small."""

    elbo: float
    smc: float
    gap: float
    ess: float  # effective particles, as a share of all


@torch.no_grad()
def measure_evidence(
    model: WorldModel,
    episodes: Batch,
    *,
    particles: Sequence[int],
    runs: int,
    seed: int,
    pilot: Batch | None = None,
    exact: Float[Tensor, "B T"] | None = None,
    log: Callable[[str], None] = lambda words: None,
) -> EvidenceReport:
    """Measure the evidence of whole episodes.

    Args:
        model: the world model.
        episodes: two or more, whole from their reset, padded.
        particles: numbers N of particles of SMC, and of samples of IWAE, to measure with.
        runs: R independent repetitions of every estimate.
        seed: of all draws.
        pilot: other episodes, that the proposal is chosen on; without them it is the posterior.
        exact: log p(x_t | x_<t) of every row, in nats, where it is known.
        log: told what is being done.
    Raises:
        ValueError: if a number is out of range, or there is a single episode.
    """
    _require(episodes, particles, runs)
    generator = make_generator(seed, stream=Stream.EVIDENCE, device=model.device)
    proposal = GUIDED
    if pilot is not None:
        log(f"choosing a proposal on {len(pilot.valid)} training episodes")
        proposal = choose_proposal(model, pilot, min(max(particles), PILOT_PARTICLES), generator)
    measured, template = [], select(episodes, slice(max(2, len(episodes.valid) // 2)))
    for count in sorted(set(particles)):
        log(f"{count} particles, {runs} {'run' if runs == 1 else 'runs'}: proposal is {proposal.words}")
        found = _estimate(model, episodes, count, runs, proposal, generator)
        certificate, width_so_far = _sandwich(model, template, count, proposal, generator)
        measured.append(_measured(found, certificate, exact))
    return EvidenceReport(
        episodes=len(episodes.valid),
        rows=int(episodes.valid.sum()),
        runs=runs,
        seed=seed,
        proposal=proposal.words,
        prior_share=proposal.prior_share,
        threshold=proposal.threshold,
        chosen_on=0 if pilot is None else len(pilot.valid),
        simulated=len(template.valid),
        estimates=tuple(measured),
        exact=None if exact is None else per_step(_totals(exact, found), found.steps),
        terms=_terms(found, model.spec),
        kl=_mean(found.bound.kl, found),
        information=_mean(found.filtered.information, found),
        steps=_steps(found, width_so_far, exact),
    )


@torch.no_grad()
def rough_evidence(
    model: WorldModel, episodes: Batch, *, particles: int, sequences: int, rows: int, seed: int
) -> RoughEvidence:
    """A cheap look at the gap: few particles on the first rows of a few episodes, which have an evidence of their own.

    Args:
        model: the world model.
        episodes: whole from their reset, padded.
        particles: N.
        sequences: episodes looked at, at most; fewer of large observations, but always one.
        rows: how many first steps of each episode are used, at most.
        seed: of all draws, so that two looks at one model agree.
    """
    generator = make_generator(seed, stream=Stream.EVIDENCE, device=model.device)
    # Counted as if all rows were decoded together, which a rough estimate in the midst of training must never cost.
    room = at_once((particles + ROUGH_DRAWS) * rows * model.spec.width)
    few = trimmed(select(episodes, slice(min(sequences, room)), slice(rows)))
    given = model.given(few)
    filtered = smc(given, particles, generator=generator)
    steps = few.valid.sum()
    bound = mean_elbo(given, ROUGH_DRAWS, generator=generator).sum() / steps
    estimate = filtered.log_evidence.sum() / steps
    ess = filtered.ess.sum() / steps / particles
    return RoughEvidence(bound.item(), estimate.item(), (estimate - bound).item(), ess.item())


def choose_proposal(
    model: WorldModel, episodes: Batch, particles: int, generator: torch.Generator | None = None
) -> Proposal:
    """The way of moving particles with the highest estimate of the evidence of these episodes.

    The posterior alone is left only for one that is better by more than a standard error, paired over episodes.
    """

    def estimate(proposal: Proposal) -> Float[Tensor, " B"]:
        _, share, threshold = proposal
        settings: dict[str, Any] = {"generator": generator, "prior_share": share, "threshold": threshold}
        totals = []
        for part in _parts(model, episodes, particles):
            given = model.given(part)
            runs = [smc(given, particles, **settings).log_evidence for _ in range(PILOT_RUNS)]
            totals.append(torch.stack(runs).mean(0))
        return torch.cat(totals)

    estimates = {proposal: estimate(proposal) for proposal in PROPOSALS}
    steps = episodes.valid.sum(1)

    def lead(proposal: Proposal) -> float:
        ahead = per_step(estimates[proposal] - estimates[GUIDED], steps)
        return ahead.mean if ahead.mean > ahead.error else 0.0

    return max(PROPOSALS, key=lead)


def _estimate(
    model: WorldModel, episodes: Batch, particles: int, runs: int, proposal: Proposal, generator: torch.Generator
) -> Evidence:
    _, share, threshold = proposal
    settings: dict[str, Any] = {"runs": runs, "generator": generator, "prior_share": share, "threshold": threshold}
    return join([evidence(model.given(part), particles, **settings) for part in _parts(model, episodes, particles)])


def _sandwich(
    model: WorldModel, template: Batch, particles: int, proposal: Proposal, generator: torch.Generator
) -> tuple[Sandwich, Float[Tensor, " T"]]:
    """The sandwich on simulated episodes, and the mean width of their first t rows, in nats."""
    _, share, threshold = proposal
    settings: dict[str, Any] = {"generator": generator, "prior_share": share, "threshold": threshold}
    parts, rows = [], template.valid.new_zeros(template.valid.shape, dtype=torch.float64)
    done = 0
    for part in _parts(model, template, particles):
        batch, path = simulate(model, part, generator=generator)
        given = model.given(batch)
        lower, upper = (smc(given, particles, path=along, **settings).increment for along in (None, path))
        parts.append(Sandwich(lower.sum(1)[None], upper.sum(1)[None], batch.valid.sum(1)))
        B, T = batch.valid.shape
        rows[done : done + B, :T] = upper - lower
        done += B
    joined = [torch.cat([getattr(part, name) for part in parts], -1) for name in ("lower", "upper", "steps")]
    return Sandwich(*joined), rows.cumsum(1).mean(0)


def _parts(model: WorldModel, episodes: Batch, particles: int) -> Iterator[Batch]:
    """As many episodes at a time as memory allows, without the padding that none of them needs."""
    T = episodes.valid.shape[1]
    state = model.carried_numbers
    return in_parts(episodes, at_once(max(2 * particles * state, T * model.spec.width)))


def _measured(found: Evidence, certificate: Sandwich, exact: Tensor | None) -> Measured:
    below = {}
    if exact is not None:
        totals = _totals(exact, found)
        below = {name: per_step(totals - getattr(found, name).mean(0), found.steps) for name in ESTIMATORS}
    return Measured(
        particles=found.particles,
        **{name: found.over_sequences(name) for name in ESTIMATORS},
        run_error={name: found.over_runs(name).error for name in ESTIMATORS},
        gap=found.gap,
        width=certificate.width,
        degenerate_rows=found.degenerate_rows,
        doubts=doubts(found.gap, certificate.width, found.degenerate_rows),
        below_exact=below,
    )


def _totals(exact: Float[Tensor, "B T"], found: Evidence) -> Float[Tensor, " B"]:
    T = found.bound.valid.shape[1]
    return torch.where(found.bound.valid, exact[:, :T].to(found.bound.valid.device).double(), 0.0).sum(1)


def _mean(rows: Float[Tensor, "B T"], found: Evidence) -> float:
    return (torch.where(found.bound.valid, rows, 0.0).double().sum() / found.steps.sum()).item()


def _terms(found: Evidence, spec: EnvSpec) -> dict[str, Term]:
    bound, filtered = found.bound.log_likelihood, found.filtered.log_likelihood
    variables = {name: int(np.prod(leaf.shape)) for name, leaf in spec.observations.items()}
    return {
        name: Term(_mean(bound[name], found), _mean(filtered[name], found), variables.get(name, 1)) for name in bound
    }


def _steps(found: Evidence, width_so_far: Float[Tensor, " T"], exact: Float[Tensor, "B T"] | None) -> Steps:
    valid = found.bound.valid.cpu().numpy()
    rows = [found.filtered.increment, found.bound.reconstruction, found.bound.kl, found.filtered.ess / found.particles]
    if exact is not None:
        rows.append(exact[:, : valid.shape[1]])
    (evidence, error), *others = over_episodes([x.double().cpu().numpy() for x in rows], valid)
    names = ("reconstruction", "kl", "ess", "exact")
    means = {name: mean for name, (mean, _) in zip(names, others, strict=False)}
    width = np.full(len(evidence), np.nan)
    simulated = width_so_far[: len(evidence)].cpu().numpy()
    width[: len(simulated)] = simulated
    return Steps(valid.sum(0), evidence, error, width_so_far=width, **means)


def _require(episodes: Batch, particles: Sequence[int], runs: int) -> None:
    require_several(episodes=len(episodes.valid))
    if not particles or min(particles) < 2:
        raise ValueError(f"particles: expected numbers of at least 2, got {list(particles)}")
    require_positive(runs=runs)
