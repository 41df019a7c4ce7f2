"""Factor analysis and probabilistic PCA, in float64, as latent sequences of one step.

    z ~ N(0, I),    x = W z + mean + N(0, diag(noise))

Probabilistic PCA is the case in which all entries have the same noise; its maximum has a closed form.

| B | data points | n | width of z | D | width of x | N | samples |

Sources: Rubin and Thayer 1982; Tipping and Bishop 1999.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.checks import as_rows, expect_positive, expect_shape
from worldmodel.oracles.distributions import Gaussian, symmetric
from worldmodel.oracles.linear_gaussian import LinearGaussian, LinearGaussianSequence
from worldmodel.oracles.markov_gaussian import MarkovGaussian
from worldmodel.types import Latent


@dataclass(frozen=True)
class FactorAnalysis:
    """The parameters, float64.

    Raises:
        ValueError: if a shape disagrees, or a noise is not positive.
    """

    W: Float[Tensor, "D n"]
    mean: Float[Tensor, " D"]
    noise: Float[Tensor, " D"]  # variances

    def __post_init__(self) -> None:
        D = self.mean.numel()
        expect_shape("mean", self.mean, D)
        expect_shape("W", self.W, D, self.W.shape[-1])
        expect_shape("noise", self.noise, D)
        expect_positive("noise", self.noise)

    def marginal(self, batch: int) -> Gaussian:
        """p(x) = N(mean, W W' + diag(noise)) for every data point of a batch."""
        return Gaussian(self.mean.expand(batch, -1), self.W @ self.W.mT + torch.diag(self.noise))

    def log_evidence(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """log p(x) in nats."""
        x = as_rows("x", x, None, self.mean.numel())
        return self.marginal(len(x)).log_prob(x)[:, 0]

    def posterior(self, x: Float[Tensor, "B D"]) -> Gaussian:
        """p(z | x) = N(V W' diag(noise)^-1 (x - mean), V),   V = (I + W' diag(noise)^-1 W)^-1."""
        x = as_rows("x", x, None, self.mean.numel())
        weighted = self.W / self.noise[:, None]
        identity = torch.eye(self.W.shape[-1]).to(self.W)
        V = symmetric(torch.linalg.inv(identity + self.W.mT @ weighted))
        return Gaussian((x - self.mean) @ weighted @ V, V.expand(len(x), -1, -1))

    @torch.no_grad()
    def simulate(
        self, batch: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B n"], Float[Tensor, "B D"]]:
        """Factors and data points drawn from the model."""
        z, x = self.chain().simulate(self.mean.new_zeros(batch, 1, 0), generator)
        return z[:, 0], x[:, 0]

    def chain(self) -> LinearGaussian:
        """The same model as the first step of a linear-Gaussian one."""
        identity = torch.eye(self.W.shape[-1]).to(self.W)
        start = {"m": torch.zeros_like(self.W[0]), "P": identity}
        return LinearGaussian.create(A=identity, Q=identity, C=self.W, d=self.mean, R=torch.diag(self.noise), **start)

    def elbo(self, q: Gaussian, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """The bound of every data point under q(z), [B, n], exactly."""
        return self.chain().elbo(one_step(q), x[:, None])[:, 0]

    def m_step(self, q: Gaussian, x: Float[Tensor, "B D"], *, isotropic: bool = False) -> "FactorAnalysis":
        """The M-step of EM: the parameters that maximise the bound under q, by a regression of x on (z, 1).

        Args:
            q: of every data point, [B, n].
            x: the data points.
            isotropic: the same noise for all entries, as in probabilistic PCA.
        """
        x = as_rows("x", x, None, self.mean.numel())
        r = torch.cat([q.mean, torch.ones_like(x[:, :1])], -1)  # [B, n + 1]
        rr, xr, n = r.mT @ r, x.mT @ r, q.mean.shape[-1]
        rr[:n, :n] += q.cov.expand(len(x), n, n).sum(0)
        weights = torch.linalg.solve(rr, xr.mT).mT
        noise = (x.square().sum(0) - 2 * (weights * xr).sum(-1) + ((weights @ rr) * weights).sum(-1)) / len(x)
        noise = noise.mean().expand_as(noise).clone() if isotropic else noise
        return FactorAnalysis(weights[:, :n], weights[:, n], noise)

    def given(
        self, x: Float[Tensor, "B D"], *, proposal: Callable[[Tensor, int], Latent] | Gaussian | None = None
    ) -> LinearGaussianSequence:
        """The model together with its data, as a `worldmodel.types.LatentSequence` of T = 1.

        Args:
            x: data points, one in each sequence; NaN where an entry was not observed.
            proposal: q(z) as a Gaussian [B, n], or as in `LinearGaussian.given`; the exact posterior by default.
        """
        q = one_step(proposal) if isinstance(proposal, Gaussian) else proposal
        return self.chain().given(x[:, None], proposal=q)


def one_step(q: Gaussian) -> MarkovGaussian:
    """q(z), [B, n], as a Markov chain of one step."""
    cov = q.cov.expand(*q.mean.shape, q.mean.shape[-1])[:, None]
    return MarkovGaussian(torch.zeros_like(cov), q.mean[:, None], cov)


def probabilistic_pca(x: Float[Tensor, "B D"], width: int) -> FactorAnalysis:
    """Probabilistic PCA of greatest evidence, from the eigenvectors u_i and eigenvalues l_i of the data's covariance.

    noise = mean of the D - n smallest l_i,    W = [u_i sqrt(l_i - noise)] over the n largest

    Args:
        x: data points.
        width: n, less than D.
    Source: Tipping and Bishop 1999, equations 7 and 8.
    """
    x = as_rows("x", x, None, None)
    if not 0 < width < x.shape[1]:
        raise ValueError(f"width: expected a number from 1 to {x.shape[1] - 1}, got {width}")
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).mT @ (x - mean) / len(x))  # ascending
    noise = values[:-width].mean()
    W = vectors[:, -width:] * (values[-width:] - noise).clamp(min=0).sqrt()
    return FactorAnalysis(W, mean, noise.expand(x.shape[1]).clone())
