"""The sandwich: bounds of the evidence from both sides, on sequences that the model itself has simulated.

    E[ log p^ ]  <=  log p(x)  <=  E[ log p^_c ]

SMC is below, conditional SMC along the simulated latents above. The width between them certifies proposal, particles
and length on the model's own data; on recorded data the lower bound alone is to be had.

Sources: Grosse, Ghahramani and Adams 2015, arXiv 1511.02543; Andrieu, Doucet and Holenstein 2010, JRSS B 72.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.evidence.estimate import Estimate, per_step
from worldmodel.evidence.smc import THRESHOLD, smc
from worldmodel.types import ParticleSequence


@dataclass(frozen=True)
class Sandwich:
    """Bounds from both sides of the evidence of B simulated sequences, R runs each, in nats."""

    lower: Float[Tensor, "R B"]
    upper: Float[Tensor, "R B"]
    steps: Int[Tensor, " B"]  # rows that count

    @property
    def width(self) -> Estimate:
        """upper - lower in nats per step, with its standard error over sequences. Noise can make it negative."""
        return per_step((self.upper - self.lower).mean(0), self.steps)


def sandwich(
    sequence: ParticleSequence,
    path: Float[Tensor, "B T Z"],
    particles: int,
    *,
    runs: int = 1,
    generator: torch.Generator | None = None,
    prior_share: float = 0.0,
    threshold: float = THRESHOLD,
) -> Sandwich:
    """Bound the evidence of simulated sequences from both sides, with the settings of the estimate to be certified.

    Args:
        sequence: the model, given sequences that it has simulated.
        path: the latents z_1:T that it simulated them from.
        particles, prior_share, threshold: of `smc`.
        runs: R repetitions of either bound.
        generator: source of all draws.
    Raises:
        ValueError: if an argument is out of range.
    """
    require_positive(runs=runs)

    def bound(along: Tensor | None) -> Float[Tensor, "R B"]:
        estimates = [
            smc(sequence, particles, generator=generator, prior_share=prior_share, threshold=threshold, path=along)
            for _ in range(runs)
        ]
        return torch.stack([estimate.log_evidence for estimate in estimates])

    return Sandwich(bound(None), bound(path), sequence.valid.sum(1))
