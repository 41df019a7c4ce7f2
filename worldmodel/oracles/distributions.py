"""The two distributions of the oracles' latents: a Gaussian with a full covariance, and a one-hot vector.

Each is a single latent group (S = 1), since the entries of z_t are dependent: log_prob, entropy and kl have a last
dimension of size one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, cov). With a singular covariance it has moments and samples, but no density."""

    mean: Float[Tensor, "*batch Z"]
    cov: Float[Tensor, "*#batch Z Z"]
    reparameterised: ClassVar[bool] = True  # whether the gradient of `rsample` is exact

    @cached_property
    def scale_tril(self) -> Float[Tensor, "*#batch Z Z"]:
        """The lower Cholesky factor L of the covariance, L L' = cov."""
        return torch.linalg.cholesky(self.cov)

    def rsample(self, noise: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch Z"]:
        """mean + L noise, for standard normal noise."""
        return self.mean + apply(self.scale_tril, noise)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw, without gradient; the covariance may be singular."""
        return self.mean + apply(square_root(self.cov), self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """Standard normal noise for `rsample`."""
        mean = self.mean
        return torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch 1"]:
        """log N(z; mean, cov) in nats."""
        white = whiten(self.scale_tril, z - self.mean)
        return (-0.5 * (white.square().sum(-1) + z.shape[-1] * LOG_2PI) - half_log_det(self.scale_tril))[..., None]

    def entropy(self) -> Float[Tensor, "*batch 1"]:
        """log det(2 pi e cov) / 2, in nats."""
        entropy = half_log_det(self.scale_tril) + 0.5 * self.mean.shape[-1] * (1 + LOG_2PI)
        return entropy.expand(self.mean.shape[:-1])[..., None]

    def kl(self, other: "Gaussian") -> Float[Tensor, "*batch 1"]:
        """KL(self || other) in nats.

        (tr(cov_o^-1 cov) + (mean - mean_o)' cov_o^-1 (mean - mean_o) - Z + log det cov_o - log det cov) / 2
        """
        ratio = torch.linalg.solve_triangular(other.scale_tril, self.scale_tril, upper=False)
        distance = whiten(other.scale_tril, self.mean - other.mean).square().sum(-1)
        spread = ratio.square().sum((-2, -1)) - self.mean.shape[-1]
        log_ratio = half_log_det(other.scale_tril) - half_log_det(self.scale_tril)
        return (0.5 * (spread + distance) + log_ratio)[..., None]

    def detach(self) -> "Gaussian":
        """The same distribution, detached from the graph of gradients."""
        return Gaussian(self.mean.detach(), self.cov.detach())

    @property
    def parameters(self) -> int:
        """P = Z + Z^2, the width of an offset for `shifted`, which reads the lower triangle of the last Z^2 only."""
        return self.mean.shape[-1] * (1 + self.mean.shape[-1])

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "Gaussian":
        """The Gaussian with mean + d and Cholesky factor L M, where the offset holds d and a Z x Z matrix.

        M is the lower triangle of that matrix with its diagonal exponentiated. A zero offset changes nothing, and every
        covariance can be reached from any L.
        """
        Z = self.mean.shape[-1]
        d, M = offset[..., :Z], offset[..., Z:].unflatten(-1, (Z, Z))
        L = self.scale_tril @ (M.tril(-1) + torch.diag_embed(M.diagonal(dim1=-2, dim2=-1).exp()))
        return Gaussian(self.mean + d, L @ L.mT)


@dataclass(frozen=True)
class OneHot:
    """One of K classes as a one-hot vector. A class may have probability zero, its log-probability -inf."""

    log_probs: Float[Tensor, "*batch K"]  # normalised
    reparameterised: ClassVar[bool] = False

    def rsample(self, noise: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
        """A one-hot sample by Gumbel-max from uniform noise, with the straight-through gradient of the probabilities.

        Source: Bengio et al. 2013, arXiv 1308.3432.
        """
        probs, tiny = self.log_probs.exp(), torch.finfo(noise.dtype).tiny
        gumbel = -torch.log(-torch.log(noise.clamp(tiny, 1 - torch.finfo(noise.dtype).eps)))
        hard = one_hot((self.log_probs + gumbel).argmax(-1), probs.shape[-1]).to(probs.dtype)
        return hard + (probs - probs.detach())

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch K"]:
        """One draw, without gradient."""
        return self.rsample(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch K"]:
        """Uniform noise for `rsample`."""
        like = self.log_probs
        return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def log_prob(self, z: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch 1"]:
        """log-mass of the class that z is one-hot for, in nats; -inf where it is impossible."""
        return torch.where(z > 0, self.log_probs, 0.0).sum(-1, keepdim=True)

    def entropy(self) -> Float[Tensor, "*batch 1"]:
        """-sum_k p_k log p_k in nats, with 0 log 0 = 0."""
        return -expectation(self.log_probs.exp(), self.log_probs)

    def kl(self, other: "OneHot") -> Float[Tensor, "*batch 1"]:
        """sum_k p_k (log p_k - log q_k) in nats; infinite where the other excludes a class that this one has."""
        return expectation(self.log_probs.exp(), self.log_probs - other.log_probs)

    def detach(self) -> "OneHot":
        """The same distribution, detached from the graph of gradients."""
        return OneHot(self.log_probs.detach())

    @property
    def parameters(self) -> int:
        """P = K, the width of an offset for `shifted`."""
        return self.log_probs.shape[-1]

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "OneHot":
        """The distribution with an offset added to its logits. A class of probability zero keeps it."""
        return OneHot((self.log_probs + offset).log_softmax(-1))


def expectation(probs: Float[Tensor, "*batch K"], values: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch 1"]:
    """sum_k p_k v_k, where a class of probability zero contributes zero, even with an infinite value."""
    return torch.where(probs > 0, probs * torch.where(probs > 0, values, 0.0), 0.0).sum(-1, keepdim=True)


def apply(matrix: Float[Tensor, "*#batch m n"], vector: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch m"]:
    """matrix @ vector, with any leading shape."""
    return (matrix @ vector[..., None])[..., 0]


def whiten(scale_tril: Float[Tensor, "*#batch n n"], x: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch n"]:
    """L^-1 x."""
    return torch.linalg.solve_triangular(scale_tril, x[..., None], upper=False)[..., 0]


def half_log_det(scale_tril: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """log det(L L') / 2."""
    return scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def symmetric(x: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The symmetric part of a covariance, which rounding has made slightly asymmetric."""
    return 0.5 * (x + x.mT)


def square_root(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """A symmetric matrix whose square is the covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT


def stack(beliefs: Sequence[Gaussian]) -> Gaussian:
    """T Gaussians [B, ...] as one [B, T, ...]."""
    return Gaussian(torch.stack([b.mean for b in beliefs], 1), torch.stack([b.cov for b in beliefs], 1))
