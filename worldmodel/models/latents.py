"""The two families of z_t, as distributions over S groups.

A family (`GaussianFamily`, `CategoricalFamily`) knows its sizes and turns a head's raw output [..., P] into a
distribution. A distribution holds that raw output; its probabilities are mixed and floored once, at construction, so
that what is sampled is what the KL compares.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributions.utils import clamp_probs
from torch.nn.functional import one_hot

from worldmodel.kernels import kl_reference
from worldmodel.kernels.kl import categorical_kl, gaussian_kl
from worldmodel.kernels.precision import full_precision


class DiagonalGaussian:
    """S independent Gaussians; z_t is their S values."""

    def __init__(self, raw: Float[Tensor, "*batch P"], min_std: float) -> None:
        """Args:
        raw: S means, then S unconstrained standard deviations; std = min_std + softplus(unconstrained).
        min_std: floor of the standard deviations.
        """
        self.raw, self.min_std = raw, min_std
        self.mean, self.std = kl_reference.split_gaussian(raw, min_std)  # [..., S] each

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
        return gaussian_kl(self.raw, other.raw, min_std=self.min_std)

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


class OneHotCategorical:
    """S independent categoricals over K classes; z_t is their S one-hot vectors, flat."""

    def __init__(self, logits: Float[Tensor, "*batch S K"], unimix: float) -> None:
        """Args:
        logits: unnormalised log-probabilities, before mixing.
        unimix: share of the uniform distribution that is mixed in.
        """
        self.logits, self.unimix = logits, unimix
        self.log_probs = kl_reference.mix_uniform(logits, unimix)  # [..., S, K]

    def rsample(self, noise: Float[Tensor, "*batch S K"]) -> Float[Tensor, "*batch Z"]:
        """A one-hot sample by Gumbel-max from uniform noise, with the straight-through gradient of the probabilities.

        Source: Bengio et al. 2013, arXiv 1308.3432.
        """
        probs = self.log_probs.exp()
        gumbel = -torch.log(-torch.log(clamp_probs(noise)))
        hard = one_hot((self.log_probs + gumbel).argmax(-1), probs.shape[-1]).to(probs.dtype)
        return (hard + (probs - probs.detach())).flatten(-2)  # [..., S, K] -> [..., Z]

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch S K"]:
        """Uniform noise for `rsample`."""
        logits = self.logits
        return torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch S"]:
        """log-mass of each group's class, in nats."""
        return (z.unflatten(-1, self.logits.shape[-2:]) * self.log_probs).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch S"]:
        """Entropy of each group, in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: "OneHotCategorical") -> Float[Tensor, "*batch S"]:
        """KL(self || other) of each group, in nats."""
        return categorical_kl(self.logits, other.logits, unimix=self.unimix)

    def detach(self) -> "OneHotCategorical":
        """The same distribution with no gradient behind it."""
        return OneHotCategorical(self.logits.detach(), self.unimix)

    @property
    def parameters(self) -> int:
        """P = S * K."""
        return self.logits.shape[-2] * self.logits.shape[-1]

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "OneHotCategorical":
        """Another of the family: logits moved by an offset."""
        return OneHotCategorical(self.logits + offset.unflatten(-1, self.logits.shape[-2:]), self.unimix)


@dataclass(frozen=True)
class GaussianFamily:
    """z_t in R^S, diagonal Gaussian. A head puts out P = 2S numbers."""

    groups: int
    min_std: float

    @property
    def width(self) -> int:
        """Z, the width of z_t."""
        return self.groups

    @property
    def parameters(self) -> int:
        """P, the numbers a head puts out."""
        return 2 * self.groups

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> DiagonalGaussian:
        """The distribution that a head's output stands for, in float32 or better."""
        return DiagonalGaussian(full_precision(raw), self.min_std)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "*shape S"]:
        """Standard normal noise for `rsample`."""
        return torch.randn(*shape, self.groups, generator=generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class CategoricalFamily:
    """S one-hot vectors of K classes. A head puts out P = S * K logits."""

    groups: int
    classes: int
    unimix: float

    @property
    def width(self) -> int:
        """Z, the width of z_t."""
        return self.groups * self.classes

    @property
    def parameters(self) -> int:
        """P, the numbers a head puts out."""
        return self.groups * self.classes

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> OneHotCategorical:
        """The distribution that a head's output stands for, in float32 or better."""
        logits = rearrange(full_precision(raw), "... (S K) -> ... S K", S=self.groups)
        return OneHotCategorical(logits, self.unimix)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "*shape S K"]:
        """Uniform noise for `rsample`."""
        size = (*shape, self.groups, self.classes)
        return torch.rand(*size, generator=generator, device=like.device, dtype=like.dtype)


LatentFamily = GaussianFamily | CategoricalFamily
