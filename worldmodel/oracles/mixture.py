"""A mixture of Gaussians, in float64, as a latent sequence of one step.

    p(z = k) = weight_k,    p(x | z = k) = N(mean_k, cov_k)

| B | data points | K | components | D | width of x | N | samples |

Source: Dempster, Laird and Rubin 1977.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.checks import as_rows, expect_covariance, expect_probabilities, expect_shape
from worldmodel.oracles.distributions import Gaussian, symmetric
from worldmodel.oracles.hmm import HiddenMarkov, HiddenMarkovSequence
from worldmodel.oracles.markov_categorical import MarkovCategorical, chain_of, one_hot_rows
from worldmodel.types import Latent


@dataclass(frozen=True)
class GaussianMixture:
    """The parameters, float64.

    Raises:
        ValueError: if a shape disagrees, a covariance is not positive definite, or the weights do not sum to one.
    """

    weight: Float[Tensor, " K"]
    mean: Float[Tensor, "K D"]
    cov: Float[Tensor, "K D D"]

    def __post_init__(self) -> None:
        K, D = self.weight.numel(), self.mean.shape[-1]
        expect_shape("weight", self.weight, K)
        expect_probabilities("weight", self.weight)
        expect_shape("mean", self.mean, K, D)
        expect_shape("cov", self.cov, K, D, D)
        for k, cov in enumerate(self.cov):
            expect_covariance(f"cov[{k}]", cov, D)

    def log_likelihood(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """log p(x | z = k) in nats."""
        x = as_rows("x", x, None, self.mean.shape[-1])
        components = Gaussian(self.mean, self.cov)
        return components.log_prob(x[:, None].expand(-1, len(self.weight), -1))[..., 0]

    def log_evidence(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """log p(x) = log sum_k weight_k p(x | z = k) in nats."""
        return (self.weight.log() + self.log_likelihood(x)).logsumexp(-1)

    def posterior(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """p(z = k | x), the responsibilities."""
        return (self.weight.log() + self.log_likelihood(x)).softmax(-1)

    @torch.no_grad()
    def simulate(
        self, batch: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B D"]]:
        """One-hot components and data points drawn from the model."""
        index = torch.multinomial(self.weight, batch, replacement=True, generator=generator)
        x = Gaussian(self.mean[index], self.cov[index]).sample(generator)
        return one_hot_rows(index, len(self.weight)), x

    def chain(self) -> HiddenMarkov:
        """The same prior as the first step of a hidden Markov model."""
        return HiddenMarkov(self.weight, torch.eye(len(self.weight)).to(self.weight)[None])

    def elbo(self, q: Float[Tensor, "B K"], x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """The bound of every data point under q(z = k), exactly: sum_k q_k (log p(x, z = k) - log q_k)."""
        return self.chain().elbo(chain_of(q), self.log_likelihood(x)[:, None])[:, 0]

    def m_step(self, q: Float[Tensor, "B K"], x: Float[Tensor, "B D"]) -> "GaussianMixture":
        """The M-step of EM: the shares, means and covariances, weighted by q, that maximise the bound.

        Raises:
            ValueError: if a component keeps too little weight for a positive definite covariance.
        """
        x = as_rows("x", x, None, self.mean.shape[-1])
        share = q.sum(0)
        mean = q.mT @ x / share[:, None]
        apart = x[:, None] - mean  # [B, K, D]
        cov = torch.einsum("bk,bki,bkj->kij", q, apart, apart) / share[:, None, None]
        return GaussianMixture(share / share.sum(), mean, symmetric(cov))

    def given(
        self, x: Float[Tensor, "B D"], *, proposal: Callable[[Tensor, int], Latent] | Float[Tensor, "B K"] | None = None
    ) -> HiddenMarkovSequence:
        """The model together with its data, as a `worldmodel.types.LatentSequence` of T = 1.

        Args:
            x: data points, one in each sequence.
            proposal: q(z = k) as probabilities [B, K], or as in `HiddenMarkov.given`; the exact posterior by default.
        """
        q: Callable[[Tensor, int], Latent] | MarkovCategorical | None
        q = chain_of(proposal) if isinstance(proposal, Tensor) else proposal
        return self.chain().given({"observation": self.log_likelihood(x)[:, None]}, proposal=q)
