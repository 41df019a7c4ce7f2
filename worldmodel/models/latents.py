"""Families of z_t, as distributions over S groups: diagonal Gaussians and categoricals; `full_gaussian` has a third.

A family (`GaussianFamily`, `FullGaussianFamily`, `CategoricalFamily`) knows its sizes and turns a head's raw output
[..., P] into a distribution. A distribution holds that raw output; its probabilities are mixed and floored in one way,
so that what is sampled is what the KL compares. They are worked out when they are first needed: a kernel samples
without them.

Raw outputs stay in the dtype they come in, bfloat16 under autocast, so that kernels read half as many bytes. All else
is float32 or better: probabilities, noise, samples, densities.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels import kl_reference, latent_reference
from worldmodel.kernels.kl import balanced_categorical_kl, balanced_gaussian_kl, categorical_kl, gaussian_kl
from worldmodel.kernels.latent import categorical_head, categorical_head_on_triton
from worldmodel.kernels.precision import full_precision
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.types import KL, BalancedKL

Gradient = Literal["straight_through", "reinmax", "marginal"]


class DiagonalGaussian:
    """S independent Gaussians; z_t is their S values."""

    reparameterised: ClassVar[bool] = True  # whether the gradient of `rsample` is exact

    def __init__(self, raw: Float[Tensor, "*batch P"], min_std: float) -> None:
        """Args:
        raw: S means, then S unconstrained standard deviations; std = min_std + softplus(unconstrained).
        min_std: floor of the standard deviations.
        """
        self.raw, self.min_std = raw, min_std
        self._mean_and_std: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Float[Tensor, "*batch S"]:
        """Mean of each group."""
        return self._split()[0]

    @property
    def std(self) -> Float[Tensor, "*batch S"]:
        """Standard deviation of each group."""
        return self._split()[1]

    def rsample(self, noise: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """mean + std * noise, for standard normal noise."""
        return self.mean + self.std * noise

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch S"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch S"]:
        """Standard normal noise for `rsample`."""
        mean = self.mean
        return torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def log_prob(self, z: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """log N(z; mean, std^2) of each group, in nats."""
        return torch.distributions.Normal(self.mean, self.std, validate_args=False).log_prob(z)

    def entropy(self) -> Float[Tensor, "*batch S"]:
        """Differential entropy of each group, in nats."""
        return torch.distributions.Normal(self.mean, self.std, validate_args=False).entropy()

    def kl(self, other: "DiagonalGaussian") -> Float[Tensor, "*batch S"]:
        """KL(self || other) of each group, in nats."""
        return self.divergence(other).kl

    def divergence(self, other: "DiagonalGaussian") -> KL:
        """KL(self || other) of each group and the entropies of both, in nats; one launch on a GPU."""
        return gaussian_kl(self.raw, other.raw, min_std=self.min_std)

    def balanced_kl(self, other: "DiagonalGaussian", *, dyn: float, rep: float, free_nats: float) -> BalancedKL:
        """The KL as training optimises it: dyn scales other's gradient, rep one's own."""
        return balanced_gaussian_kl(self.raw, other.raw, min_std=self.min_std, dyn=dyn, rep=rep, free_nats=free_nats)

    def detach(self) -> "DiagonalGaussian":
        """The same distribution with no gradient behind it."""
        return DiagonalGaussian(self.raw.detach(), self.min_std)

    @property
    def parameters(self) -> int:
        """P = 2S."""
        return self.raw.shape[-1]

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "DiagonalGaussian":
        """Another of the family: raw means and raw standard deviations moved by an offset."""
        return DiagonalGaussian(self.raw + offset, self.min_std)

    def _split(self) -> tuple[Tensor, Tensor]:
        if self._mean_and_std is None:  # not a cached_property: its lock stops torch.compile before Python 3.12
            self._mean_and_std = kl_reference.split_gaussian(full_precision(self.raw), self.min_std)
        return self._mean_and_std


class OneHotCategorical:
    """S independent categoricals over K classes; z_t is their S one-hot vectors, flat."""

    reparameterised: ClassVar[bool] = False

    def __init__(
        self, logits: Float[Tensor, "*batch S K"], unimix: float, gradient: Gradient = "straight_through"
    ) -> None:
        """Args:
        logits: unnormalised log-probabilities, before mixing.
        unimix: share of the uniform distribution that is mixed in.
        gradient: of a sample; see `CategoricalFamily`.
        """
        self.logits, self.unimix, self.gradient = logits, unimix, gradient
        self._probs: Tensor | None = None
        self._log_probs: Tensor | None = None

    @property
    def probs(self) -> Float[Tensor, "*batch S K"]:
        """Probabilities of the classes, mixed with the uniform distribution."""
        if self._probs is None:
            self._probs = kl_reference.mix_uniform_probs(full_precision(self.logits), self.unimix)
        return self._probs

    @property
    def log_probs(self) -> Float[Tensor, "*batch S K"]:
        """Log-probabilities of the classes, mixed with the uniform distribution."""
        if self._log_probs is None:
            self._log_probs = kl_reference.mix_uniform(full_precision(self.logits), self.unimix)
        return self._log_probs

    def rsample(self, noise: Float[Tensor, "*batch S K"]) -> Float[Tensor, "*batch Z"]:
        """A one-hot sample from uniform noise by Gumbel-max, with a gradient of its probabilities; one launch on a GPU.

        The gradient is straight-through, or ReinMax's on top of the same sample.
        """
        if categorical_head_on_triton("auto", self.logits, noise):
            sample = categorical_head(self.logits, noise, unimix=self.unimix)
        else:
            sample = latent_reference.straight_through(self.probs, latent_reference.rates(noise)).flatten(-2)
        if self.gradient != "reinmax":
            return sample
        hard = sample.detach().unflatten(-1, self.logits.shape[-2:])
        soft = reinmax(self.log_probs, hard)
        return (hard + (soft - soft.detach())).flatten(-2)  # [..., S, K] -> [..., Z]

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch S K"]:
        """Uniform noise for `rsample`."""
        probs = self.probs
        return torch.rand(probs.shape, generator=generator, device=probs.device, dtype=probs.dtype)

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch S"]:
        """log-mass of each group's class, in nats."""
        return (z.unflatten(-1, self.logits.shape[-2:]) * self.log_probs).sum(-1)

    def alternatives(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "Z *batch Z"]:
        """Entry s * K + k is z with group s set to class k.

        These are all one-hot vectors that differ from z in at most one group; z itself appears S times.
        """
        S, K = self.logits.shape[-2:]
        if S == 1:  # the same for every z, and no memory for each
            return torch.eye(K, dtype=z.dtype, device=z.device).view(K, *[1] * (z.dim() - 1), K).expand(K, *z.shape)
        hot = torch.eye(S * K, dtype=z.dtype, device=z.device).view(S, K, *[1] * (z.dim() - 1), S, K)
        group = torch.eye(S, dtype=torch.bool, device=z.device).view(S, 1, *[1] * (z.dim() - 1), S, 1)
        changed = torch.where(group, hot, z.unflatten(-1, (S, K)))  # [S, K, ..., S, K]
        return changed.flatten(-2).flatten(0, 1)

    def entropy(self) -> Float[Tensor, "*batch S"]:
        """Entropy of each group, in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: "OneHotCategorical") -> Float[Tensor, "*batch S"]:
        """KL(self || other) of each group, in nats."""
        return self.divergence(other).kl

    def divergence(self, other: "OneHotCategorical") -> KL:
        """KL(self || other) of each group and the entropies of both, in nats; one launch on a GPU."""
        return categorical_kl(self.logits, other.logits, unimix=self.unimix)

    def balanced_kl(self, other: "OneHotCategorical", *, dyn: float, rep: float, free_nats: float) -> BalancedKL:
        """The KL as training optimises it: dyn scales other's gradient, rep one's own."""
        return balanced_categorical_kl(
            self.logits, other.logits, unimix=self.unimix, dyn=dyn, rep=rep, free_nats=free_nats
        )

    def detach(self) -> "OneHotCategorical":
        """The same distribution with no gradient behind it."""
        return OneHotCategorical(self.logits.detach(), self.unimix, self.gradient)

    @property
    def parameters(self) -> int:
        """P = S * K."""
        return self.logits.shape[-2] * self.logits.shape[-1]

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "OneHotCategorical":
        """Another of the family: logits moved by an offset."""
        return OneHotCategorical(self.logits + offset.unflatten(-1, self.logits.shape[-2:]), self.unimix, self.gradient)


def reinmax(log_probs: Float[Tensor, "*batch K"], hard: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """What has the gradient that ReinMax gives to a one-hot sample: exact for functions of z up to the second degree.

    2 softmax(theta) - probs / 2  at a theta whose softmax is (hard + probs) / 2 and that moves as log_probs does

    Source: Liu et al. 2023, arXiv 2304.08612, algorithm 2.
    """
    probs = log_probs.exp()
    theta = log_probs + (torch.log((hard + probs) / 2) - log_probs).detach()
    return 2 * theta.softmax(-1) - probs / 2


@dataclass(frozen=True)
class GaussianFamily:
    """z_t in R^S, diagonal Gaussian. A head puts out P = 2S numbers."""

    groups: int
    min_std: float
    gradient: ClassVar[str] = "reparameterised"

    @property
    def width(self) -> int:
        """Z, the width of z_t."""
        return self.groups

    @property
    def parameters(self) -> int:
        """P, the numbers a head puts out."""
        return 2 * self.groups

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> DiagonalGaussian:
        """The distribution that a head's output stands for."""
        return DiagonalGaussian(raw, self.min_std)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "*shape S"]:
        """Standard normal noise for `rsample`."""
        return torch.randn(*shape, self.groups, generator=generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class CategoricalFamily:
    """S one-hot vectors of K classes. A head puts out P = S * K logits.

    A sample has no derivative, so that what follows from it has to be told to the probabilities in another way:

    straight_through  as if the sample were the probabilities: the tangent of the function at the sample, which is
                      exact for linear ones. Bengio et al. 2013, arXiv 1308.3432
    reinmax           exact for quadratic ones, at the same cost. Liu et al. 2023, arXiv 2304.08612
    marginal          the likelihoods of a row are decoded at every class of every group, and the gradient of their
                      expectation is exact: see `objectives.marginal`. Straight-through along the recurrence
    """

    groups: int
    classes: int
    unimix: float
    gradient: Gradient = "straight_through"

    @property
    def width(self) -> int:
        """Z, the width of z_t."""
        return self.groups * self.classes

    @property
    def parameters(self) -> int:
        """P, the numbers a head puts out."""
        return self.groups * self.classes

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> OneHotCategorical:
        """The distribution that a head's output stands for."""
        logits = rearrange(raw, "... (S K) -> ... S K", S=self.groups)
        return OneHotCategorical(logits, self.unimix, self.gradient)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "*shape S K"]:
        """Uniform noise for `rsample`."""
        size = (*shape, self.groups, self.classes)
        return torch.rand(*size, generator=generator, device=like.device, dtype=like.dtype)


LatentFamily = GaussianFamily | FullGaussianFamily | CategoricalFamily
