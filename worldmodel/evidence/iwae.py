"""The importance-weighted bound of whole sequences: sum over time first, then average over samples, then the logarithm.

    log p(x_1:T) >= E log 1/N sum_i exp( sum_t log w_t^i ),    w_t = p(x_t | h_t, z_t) p(z_t | h_t) / q(z_t | h_t, x)

It is SMC that never resamples, in memory that does not grow with N. Its error grows exponentially in T, so it is a
cross-check for short sequences. Averaging over samples at every step, before the sum over time, is no bound at all.

Source: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519, equation 8.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.evidence.smc import move
from worldmodel.types import LatentSequence

SAMPLES_AT_ONCE = 64  # paths; each keeps only its state from row to row
DRAWS_AT_ONCE = 32  # of the bound


class ImportanceEvidence(NamedTuple):
    """One estimate of the evidence of B sequences, in float64."""

    log_evidence: Float[Tensor, " B"]  # log p^(x_1:T), nats
    ess: Float[Tensor, " B"]  # effective number of samples, in [1, N]


@torch.no_grad()
def iwae(sequence: LatentSequence, samples: int, *, generator: torch.Generator | None = None) -> ImportanceEvidence:
    """Estimate log p(x_1:T) of every sequence by importance sampling of whole latent paths from q.

    Args:
        sequence: the model and its B sequences.
        samples: N paths for each sequence.
        generator: source of all draws.
    Raises:
        ValueError: if samples is not positive.
    """
    require_positive(samples=samples)
    device = sequence.valid.device
    total = torch.full((len(sequence.valid),), -math.inf, dtype=torch.float64, device=device)  # log sum_i w_i
    squares = total.clone()  # log sum_i w_i^2
    for start in range(0, samples, SAMPLES_AT_ONCE):
        log_weight = log_path_weights(sequence, min(SAMPLES_AT_ONCE, samples - start), generator=generator)
        total = torch.logaddexp(total, log_weight.logsumexp(0))
        squares = torch.logaddexp(squares, (2 * log_weight).logsumexp(0))
    return ImportanceEvidence(total - math.log(samples), (2 * total - squares).exp())


@torch.no_grad()
def log_path_weights(
    sequence: LatentSequence, samples: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "N B"]:
    """log p(x_1:T, z_1:T) - log q(z_1:T | x) for N draws of z_1:T from q, in nats, float64; their mean is the ELBO."""
    carry = sequence.initial(samples)
    total = torch.zeros(samples, len(sequence.valid), dtype=torch.float64, device=sequence.valid.device)
    for t, valid in enumerate(sequence.valid.unbind(1)):
        carry, _, log_weight = move(sequence, carry, t, 0.0, generator)
        total = total + torch.where(valid, log_weight, 0.0)
    return total


@torch.no_grad()
def mean_elbo(sequence: LatentSequence, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, " B"]:
    """The bound of every sequence in nats, float64: the mean of log p(x, z) - log q(z | x) over draws of z.

    The KL is sampled too: near the posterior it makes up for what the reconstruction varies by, which the KL in closed
    form does not. Of the exact posterior every draw is the evidence itself.
    """
    require_positive(draws=draws)
    total = torch.zeros(len(sequence.valid), dtype=torch.float64, device=sequence.valid.device)
    for start in range(0, draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, draws - start)
        total += log_path_weights(sequence, count, generator=generator).sum(0)
    return total / draws
