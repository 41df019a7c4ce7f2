"""Certificates of the evidence: sandwiches on rows that the model simulates, of whole episodes and of parts of them.

A model that simulates an episode from its reset soon leaves the data, and then its certificate says little of real
ones. After a real context it does not: `context` recorded rows are filtered, what is carried then is kept, and both the
recorded rows that follow and rows simulated from there, under the recorded actions, are explained from it. So gap and
certificate are of the same rows. The rows of the context have a gap and a certificate of their own, from the reset. Of
many simulated first rows the one is kept that is nearest to the recorded one (`models.simulation`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.data.batches import at_once, in_precision, pad_rows, select, trimmed, with_last_rows_marked
from worldmodel.evaluation.proposals import Proposal, certifying
from worldmodel.evidence.estimate import LEAST_ESS, Certified, Estimate, per_step
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.sandwich import Sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.simulation import simulate
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, Carry

CONTEXT = 8  # rows
EPISODES = 6  # whose parts are measured, at most
ROWS = 24  # after the context, at most
DRAWS = 32  # of the latents, for the bound
CANDIDATES = 2**13  # for the first row of a simulated episode


@dataclass(frozen=True)
class PartEvidence(Certified):
    """The gap of some rows of some episodes beside the certificate of the same rows, in nats per step."""

    first: int  # step since the reset, from 1
    last: int
    episodes: int
    rows: int  # of theirs, that count
    particles: int
    proposal: str  # where particles come from, in words
    elbo: Estimate
    smc: Estimate
    gap: Estimate
    width: Estimate  # of the sandwich on simulated rows
    degenerate_rows: float  # share of rows after which fewer than two particles are effective


class RowsFrom(NamedTuple):
    """Rows of B episodes and what the recurrence carries before them; None before their reset."""

    batch: Batch
    start: Carry | None = None


def measure_parts(
    model: WorldModel,
    episodes: Batch,
    context: int,
    particles: int,
    proposal: Proposal,
    generator: torch.Generator | None = None,
    log: Callable[[str], None] = lambda words: None,
) -> tuple[PartEvidence, ...]:
    """The first `context` rows from the reset, and those that follow them; a part that few episodes have is left out.

    Args:
        model: the world model.
        episodes: whole from their reset, padded.
        context: rows that are filtered, by one draw of the posterior, before those that follow; zero for no parts.
        particles: of SMC.
        proposal: of the particles, where the rows themselves cannot say (see `proposals.certifying`).
        generator: source of all draws.
        log: told what is being done.
    """
    if context == 0:
        return ()
    log(f"the first {context} steps, and those after them")

    def measure(rows: RowsFrom, first: int) -> PartEvidence:
        best = certifying(model, proposal, from_reset=first == 1)
        return _measure(model, rows, first, particles, best, generator)

    few = select(episodes, slice(EPISODES))
    beginning = RowsFrom(trimmed(select(few, rows=slice(context))))
    found = [measure(beginning, 1)]
    longer = select(select(episodes, episodes.valid.sum(1) > context), slice(EPISODES))
    if len(longer.valid) > 1:
        found.append(measure(_after(model, longer, context, generator), context + 1))
    return tuple(found)


@torch.no_grad()
def _after(model: WorldModel, episodes: Batch, context: int, generator: torch.Generator | None) -> RowsFrom:
    """The rows after the context, and one draw of what it leaves behind; no later row is looked at."""
    head = with_last_rows_marked(in_precision(select(episodes, rows=slice(context)), next(model.parameters()).dtype))
    carry = model.observe(head, model.noise(len(head.valid), context, generator)).carry
    return RowsFrom(trimmed(select(episodes, rows=slice(context, context + ROWS))), carry)


def _measure(
    model: WorldModel,
    rows: RowsFrom,
    first: int,
    particles: int,
    proposal: Proposal,
    generator: torch.Generator | None,
) -> PartEvidence:
    bounds, estimates, few = [], [], 0.0
    for part in _in_parts(model, rows, particles):
        given = model.given(*part)
        bounds.append(mean_elbo(given, DRAWS, generator=generator))
        run = smc(proposal.of(given, generator), particles, generator=generator, **proposal.settings(particles))
        estimates.append(run.log_evidence)
        # Before the last of the rows looked at together, weights have not seen what the particles were chosen by.
        few += float(((run.ess < LEAST_ESS) & part.batch.valid)[:, proposal.ahead - 1 :].sum())
    elbo, estimate, steps = torch.cat(bounds), torch.cat(estimates), rows.batch.valid.sum(1)
    return PartEvidence(
        first=first,
        last=first + rows.batch.valid.shape[1] - 1,
        episodes=len(steps),
        rows=int(steps.sum()),
        particles=particles,
        proposal=proposal.words,
        elbo=per_step(elbo, steps),
        smc=per_step(estimate, steps),
        gap=per_step(estimate - elbo, steps),
        width=certify(model, rows, particles, proposal, generator)[0].width,
        degenerate_rows=few / int(steps.sum()),
    )


def certify(
    model: WorldModel,
    template: RowsFrom,
    particles: int,
    proposal: Proposal,
    generator: torch.Generator | None = None,
) -> tuple[Sandwich, Float[Tensor, " T"]]:
    """The sandwich on episodes simulated like the template, and the mean width of their first t rows, in nats."""
    settings = {"generator": generator, **proposal.settings(particles)}
    found, rows = [], []
    for part in _in_parts(model, template, particles):
        candidates = _candidates(model, part) if part.start is None else 1
        batch, path = simulate(model, part.batch, start=part.start, candidates=candidates, generator=generator)
        sequence = proposal.of(model.given(batch, part.start), generator)
        lower, upper = (smc(sequence, particles, path=along, **settings).increment for along in (None, path))
        found.append(Sandwich(lower.sum(1)[None], upper.sum(1)[None], batch.valid.sum(1)))
        rows.append(pad_rows(upper - lower, template.batch.valid.shape[1]))
    joined = [torch.cat([getattr(one, name) for one in found], -1) for name in ("lower", "upper", "steps")]
    return Sandwich(*joined), torch.cat(rows).cumsum(1).mean(0)


def _candidates(model: WorldModel, part: RowsFrom) -> int:
    """How many first rows are drawn: none to choose from where there are images, or nothing to be near to."""
    leaves = model.spec.observations.values()
    if any(leaf.kind == "image" for leaf in leaves) or not any(leaf.is_numeric for leaf in leaves):
        return 1
    return min(CANDIDATES, at_once(len(part.batch.valid) * (model.spec.width + model.carried_numbers)))


def _in_parts(model: WorldModel, rows: RowsFrom, particles: int) -> Iterator[RowsFrom]:
    """As many episodes at a time as memory allows, without the padding that none of them needs."""
    B, T = rows.batch.valid.shape
    size = at_once(max(2 * particles * model.carried_numbers, T * model.spec.width))
    for begin in range(0, B, size):
        some = slice(begin, begin + size)
        start = None if rows.start is None else tree_map(lambda x: x[some], rows.start)  # noqa: B023
        yield RowsFrom(trimmed(select(rows.batch, some)), start)
