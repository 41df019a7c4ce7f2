"""The gap decomposed: what the bound lacks, and why.

    log p(x) - ELBO(q filtering) =   ELBO(q smoothing) - ELBO(q filtering)   filtering: cost of not seeing later
                                                                             observations
                                   + ELBO(q refined)   - ELBO(q smoothing)   amortisation: one network for all
                                   + log p(x)          - ELBO(q refined)     family: what no q of the family has

All bounds use the same generative model. Each part is as good as the posteriors that stand for it: a smoothing network
trained too shortly makes the filtering part too small and amortisation too large by as much. Filtering can be negative
then. Log p(x) of a model without an oracle is estimated from below, and so is the family part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.evidence.estimate import Certificate, Doubt, Estimate, per_step
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.refinement import LEARNING_RATE, SAMPLES, STEPS, refine
from worldmodel.types import LatentSequence

DRAWS = 32  # of the latents, for each bound


@dataclass(frozen=True)
class GapDecomposition:
    """Three bounds and the log evidence of B sequences in nats, and whether the last may be believed."""

    filtering: Float[Tensor, " B"]
    smoothing: Float[Tensor, " B"]
    refined: Float[Tensor, " B"]
    log_evidence: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]  # rows that count
    trained: Float[Tensor, " B"] | None = None  # the bound of the model's own q, where `filtering` is another
    certificate: Certificate | None = None  # of an estimated log evidence; exact ones need none

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why the log evidence, and so the parts `family` and `gap`, are not to be believed; empty where they are."""
        return () if self.certificate is None else self.certificate.doubts

    def levels(self) -> dict[str, Estimate]:
        """The bounds and the log evidence, in nats per step; errors over sequences."""
        bounds = {"trained": self.trained, "filtering": self.filtering, "smoothing": self.smoothing}
        bounds |= {"refined": self.refined, "log_evidence": self.log_evidence}
        return {name: per_step(bound, self.steps) for name, bound in bounds.items() if bound is not None}

    def parts(self) -> dict[str, Estimate]:
        """The three parts and their sum, `gap`, in nats per step; errors are those of differences within sequences."""
        differences = {
            "filtering": self.smoothing - self.filtering,
            "amortisation": self.refined - self.smoothing,
            "family": self.log_evidence - self.refined,
            "gap": self.log_evidence - self.filtering,
        }
        return {name: per_step(difference, self.steps) for name, difference in differences.items()}

    def as_json(self) -> dict[str, object]:
        """Numbers alone, by "levels", "parts", "sequences", "steps", "doubts" (by name) and "certificate"."""
        certificate = self.certificate
        return {
            "levels": {name: estimate._asdict() for name, estimate in self.levels().items()},
            "parts": {name: estimate._asdict() for name, estimate in self.parts().items()},
            "sequences": len(self.steps),
            "steps": int(self.steps.sum()),
            "doubts": [doubt.value for doubt in self.doubts],
            "certificate": certificate
            and {"width": certificate.width._asdict(), "degenerate_rows": certificate.degenerate_rows},
        }


def decompose_gap(
    filtering: LatentSequence,
    smoothing: LatentSequence,
    log_evidence: Float[Tensor, " B"],
    *,
    steps: int = STEPS,
    samples: int = SAMPLES,
    learning_rate: float = LEARNING_RATE,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> GapDecomposition:
    """Measure the three bounds of B sequences.

    Args:
        filtering, smoothing: one generative model and the same sequences, with q(z_t | h_t, x_<=t) and with
            q(z_t | h_t, x_1:T); the latter is refined.
        log_evidence: of each sequence in nats, exact or estimated.
        steps, samples, learning_rate: of `refine`.
        draws: of the latents, for each bound.
        generator: source of all draws.
    Raises:
        ValueError: if a number is not positive, or the two do not hold the same rows.
    """
    if not torch.equal(filtering.valid, smoothing.valid):
        raise ValueError("filtering, smoothing: expected the same rows, got different `valid`")
    refined = refine(smoothing, steps=steps, samples=samples, learning_rate=learning_rate, generator=generator)
    return GapDecomposition(
        filtering=mean_elbo(filtering, draws, generator=generator),
        smoothing=mean_elbo(smoothing, draws, generator=generator),
        refined=mean_elbo(refined, draws, generator=generator),
        log_evidence=log_evidence.double(),
        steps=filtering.valid.sum(1),
    )


def join_gaps(parts: Sequence[GapDecomposition]) -> GapDecomposition:
    """The gap of all sequences, from that of some at a time; without a certificate, which takes all of them."""

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return GapDecomposition(
        filtering=rows("filtering"),
        smoothing=rows("smoothing"),
        refined=rows("refined"),
        log_evidence=rows("log_evidence"),
        steps=rows("steps"),
        trained=None if parts[0].trained is None else rows("trained"),
    )
