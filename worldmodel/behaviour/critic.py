"""The critic: a value as probabilities over fixed bins, and a slow copy of it.

A target between two bins is shared by them so that its mean is the target (two-hot). Fitting these shares by
cross-entropy makes the critic's mean the mean of its targets, whatever their distribution within the bins: gradients do
not grow with the size of the returns, and a mixture of far apart returns keeps its mean. The cross-entropy is a loss
and no log-likelihood: `models.likelihoods.TwoHot` is the density that it is a part of.

Source: Hafner et al. 2023, arXiv 2301.04104, section "critic learning", equations 8 to 10.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from worldmodel.checks import require_above_zero, require_positive
from worldmodel.kernels.precision import full_precision
from worldmodel.models.likelihoods import symexp_bins
from worldmodel.models.networks import mlp


@dataclass(frozen=True)
class BinnedValue:
    """A value in the environment's reward units, as probabilities p_i over bins b_i: its mean is sum_i p_i b_i."""

    logits: Float[Tensor, "*batch n"]
    bins: Float[Tensor, " n"]

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """sum_i p_i b_i, summed in float64: the outer bins are huge, and their shares cancel."""
        return (self.logits.double().softmax(-1) * self.bins.double()).sum(-1).to(self.logits.dtype)

    def cross_entropy(self, target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """-sum_i t_i log p_i for the two-hot target t: a loss in nats, and no log-likelihood."""
        return -(two_hot(target, self.bins) * log_softmax(self.logits, -1)).sum(-1)


def two_hot(x: Float[Tensor, "*batch"], bins: Float[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
    """Shares of the two bins around x, linear in x, so that sum_i t_i b_i = x; x is clamped to the outermost bins.

    Args:
        x: numbers, in the units of the bins. No gradient reaches them.
        bins: in rising order.
    """
    x = x.detach().to(bins.dtype).clamp(bins[0], bins[-1]).contiguous()
    upper = torch.searchsorted(bins, x).clamp(1, len(bins) - 1)
    left, right = bins[upper - 1], bins[upper]
    share = ((x - left) / (right - left))[..., None]
    target = x.new_zeros(*x.shape, len(bins))
    return target.scatter(-1, upper[..., None] - 1, 1 - share).scatter(-1, upper[..., None], share)


class Critic(nn.Module):
    """A perceptron from the features of a state to a `BinnedValue`; zero everywhere before the first update."""

    bins: Tensor

    def __init__(self, features: int, *, units: int = 64, layers: int = 2, bins: int = 63, limit: float = 10.0) -> None:
        """Args:
        features: width F of what it reads.
        units, layers: of the hidden layers.
        bins: how many, an odd number; evenly spaced in symlog units.
        limit: the outermost bins, in symlog units: values lie within +-symexp(limit) = +-(exp(limit) - 1).
        Raises:
            ValueError: if there is no hidden layer, the number of bins is not odd, or limit is not positive.
        """
        super().__init__()
        require_positive(units=units, layers=layers)
        require_above_zero(limit=limit)
        self.hidden = mlp([features, *[units] * layers])
        self.head = nn.Linear(units, bins)
        nn.init.zeros_(self.head.weight)  # equal shares of bins that lie evenly around zero: a value of zero
        nn.init.zeros_(self.head.bias)
        self.register_buffer("bins", symexp_bins(bins, limit))

    def forward(self, features: Float[Tensor, "*batch F"]) -> BinnedValue:
        """The value of states with any leading shape."""
        return BinnedValue(full_precision(self.head(self.hidden(features))), self.bins)


class CriticLoss(NamedTuple):
    """What the critic minimises, by step and before any weighting: the first plus `regularisation` times the second."""

    to_returns: Float[Tensor, "*batch"]
    to_slow: Float[Tensor, "*batch"]


def critic_loss(
    value: BinnedValue, returns: Float[Tensor, "*batch"], slow_value: Float[Tensor, "*batch"]
) -> CriticLoss:
    """Cross-entropy towards the returns, and towards the slow critic's value, which damps the critic's own echo.

    Args:
        value: the critic's, at the states the returns start from.
        returns: targets, such as `returns.lambda_return`.
        slow_value: mean of the slow critic at the same states.
    """
    return CriticLoss(value.cross_entropy(returns), value.cross_entropy(slow_value))


@torch.no_grad()
def move_towards(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Moving average of weights: slow <- slow + rate (fast - slow), parameter by parameter; a rate of 1 copies."""
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, rate)
