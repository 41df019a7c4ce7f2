"""Normalised densities and masses p(x | state) with proper constants, in nats.

Each sums its event dimensions, so that `log_prob` is [*batch]. None is called a likelihood that does not integrate or
sum to one; `tests/models/test_likelihoods.py` integrates every one of them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, logsigmoid, softplus

LEVELS = 256  # of an 8-bit image


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), a logarithm that is linear around zero. Source: Hafner et al. 2023, arXiv 2301.04104."""
    return x.sign() * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of `symlog`."""
    return x.sign() * torch.expm1(x.abs())


@dataclass(frozen=True)
class Normal:
    """Diagonal Gaussian over [..., n]: sum_i -1/2 ((x_i - m_i) / s_i)^2 - log s_i - 1/2 log 2 pi."""

    mean: Float[Tensor, "*batch n"]
    std: Float[Tensor, "*batch n"]

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log-density in nats."""
        error = (x - self.mean) / self.std
        return (-0.5 * error.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return self.mean + self.std * _randn_like(self.mean, generator)


@dataclass(frozen=True)
class Affine:
    """The density of x = location + scale y, y ~ base: log p(x) = log base((x - location) / scale) - sum log scale."""

    base: Normal
    location: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """E[x]."""
        return self.location + self.scale * self.base.mean

    @property
    def std(self) -> Float[Tensor, "*batch n"]:
        """Standard deviation of x."""
        return self.scale * self.base.std

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log-density in nats, in the units of x."""
        return self.base.log_prob((x - self.location) / self.scale) - self.scale.log().sum()

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return self.location + self.scale * self.base.sample(generator)


@dataclass(frozen=True)
class SymlogNormal:
    """symlog(x) is Gaussian: log p(x) = log N(symlog x; m, s^2) - sum log(1 + |x|), the last term its Jacobian."""

    base: Normal

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """The median symexp(m), which is what DreamerV3 predicts; the mean is heavy-tailed."""
        return symexp(self.base.mean)

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log-density in nats, in the units of x."""
        return self.base.log_prob(symlog(x)) - torch.log1p(x.abs()).sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return symexp(self.base.sample(generator))


@dataclass(frozen=True)
class DiscretisedLogistic:
    """A mass over the 256 levels of every channel of every pixel, [..., height, width, channels].

        P(level k) = F(k + 1/2) - F(k - 1/2),   F(x) = sigmoid((x - mean) / scale),   F(-1/2) = 0, F(255 + 1/2) = 1

    `location` and `scale` are in levels. Source: Salimans et al. 2017 (PixelCNN++), arXiv 1701.05517, equation 2.
    """

    location: Float[Tensor, "*batch H W C"]
    scale: Float[Tensor, "*batch H W C"]

    @property
    def mean(self) -> Float[Tensor, "*batch H W C"]:
        """The location, within the levels."""
        return self.location.clamp(0, LEVELS - 1)

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log-mass in nats of uint8 pixels x [*batch, H, W, C].

        log(F(b) - F(a)) = log F(b) + log(1 - F(a)) + log(1 - exp(-(b - a))), exact and free of cancellation.
        """
        centred = x.to(self.location.dtype) - self.location
        upper = (centred + 0.5) / self.scale
        lower = (centred - 0.5) / self.scale
        log_cdf_upper = logsigmoid(upper)
        log_survival_lower = logsigmoid(-lower)
        inside = log_cdf_upper + log_survival_lower + torch.log(-torch.expm1(-1 / self.scale))
        mass = torch.where(x == 0, log_cdf_upper, torch.where(x == LEVELS - 1, log_survival_lower, inside))
        return mass.sum((-3, -2, -1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, uint8."""
        noise = torch.rand(self.location.shape, generator=generator, device=self.location.device)
        logistic = torch.logit(noise.to(self.location.dtype), eps=1e-6)
        return (self.location + self.scale * logistic).round().clamp(0, LEVELS - 1).to(torch.uint8)


class Categoricals:
    """k independent categorical variables."""

    def __init__(self, logits: Float[Tensor, "*batch n"], classes: tuple[int, ...]) -> None:
        """Args:
        logits: of all variables side by side, n = sum(classes).
        classes: the number of classes of each variable.
        """
        self._log_probs = tuple(log_softmax(part, -1) for part in logits.split(classes, -1))

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """Class probabilities, laid out as the logits."""
        return torch.cat(self._log_probs, -1).exp()

    def log_prob(self, x: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
        """log-mass in nats of the classes x, counted from zero."""
        index = x.long().unbind(-1)
        terms = [part.gather(-1, i[..., None]) for part, i in zip(self._log_probs, index, strict=True)]
        return torch.cat(terms, -1).sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Int[Tensor, "*batch k"]:
        """One draw, int32."""
        draws = [_sample_classes(part.exp(), generator) for part in self._log_probs]
        return torch.stack(draws, -1).to(torch.int32)


@dataclass(frozen=True)
class Bernoullis:
    """n independent zero-one variables."""

    logits: Float[Tensor, "*batch n"]

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """Probabilities of one."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log-mass in nats of zeros and ones x [*batch, n], any dtype."""
        return -binary_cross_entropy_with_logits(self.logits, x.to(self.logits.dtype), reduction="none").sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, uint8."""
        return torch.bernoulli(self.mean, generator=generator).to(torch.uint8)


@dataclass(frozen=True)
class TwoHot:
    """A density over one real number, piecewise linear between fixed bins.

        p(x) = sum_i p_i t_i(x) / w_i,   t_i the hat function of bin b_i,  w_i = (b_{i+1} - b_{i-1}) / 2 its area

    The two bins around x share it linearly, as in DreamerV3's two-hot targets; dividing by areas makes it a density.
    Outside the outermost bins the density is zero, and x is clamped to them.
    Source: Hafner et al. 2023, arXiv 2301.04104, section "two-hot"; the areas are ours.
    """

    logits: Float[Tensor, "*batch n"]
    bins: Float[Tensor, " n"]

    @property
    def mean(self) -> Float[Tensor, "*batch 1"]:
        """E[x]: the mean of every hat under the bin probabilities, summed in float64 since the outer bins are huge."""
        probs = self.logits.double().softmax(-1)
        return (probs * _hat_means(self.bins.double())).sum(-1, keepdim=True).to(self.logits.dtype)

    def log_prob(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch"]:
        """log-density in nats."""
        x = x.clamp(self.bins[0], self.bins[-1])
        upper = torch.searchsorted(self.bins, x.detach()).clamp(1, len(self.bins) - 1)
        left, right = self.bins[upper - 1], self.bins[upper]
        share = (x - left) / (right - left)
        log_weight = log_softmax(self.logits, -1) - _hat_areas(self.bins).log()
        low = log_weight.gather(-1, upper - 1) + torch.log1p(-share)
        high = log_weight.gather(-1, upper) + share.log()
        return torch.logaddexp(low, high).squeeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch 1"]:
        """One draw: a bin, then a point under its hat (the sum of two uniforms, folded at the ends)."""
        index = _sample_classes(self.logits.softmax(-1), generator)
        u = torch.rand((2, *index.shape), generator=generator, device=index.device).to(self.bins.dtype)
        distance = 1 - torch.sqrt(u[0])  # from the bin, as a share of the way to its neighbour: density 2 (1 - d)
        left, right = _hat_sides(self.bins)
        side = torch.where(u[1] * (left + right)[index] < left[index], -left[index], right[index])
        return (self.bins[index] + side * distance)[..., None]


def symexp_bins(count: int, limit: float = 20.0) -> Float[Tensor, " n"]:
    """Bins evenly spaced in symlog units over [-limit, limit], an odd number so that zero is one of them."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"count: expected an odd number of bins, at least 3, got {count}")
    return symexp(torch.linspace(-limit, limit, count))


def learned_std(raw: Tensor, floor: float) -> Tensor:
    """A positive standard deviation, never below the resolution floor."""
    return floor + softplus(raw)


def _hat_sides(bins: Tensor) -> tuple[Tensor, Tensor]:
    gap = bins.diff()
    zero = gap.new_zeros(1)
    return torch.cat([zero, gap]), torch.cat([gap, zero])


def _hat_areas(bins: Tensor) -> Tensor:
    left, right = _hat_sides(bins)
    return (left + right) / 2


def _hat_means(bins: Tensor) -> Tensor:
    left, right = _hat_sides(bins)
    return bins + (right - left) / 3  # centroid of two right triangles, weighted by their areas


def _sample_classes(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)
    return flat.reshape(probs.shape[:-1])


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
