"""The evidence of held-out episodes: bound, estimates, certificate, terms and curves, measured and kept as numbers.

Episodes are scored whole from their reset, as many at a time as memory allows. The proposal of the particles is chosen
on training episodes: the one with the highest estimate (`evaluation.proposals`). The sandwich is measured on episodes
that the model simulates, under the actions of half of the held-out ones; and once more by parts, after real rows
(`evaluation.certificates`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require_not_negative, require_positive, require_several
from worldmodel.data.batches import at_once, select, trimmed
from worldmodel.evaluation.certificates import PartEvidence, RowsFrom, certify, measure_parts
from worldmodel.evaluation.proposals import GUIDED, PILOT_PARTICLES, Proposal, choose_proposal, parts
from worldmodel.evidence.estimate import Certified, Estimate, Evidence, evidence, join, per_step
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.reliability import UNRELIABLE
from worldmodel.evidence.sandwich import Sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.elbo import masked_mean
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch, EnvSpec

ESTIMATORS = ("elbo", "iwae", "smc")
ROUGH_DRAWS = 8  # of the latents, for the bound beside a rough estimate


@dataclass(frozen=True)
class Measured(Certified):
    """Bound and estimates with one number of particles, in nats per step; errors are over episodes."""

    particles: int
    elbo: Estimate
    iwae: Estimate
    smc: Estimate
    run_error: dict[str, float]  # by estimator: the standard error over runs on these very episodes; NaN for one run
    gap: Estimate  # SMC - ELBO: KL(q || exact posterior) from below
    width: Estimate  # of the sandwich on episodes that the model simulated
    degenerate_rows: float  # share of rows after which fewer than two particles are effective
    below_exact: dict[str, Estimate]  # exact evidence - estimator, paired; empty where nothing is known exactly
    pareto_k: float = math.nan  # of SMC's weights after a row, the median over rows; unknown for few particles
    heavy_rows: float = math.nan  # share of rows after which it is above `reliability.UNRELIABLE`


@dataclass(frozen=True)
class Term:
    """One part of the bound, and of the filter's evidence, in nats per step."""

    bound: float  # E_q[ log p ]
    filtered: float  # E[ log p | x_<=t ], under the particles of SMC
    variables: int  # observed variables in a row: pixels' channels, entries of a vector


@dataclass(frozen=True)
class EvidenceCurves:
    """Means over the episodes at each step since the reset, [L], in nats; all estimates with the most particles."""

    episodes: np.ndarray  # how many have this step
    evidence: np.ndarray  # log p^(x_t | x_<t)
    evidence_error: np.ndarray  # its standard error over episodes; NaN for a single one
    reconstruction: np.ndarray  # E_q[ log p(x_t | h_t, z_t) ], all terms
    kl: np.ndarray  # KL(q || p) of the step
    ess: np.ndarray  # effective particles, as a share of all
    width_so_far: np.ndarray  # of the sandwich of the first t rows, on simulated episodes; NaN beyond the longest
    exact: np.ndarray | None = None  # log p(x_t | x_<t), where it is known

    @property
    def bound(self) -> np.ndarray:
        """The ELBO's contribution of each step."""
        return self.reconstruction - self.kl

    @property
    def gap_so_far(self) -> np.ndarray:
        """The gap of the first t rows, in nats: how far q(z_1:t) has come from the exact posterior."""
        return np.cumsum(self.evidence - self.bound)


@dataclass(frozen=True)
class EvidenceReport:
    """How large the evidence of held-out episodes is, how far the bound is from it, and whether to believe that."""

    episodes: int  # held-out episodes, whole from their reset
    rows: int  # of theirs, that count
    runs: int  # independent repetitions of every estimate
    seed: int  # of all draws
    proposal: str  # where particles come from, in words
    prior_share: float  # of the prior in the proposal
    threshold: float  # share of effective particles below which they are resampled
    chosen_on: int  # other episodes that the proposal was chosen on; zero where there were none
    simulated: int  # episodes that the model simulated for the sandwich
    estimates: tuple[Measured, ...]  # by particles, the fewest first
    exact: Estimate | None  # the exact evidence, nats per step, where the environment states its law
    terms: dict[str, Term]  # by name, with the most particles
    kl: float  # KL(q || p), nats per step
    information: float  # the filter's own KL, nats per step
    steps: EvidenceCurves
    parts: tuple[PartEvidence, ...] = ()  # the first steps, and those after them, given what these have left

    @property
    def best(self) -> Measured:
        """The estimates with the most particles."""
        return self.estimates[-1]

    @property
    def variables(self) -> int:
        """Observed variables in a row, reward and continue flag included."""
        return sum(term.variables for term in self.terms.values())

    def as_json(self) -> dict[str, Any]:
        """The same in lists and numbers, with the doubts; what is not finite becomes null."""

        def with_doubts(many: Sequence[Measured | PartEvidence]) -> list[dict[str, Any]]:
            return [{**_plain(one), "doubts": [doubt.value for doubt in one.doubts]} for one in many]

        return {**_plain(self), "estimates": with_doubts(self.estimates), "parts": with_doubts(self.parts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EvidenceReport":
        """Back from `as_json`; of an earlier version too, which has no parts.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        steps: dict[str, Any] = {
            name: None if x is None else np.array(x, np.float64) for name, x in data["steps"].items()
        }
        if len({x.shape for x in steps.values() if x is not None}) != 1 or not data["estimates"]:
            raise ValueError("expected curves of one length, and an estimate")
        steps["episodes"] = steps["episodes"].astype(np.int64)
        given: dict[str, Any] = dict(data)
        given["estimates"] = tuple(_measured_from_json(one) for one in data["estimates"])
        given["parts"] = tuple(_part_from_json(one) for one in data.get("parts", ()))
        given["exact"] = None if data["exact"] is None else _estimate_from_json(data["exact"])
        given["terms"] = {name: Term(**term) for name, term in data["terms"].items()}
        given["steps"] = EvidenceCurves(**steps)
        return cls(**given)


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
    context: int = 0,
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
        context: the first rows, which are measured by themselves, and after which the rest is; zero for no parts.
        log: told what is being done.
    Raises:
        ValueError: if a number is out of range, or there is a single episode.
    """
    _require(episodes, particles, runs)
    require_not_negative(context=context)
    generator = make_generator(seed, stream=Stream.EVIDENCE, device=model.device)
    proposal = GUIDED
    if pilot is not None:
        log(f"choosing a proposal on {len(pilot.valid)} training episodes")
        proposal = choose_proposal(model, pilot, min(max(particles), PILOT_PARTICLES), generator)
    measured, template = [], select(episodes, slice(max(2, len(episodes.valid) // 2)))
    for count in sorted(set(particles)):
        log(f"{count} particles, {runs} {'run' if runs == 1 else 'runs'}: proposal is {proposal.words}")
        found = _estimate(model, episodes, count, runs, proposal, generator)
        bounds, width_so_far = certify(model, RowsFrom(template), count, proposal, generator)
        measured.append(_measured(found, bounds, exact))
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
        parts=measure_parts(model, episodes, context, max(particles), proposal, generator, log),
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
    steps = few.valid.sum(1)
    bound = per_step(mean_elbo(given, ROUGH_DRAWS, generator=generator), steps).mean
    estimate = per_step(filtered.log_evidence, steps).mean
    ess = masked_mean(filtered.ess, few.valid) / particles
    return RoughEvidence(bound, estimate, estimate - bound, ess.item())


def _estimate(
    model: WorldModel, episodes: Batch, particles: int, runs: int, proposal: Proposal, generator: torch.Generator
) -> Evidence:
    found = []
    for part in parts(model, episodes, particles):
        given = model.given(part)
        proposed, settings = proposal.of(given, generator), proposal.settings(particles)
        found.append(evidence(given, particles, runs=runs, generator=generator, proposed=proposed, **settings))
    return join(found)


def _measured(found: Evidence, bounds: Sandwich, exact: Tensor | None) -> Measured:
    below = {}
    if exact is not None:
        totals = _totals(exact, found)
        below = {name: per_step(totals - getattr(found, name).mean(0), found.steps) for name in ESTIMATORS}
    median, heavy = _tails(found)
    return Measured(
        particles=found.particles,
        **{name: found.over_sequences(name) for name in ESTIMATORS},
        run_error={name: found.over_runs(name).error for name in ESTIMATORS},
        gap=found.gap,
        width=bounds.width,
        degenerate_rows=found.degenerate_rows,
        below_exact=below,
        pareto_k=median,
        heavy_rows=heavy,
    )


def _tails(found: Evidence) -> tuple[float, float]:
    """The median Pareto k of the weights, and the share of rows where it is too large; NaN for few particles."""
    k = found.filtered.pareto_k[found.bound.valid]
    if k.isnan().any():
        return math.nan, math.nan
    return k.median().item(), (k > UNRELIABLE).double().mean().item()


def _totals(exact: Float[Tensor, "B T"], found: Evidence) -> Float[Tensor, " B"]:
    T = found.bound.valid.shape[1]
    return torch.where(found.bound.valid, exact[:, :T].to(found.bound.valid.device).double(), 0.0).sum(1)


def _mean(rows: Float[Tensor, "B T"], found: Evidence) -> float:
    return found.bound.mean(rows.double()).item()


def _terms(found: Evidence, spec: EnvSpec) -> dict[str, Term]:
    bound, filtered = found.bound.log_likelihood, found.filtered.log_likelihood
    variables = {name: int(np.prod(leaf.shape)) for name, leaf in spec.observations.items()}
    return {
        name: Term(_mean(bound[name], found), _mean(filtered[name], found), variables.get(name, 1)) for name in bound
    }


def _steps(found: Evidence, width_so_far: Float[Tensor, " T"], exact: Float[Tensor, "B T"] | None) -> EvidenceCurves:
    valid = found.bound.valid.cpu().numpy()
    rows = [found.filtered.increment, found.bound.reconstruction, found.bound.kl, _share(found)]
    if exact is not None:
        rows.append(exact[:, : valid.shape[1]])
    (evidence, error), *others = over_episodes([x.double().cpu().numpy() for x in rows], valid)
    names = ("reconstruction", "kl", "ess", "exact")
    means = {name: mean for name, (mean, _) in zip(names, others, strict=False)}
    width = np.full(len(evidence), np.nan)
    simulated = width_so_far[: len(evidence)].cpu().numpy()
    width[: len(simulated)] = simulated
    return EvidenceCurves(valid.sum(0), evidence, error, width_so_far=width, **means)


def _share(found: Evidence) -> Float[Tensor, "B T"]:
    """Effective particles as a share of all; the first rows may have had more."""
    return (found.filtered.ess / found.particles).clamp(max=1)


def _require(episodes: Batch, particles: Sequence[int], runs: int) -> None:
    require_several(episodes=len(episodes.valid))
    if not particles or min(particles) < 2:
        raise ValueError(f"particles: expected numbers of at least 2, got {list(particles)}")
    require_positive(runs=runs)


def over_episodes(rows: Iterable[np.ndarray], valid: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and standard error over the episodes that have each step, of [B, T] each: [T] and [T]; NaN where none has.

    Args:
        rows: arrays of rows, whatever they hold where not valid.
        valid: [B, T] the rows that count.
    """
    count = valid.sum(0)
    found = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for x in rows:
            mean = np.where(valid, x, 0).sum(0) / count
            squares = np.where(valid, (x - mean) ** 2, 0).sum(0)
            found.append((mean, np.sqrt(squares / (count - 1) / count)))
    return found


def _measured_from_json(data: Mapping[str, Any]) -> Measured:
    given = {name: x for name, x in data.items() if name != "doubts"}  # which follow from the other numbers
    for name in (*ESTIMATORS, "gap", "width"):
        given[name] = _estimate_from_json(data[name])
    for name in ("pareto_k", "heavy_rows"):  # which earlier versions did not write
        given[name] = _number(data.get(name))
    given["run_error"] = {name: _number(x) for name, x in data["run_error"].items()}
    given["below_exact"] = {name: _estimate_from_json(x) for name, x in data["below_exact"].items()}
    return Measured(**given)


def _part_from_json(data: Mapping[str, Any]) -> PartEvidence:
    given = {name: x for name, x in data.items() if name != "doubts"}
    return PartEvidence(**given | {name: _estimate_from_json(given[name]) for name in ("elbo", "smc", "gap", "width")})


def _estimate_from_json(data: Sequence[float | None]) -> Estimate:
    return Estimate(*map(_number, data))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and arrays as JSON has them."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
