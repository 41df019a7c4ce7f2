"""Scoring rules: how good a predictive distribution was, once the truth is known. Pure functions of tensors.

Negative log-likelihood and CRPS are proper: in expectation, the true distribution scores best. Lower is better.
Predictions made of samples have the samples leading, [N, ...], independent of each other.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

COVERAGE = 0.9  # nominal, of the central intervals
HALF_WIDTH = 1.6448536269514722  # of the central 90 % of a standard Gaussian
RESAMPLES = 1000  # of the bootstrap


class Band(NamedTuple):
    """A score by horizon and its interval, of 90 % unless said otherwise; the interval of a single episode is NaN."""

    mean: Float[np.ndarray, " H"]
    low: Float[np.ndarray, " H"]
    high: Float[np.ndarray, " H"]


def mixture_nll(log_prob: Float[Tensor, "N ..."]) -> Float[Tensor, "..."]:
    """-log( 1/N sum_n p_n(x) ) from log p_n(x), in nats.

    With few samples it overstates the nats of the predictive distribution they come from (Jensen), never the reverse.
    """
    return math.log(log_prob.shape[0]) - torch.logsumexp(log_prob, 0)


def sample_crps(draws: Float[Tensor, "N ..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The continuous ranked probability score from N >= 2 independent draws, in the units of x.

        CRPS = E|X - x| - 1/2 E|X - X'|,   estimated by   1/N sum_i |X_i - x| - 1/(N (N - 1)) sum_{i<j} |X_i - X_j|

    The fair estimator: unbiased whatever N, so that predictions of few and of many samples can be compared. The sum
    over pairs is sum_i (2 i - N - 1) X_(i) over sorted draws. Source: Ferro 2014, doi 10.1002/qj.2270.
    """
    N = draws.shape[0]
    assert N > 1, "the spread of one draw is not known"
    weight = torch.arange(1 - N, N, 2, dtype=draws.dtype, device=draws.device)
    pairs = torch.tensordot(weight, draws.sort(0).values, 1)
    return (draws - x).abs().mean(0) - pairs / (N * (N - 1))


def rank_coverage(
    draws: Float[Tensor, "N ..."], x: Float[Tensor, "..."], coverage: float = COVERAGE
) -> Float[Tensor, "..."]:
    """Whether x lies in the central 90 % of the draws, from its rank among them; between 0 and 1 at the edges.

    If x is drawn as the N draws are, its rank R is uniform over 0 .. N, so u = (R + v) / (N + 1) with v uniform is
    uniform too. What is returned is P(0.05 < u < 0.95 | R), whose mean is then 0.9 exactly, whatever N; quantiles
    interpolated between few draws would cover less. Below 19 draws even an x outside all of them counts a little:
    1 - (N + 1) / 20. Another `coverage` has its central part in the same way.
    Source: the randomised rank histogram, Hamill 2001.
    """
    N = draws.shape[0]
    tail = (1 - coverage) / 2 * (N + 1)
    rank = (draws < x).sum(0).to(x.dtype)
    return ((rank + 1).clamp(max=N + 1 - tail) - rank.clamp(min=tail)).clamp(min=0)


def gaussian_nll(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """-log N(x; mean, std^2) of each number, in nats."""
    return 0.5 * ((x - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)


def gaussian_crps(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """The CRPS of N(mean, std^2) at each number: std ( z (2 F(z) - 1) + 2 f(z) - 1 / sqrt(pi) ), z = (x - mean) / std.

    Source: Gneiting and Raftery 2007, doi 10.1198/016214506000001437, section 4.2.
    """
    z = (x - mean) / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def gaussian_coverage(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """One where x lies in the central 90 % of N(mean, std^2), zero elsewhere."""
    return ((x - mean).abs() <= HALF_WIDTH * std).to(x.dtype)


def resample(episodes: int, generator: torch.Generator, draws: int = RESAMPLES) -> Int[Tensor, "R E"]:
    """How often each of E episodes is drawn in each of R bootstrap samples of E episodes, with replacement."""
    chosen = torch.randint(episodes, (draws, episodes), generator=generator, device=generator.device)
    counts = torch.zeros_like(chosen)
    return counts.scatter_add_(1, chosen, torch.ones_like(chosen))


def bootstrap(
    total: Float[Tensor, "E H"], count: Int[Tensor, " E"], resamples: Int[Tensor, "R E"], coverage: float = COVERAGE
) -> Band:
    """The mean over futures, with the central part of its bootstrap distribution over episodes.

    Episodes are resampled, not futures: futures of one episode depend on each other, episodes do not.

    Args:
        total: sums over the futures of each episode, by horizon.
        count: futures of each episode, at least one.
        resamples: from `resample`.
        coverage: of the interval.
    """
    mean = (total.sum(0) / count.sum()).double()
    weight = resamples.double()
    again = (weight @ total.double()) / (weight @ count.double())[:, None]  # [R, H]
    if len(count) < 2:
        again = torch.full_like(again, math.nan)
    tail = (1 - coverage) / 2
    low, high = again.quantile(torch.tensor([tail, 1 - tail], dtype=again.dtype), dim=0)
    return Band(mean.numpy(), low.numpy(), high.numpy())
