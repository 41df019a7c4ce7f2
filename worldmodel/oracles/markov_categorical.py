"""A Markov chain over K classes, the form of the exact posterior of a hidden Markov model and of its approximations.

q(z_1:T) = prod_t q(z_t | z_{t-1})
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from worldmodel.oracles.distributions import OneHot, expectation


@dataclass(frozen=True)
class MarkovCategorical:
    """q(z_t = j | z_{t-1} = i) of B sequences of T steps. Calling it gives a proposal over one-hot vectors.

    At the first step, every row i holds q(z_1 = j).

    Raises:
        ValueError: if the rows of the first step differ.
    """

    log_probs: Float[Tensor, "B T K K"]  # normalised over the last dimension; -inf is a class that is excluded

    def __post_init__(self) -> None:
        first = self.log_probs[:, 0]
        if not bool((first == first[:, :1]).all()):
            raise ValueError("log_probs: expected the same row K times at the first step, got rows that differ")

    def __call__(self, previous: Float[Tensor, "N B K"], t: int) -> OneHot:
        """q(z_t | z_{t-1}) for the one-hot z_{t-1} = previous."""
        return OneHot(select(self.log_probs[:, t], previous.argmax(-1)))

    def pairs(self) -> Float[Tensor, "B T K K"]:
        """q(z_{t-1} = i, z_t = j); at the first step, q(z_1 = j) / K in every row i."""
        K = self.log_probs.shape[-1]
        before, pairs = self.log_probs.new_full((len(self.log_probs), K), 1 / K), []
        for t in range(self.log_probs.shape[1]):
            pairs.append(before[..., None] * self.log_probs[:, t].exp())
            before = pairs[-1].sum(-2)
        return torch.stack(pairs, 1)

    def marginals(self) -> Float[Tensor, "B T K"]:
        """q(z_t = j) at every step."""
        return self.pairs().sum(-2)

    def sample(self, samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "N B T K"]:
        """Draws of z_1:T as one-hot vectors, first step first."""
        batch, steps, K, _ = self.log_probs.shape
        z = [self.log_probs.new_zeros(samples, batch, K)]
        for t in range(steps):
            z.append(self(z[-1], t).sample(generator))
        return torch.stack(z[1:], 2)

    def log_prob(self, z: Float[Tensor, "N B T K"]) -> Float[Tensor, "N B"]:
        """log q(z_1:T) in nats."""
        steps = [self(z[:, :, max(t - 1, 0)], t).log_prob(z[:, :, t])[..., 0] for t in range(z.shape[2])]
        return torch.stack(steps).sum(0)

    def entropy(self) -> Float[Tensor, "B T"]:
        """Expected entropy of q(z_t | z_{t-1}) at every step, in nats; their sum is that of q(z_1:T)."""
        return -expectation(self.pairs().flatten(-2), self.log_probs.flatten(-2))[..., 0]


def select(rows: Float[Tensor, "B K K"], index: Int[Tensor, "N B"]) -> Float[Tensor, "N B K"]:
    """Row index[n, b] of the matrix of sequence b."""
    return rows[torch.arange(len(rows), device=rows.device), index]


def chain_of(probs: Float[Tensor, "B K"]) -> MarkovCategorical:
    """The chain of one step with these probabilities."""
    return MarkovCategorical(probs.log()[:, None, None, :].expand(-1, 1, probs.shape[-1], -1))


def one_hot_rows(index: Int[Tensor, "*batch"], classes: int) -> Float[Tensor, "*batch K"]:
    """Classes as one-hot vectors in float64."""
    return one_hot(index, classes).double()
