"""How sure a single run of particles is, from the particles alone: the variance of its estimate, and its weights' tail.

With E_i the index of the first particle that particle i descends from, W_i its normalised weight, and N_0, N_1, ... the
numbers of particles at the start and after every resampling,

    V = 1 - prod_k N_k / (N_k - 1)  sum_{E_i != E_j} W_i W_j

estimates var(p^) / p^2, the square of the standard error of log p^ where that is small: p^^2 V is unbiased for var(p^)
with multinomial resampling, or none. Systematic resampling spreads descendants more evenly than the factors assume; V
then came out at half the variance, or below zero, and is not given. Nor is it once nearly all particles descend from
one, where it says nothing; `FEWEST_ANCESTORS` tells when.

The largest weights are compared with a generalised Pareto distribution of shape k: above 1/2 the variance of the
weights is infinite, above 0.7 an average of so many of them is not to be relied on.

Sources: Lee and Whiteley 2018, Biometrika 105, 609, section 3 (variance); Zhang and Stephens 2009, Technometrics 51,
316 (fit of k); Vehtari et al. 2024, JMLR 25 (72), section 3 and appendix G (number of weights, prior of k, 0.7).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNRELIABLE = 0.7  # a Pareto k above which an average of weights is not to be relied on
FEWEST_ANCESTORS = 3.0  # effective number of first particles that the last ones must descend from
FEWEST = 25  # weights that a tail is fitted to, at least
PRIOR_COUNT, PRIOR_K = 10, 0.5  # the prior of k: as so many weights with this k


class Descent(NamedTuple):
    """Whom the particles descend from, and how often they were resampled."""

    first: Int[Tensor, "N B"]  # E
    log_factor: Float[Tensor, " B"]  # sum_k log( N_k / (N_k - 1) ); infinite where V is not known

    @classmethod
    def begin(cls, weight: Float[Tensor, "N B"], *, free: bool) -> "Descent":
        """Before the first resampling of particles like these; not `free` where one of them follows a given path."""
        N, B = weight.shape
        first = torch.arange(N, device=weight.device)[:, None].expand(N, B)
        return cls(first, torch.full_like(weight[0], _log_factor(N) if free else math.inf))

    def after(self, ancestors: Int[Tensor, "M B"], chosen: Bool[Tensor, " B"], *, independent: bool) -> "Descent":
        """After the chosen sequences, or all where the number changes, were resampled; independently of each other?"""
        M = len(ancestors)
        again = self.first.gather(0, ancestors)
        first = torch.where(chosen, again, self.first) if len(self.first) == M else again
        more = _log_factor(M) if independent else math.inf
        return Descent(first, torch.where(chosen, self.log_factor + more, self.log_factor))

    def relative_variance(self, weight: Float[Tensor, "N B"]) -> Float[Tensor, " B"]:
        """V of each sequence, which can be below zero by chance, from normalised weights W.

        NaN where too few first particles are left to tell.
        """
        by_first = weight.new_zeros(int(self.first.max()) + 1, weight.shape[1]).scatter_add(0, self.first, weight)
        together = by_first.square().sum(0)  # that two particles, drawn by their weights, have one ancestor
        variance = 1 - self.log_factor.exp() * (1 - together)
        return torch.where((together * FEWEST_ANCESTORS < 1) & variance.isfinite(), variance, math.nan)


def _log_factor(particles: int) -> float:
    """log( N / (N - 1) ), by which the pairs of N particles that are not one and the same are fewer than all."""
    return -math.log1p(-1 / particles) if particles > 1 else math.inf


def pareto_k(log_weight: Float[Tensor, "N B"]) -> Float[Tensor, " B"]:
    """The shape k of the tail of each sequence's weights; NaN for fewer than 25, zero where the largest are equal.

    The M = min(N / 5, 3 sqrt N) largest weights' excess x over the next one, by the profile likelihood in b:

        k(b) = mean log(1 - b x),    l(b) = M ( log(-b / k(b)) - k(b) - 1 ),    b averaged over a grid by exp(l)
    """
    N = len(log_weight)
    M = math.ceil(min(N / 5, 3 * math.sqrt(N)))
    if N < FEWEST:
        return torch.full_like(log_weight[0], math.nan)
    largest = (log_weight - log_weight.amax(0)).exp().topk(M + 1, 0).values
    x = (largest[:-1] - largest[-1]).flip(0)  # ascending
    known = x[0] < x[-1]
    x = torch.where(known, x, torch.linspace(0.1, 1, M, dtype=x.dtype, device=x.device)[:, None])
    points = 30 + int(math.sqrt(M))
    j = torch.arange(1, points + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[max(0, int(M / 4 + 0.5) - 1)].clamp(min=torch.finfo(x.dtype).tiny)
    b = 1 / x[-1] + (1 - (points / (j - 0.5)).sqrt()) / (3 * quartile)  # [points, B]
    k = torch.log1p(-b[:, None] * x).mean(1)
    likelihood = M * ((-b / k).log() - k - 1)
    b = (b * likelihood.nan_to_num(nan=-math.inf).softmax(0)).sum(0)
    k = torch.log1p(-b * x).mean(0)
    k = (M * k + PRIOR_COUNT * PRIOR_K) / (M + PRIOR_COUNT)
    return torch.where(known, k, 0.0)
