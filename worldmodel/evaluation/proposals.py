"""Where the particles of a trained model come from: proposals to choose among, and how one is chosen.

Every one is unbiased, so on other episodes than those that are measured the highest estimate may decide. Proposals that
look at the rows themselves (`evidence.sharpened`, `evidence.look_ahead`) are for models whose latents are Gaussian and
whose observations are vectors with Gaussian densities; images and classes have those by the posterior and the prior.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.data.batches import at_once, in_parts
from worldmodel.evidence.estimate import per_step
from worldmodel.evidence.look_ahead import AHEAD, LookAhead
from worldmodel.evidence.sharpened import Sharpened
from worldmodel.evidence.smc import THRESHOLD, Start, smc
from worldmodel.models.conditioned import ConditionedWorldModel
from worldmodel.models.full_gaussian import FullGaussian
from worldmodel.models.latents import DiagonalGaussian
from worldmodel.models.likelihoods import REGRESSIONS
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, ParticleSequence

PILOT_PARTICLES = 64  # that the proposal is chosen with, at most
PILOT_RUNS = 1
SHARE = 8 / 9  # of the sharpened part beside the posterior: with a tenth of the prior, .8 and .1
EARLY_ROWS = 8  # in which the posterior of a real episode misses most
PARTICLES_A_POINT = 8  # on the rows that are looked at together, at least


class Proposal(NamedTuple):
    """Where particles come from, and the share of effective ones below which they are resampled; see `smc`."""

    words: str
    prior_share: float
    threshold: float
    sharpened: int | None = 0  # first rows that it looks at by itself; None is all of them
    points: int = 0  # of the look ahead at the first rows; none looks at the first by itself too

    def of(self, given: ConditionedWorldModel, generator: torch.Generator | None = None) -> ParticleSequence:
        """The episodes with this proposal; its starts, where it looks ahead, are drawn from the generator."""
        if self.points:
            return LookAhead(given, share=SHARE, rows=self.sharpened, points=self.points, generator=generator)
        return given if self.sharpened == 0 else Sharpened(given, share=SHARE, rows=self.sharpened)

    @property
    def ahead(self) -> int:
        """Rows that the first proposal looks at together."""
        return AHEAD if self.points else 1

    def settings(self, particles: int) -> dict[str, Any]:
        """The arguments of `smc` with so many particles."""
        first = {"first": Start(AHEAD, max(particles, PARTICLES_A_POINT * self.points))} if self.points else {}
        return {"prior_share": self.prior_share, "threshold": self.threshold, **first}


GUIDED = Proposal("the posterior", 0.0, THRESHOLD)
DEFENSIVE = Proposal("the posterior with a tenth of the prior", 0.1, THRESHOLD)
# For a posterior that reads later rows, which the weights do not yet include: resampling throws away what it knew.
RARELY = Proposal("the posterior, rarely resampled", 0.0, 0.1)
PROPOSALS = (GUIDED, DEFENSIVE, RARELY)
EARLY = Proposal(
    f"the posterior with a tenth of the prior, the first {EARLY_ROWS} steps sharpened", 0.1, THRESHOLD, EARLY_ROWS, 32
)
SHARP = Proposal("the posterior with a tenth of the prior, sharpened on each step", 0.1, THRESHOLD, None)
FROM_RESET = Proposal(f"{SHARP.words}, the first two together", 0.1, THRESHOLD, None, 128)


@torch.no_grad()
def can_sharpen(model: WorldModel) -> bool:
    """Whether latents are Gaussian, and every observation is a vector with a Gaussian density."""
    likelihoods = model.likelihoods()
    deter = next(model.parameters()).new_zeros(1, model.decoder.widths[0])
    vectors = all(isinstance(likelihoods[name], REGRESSIONS) for name in model.spec.observations)
    return vectors and isinstance(model.dynamics.prior(deter), DiagonalGaussian | FullGaussian)


def proposals_for(model: WorldModel) -> tuple[Proposal, ...]:
    """Those that whole episodes may be measured with; the first is kept unless another is surely better.

    It is the posterior, rarely resampled if it smooths.
    """
    offered = (RARELY, GUIDED, DEFENSIVE) if model.smooths else PROPOSALS
    return (*offered, EARLY) if can_sharpen(model) else offered


def certifying(model: WorldModel, chosen: Proposal, *, from_reset: bool) -> Proposal:
    """What a certificate is best measured with: rows looked at, at several times the cost, or else as was chosen."""
    if not can_sharpen(model):
        return chosen
    return FROM_RESET if from_reset else SHARP


def choose_proposal(
    model: WorldModel, episodes: Batch, particles: int, generator: torch.Generator | None = None
) -> Proposal:
    """The one with the highest estimate; another replaces the first only if better by over one standard error.

    The error is paired over episodes.
    """

    def estimate(proposal: Proposal) -> Float[Tensor, " B"]:
        totals, settings = [], proposal.settings(particles)
        for part in parts(model, episodes, particles):
            sequence = proposal.of(model.given(part), generator)
            runs = [smc(sequence, particles, generator=generator, **settings) for _ in range(PILOT_RUNS)]
            totals.append(torch.stack([run.log_evidence for run in runs]).mean(0))
        return torch.cat(totals)

    offered = proposals_for(model)
    estimates = {proposal: estimate(proposal) for proposal in offered}
    steps = episodes.valid.sum(1)

    def lead(proposal: Proposal) -> float:
        ahead = per_step(estimates[proposal] - estimates[offered[0]], steps)
        return ahead.mean if ahead.mean > ahead.error else 0.0

    return max(offered, key=lead)


def parts(model: WorldModel, episodes: Batch, particles: int) -> Sequence[Batch]:
    """As many episodes at a time as memory allows, without the padding that none of them needs."""
    T = episodes.valid.shape[1]
    state = model.carried_numbers
    return list(in_parts(episodes, at_once(max(2 * particles * state, T * model.spec.width))))
