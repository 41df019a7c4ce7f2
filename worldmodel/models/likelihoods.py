"""Normalised densities and masses p(x | state) with proper constants, in nats.

Each sums its event dimensions, so that `log_prob` is [*batch]. None is called a likelihood that does not integrate or
sum to one; `tests/models/test_likelihoods.py` integrates every one of them.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softplus

from worldmodel.models.networks import without_copies

Measure = Literal["density", "mass", "mixed"]
LEVELS = 256  # of an 8-bit image
NEAR = 4  # whole numbers to each side of a logistic's location whose masses are summed one by one


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), a logarithm that is linear around zero. Source: Hafner et al. 2023, arXiv 2301.04104."""
    return x.sign() * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of `symlog`."""
    return x.sign() * torch.expm1(x.abs())


@dataclass(frozen=True)
class Normal:
    """Diagonal Gaussian over [..., n]: sum_i -1/2 ((x_i - m_i) / s_i)^2 - log s_i - 1/2 log 2 pi."""

    measure: ClassVar[Measure] = "density"
    exact: ClassVar[bool] = True
    mean: Float[Tensor, "*batch n"]
    std: Float[Tensor, "*batch n"]

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log-density in nats."""
        error = (x - self.mean) / self.std
        return (-0.5 * error.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def error(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """(x - m) / s, with the gradient of m alone."""
        return (x - self.mean) / self.std.detach()

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return self.mean + self.std * _randn_like(self.mean, generator)


@dataclass(frozen=True)
class Affine:
    """The density of x = location + scale y, y ~ base: log p(x) = log base((x - location) / scale) - sum log scale."""

    measure: ClassVar[Measure] = "density"
    exact: ClassVar[bool] = True
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

    def error(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """That of the base."""
        return self.base.error((x - self.location) / self.scale)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return self.location + self.scale * self.base.sample(generator)


@dataclass(frozen=True)
class SymlogNormal:
    """symlog(x) is Gaussian: log p(x) = log N(symlog x; m, s^2) - sum log(1 + |x|), the last term its Jacobian."""

    measure: ClassVar[Measure] = "density"
    exact: ClassVar[bool] = True
    base: Normal

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """The median symexp(m), which is what DreamerV3 predicts; the mean is heavy-tailed."""
        return symexp(self.base.mean)

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log-density in nats, in the units of x."""
        return self.base.log_prob(symlog(x)) - torch.log1p(x.abs()).sum(-1)

    def error(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """That of the base, at symlog x."""
        return self.base.error(symlog(x))

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch n"]:
        """One draw."""
        return symexp(self.base.sample(generator))


@dataclass(frozen=True)
class DiscretisedLogistic:
    """A mass over the 256 levels of every channel of every pixel, [..., height, width, channels].

        P(level k) = F(k + 1/2) - F(k - 1/2),   F(x) = sigmoid((x - mean) / scale),   F(-1/2) = 0, F(255 + 1/2) = 1

    `location` and `scale` are in levels. Source: Salimans et al. 2017 (PixelCNN++), arXiv 1701.05517, equation 2.
    """

    measure: ClassVar[Measure] = "mass"
    exact: ClassVar[bool] = True
    location: Float[Tensor, "*batch H W C"]
    scale: Float[Tensor, "*batch H W C"]

    @property
    def mean(self) -> Float[Tensor, "*batch H W C"]:
        """The location, within the levels."""
        return self.location.clamp(0, LEVELS - 1)

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log-mass in nats of uint8 pixels x [*batch, H, W, C]."""
        centred = x.to(self.location.dtype) - self.location
        mass = log_interval_mass(centred, self.scale, at_low=x == 0, at_high=x == LEVELS - 1)
        return mass.sum((-3, -2, -1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, uint8."""
        noise = torch.rand(self.location.shape, generator=generator, device=self.location.device)
        logistic = torch.logit(noise.to(self.location.dtype), eps=1e-6)
        return (self.location + self.scale * logistic).round().clamp(0, LEVELS - 1).to(torch.uint8)


@dataclass(frozen=True)
class IntegerMixture:
    """A mass over the whole numbers low .. high for each of n entries, a mixture of K discretised logistics:

        P(k) = sum_j w_j ( F_j(k + 1/2) - F_j(k - 1/2) ),    F_j(x) = sigmoid((x - location_j) / scale_j),

    where F_j is 0 below `low` and 1 above `high`: the outermost values take the tails, and the masses sum to one. Three
    numbers a component whatever the range, where a class for every value would take as many as there are values; and
    log-masses that fall off linearly, so that no value is impossible and no gradient by a location above 1 / scale.
    Beyond 2^24, values are rounded to what the locations' dtype holds.
    Source: Salimans et al. 2017 (PixelCNN++), arXiv 1701.05517, equation 2.
    """

    measure: ClassVar[Measure] = "mass"
    exact: ClassVar[bool] = True
    log_weight: Float[Tensor, "*batch n K"]  # of the components, normalised
    location: Float[Tensor, "*batch n K"]
    scale: Float[Tensor, "*batch n K"]
    low: Float[Tensor, " n"]  # float64, which holds every bound
    high: Float[Tensor, " n"]
    dtype: torch.dtype  # of the whole numbers

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """E[x], the sum of k P(k): to 1e-3 where a scale is near one, closer elsewhere."""
        low, high = (bound[:, None].to(self.location.dtype) for bound in (self.low, self.high))
        each = _mean_of_rounded_logistic(self.location, self.scale, low, high)
        return (self.log_weight.exp() * each).sum(-1)

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log-mass in nats of whole numbers x [*batch, n], any dtype."""
        dtype = self.location.dtype
        value, low, high = (part.to(dtype)[..., None] for part in (x, self.low, self.high))
        mass = log_interval_mass(value - self.location, self.scale, at_low=value <= low, at_high=value >= high)
        mass = torch.where(low == high, 0.0, mass)  # certain, where there is no other value
        return torch.logsumexp(self.log_weight + mass, -1).sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, in `dtype`."""
        component = _sample_classes(self.log_weight.exp(), generator)[..., None]
        location, scale = (part.gather(-1, component).squeeze(-1) for part in (self.location, self.scale))
        noise = torch.rand(location.shape, generator=generator, device=location.device).to(location.dtype)
        drawn = (location + scale * torch.logit(noise, eps=1e-6)).round().double()
        return drawn.clamp(self.low, self.high).to(self.dtype)


def log_interval_mass(centred: Tensor, scale: Tensor, *, at_low: Tensor, at_high: Tensor) -> Tensor:
    """log( F(x + 1/2) - F(x - 1/2) ) of a logistic, in nats, for `centred` = x - location.

    With b and a the ends in units of the scale, log(F(b) - F(a)) = log F(b) + log(1 - F(a)) + log(1 - exp(-(b - a))),
    exact and free of cancellation. F(a) is 0 where `at_low`; F(b) is 1 where `at_high` and not `at_low`.
    """
    log_cdf_upper = logsigmoid((centred + 0.5) / scale)
    log_survival_lower = logsigmoid(-(centred - 0.5) / scale)
    inside = log_cdf_upper + log_survival_lower + torch.log(-torch.expm1(-1 / scale))
    return torch.where(at_low, log_cdf_upper, torch.where(at_high, log_survival_lower, inside))


class Categoricals:
    """k independent categorical variables."""

    measure: ClassVar[Measure] = "mass"
    exact: ClassVar[bool] = True

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

    measure: ClassVar[Measure] = "mass"
    exact: ClassVar[bool] = True
    logits: Float[Tensor, "*batch n"]

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """Probabilities of one."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log-mass in nats of zeros and ones x [*batch, n], any dtype: sum_i x_i l_i - softplus(l_i)."""
        logits, ones = without_copies(self.logits), without_copies(x).to(self.logits.dtype)
        chosen = torch.einsum("...n,...n->...", logits, ones)  # one product where either was expanded
        return (chosen - softplus(logits).sum(-1)).expand(self.logits.shape[:-1])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, uint8."""
        return torch.bernoulli(self.mean, generator=generator).to(torch.uint8)


@dataclass(frozen=True)
class TwoHot:
    """A density over one real number whose logarithm is linear between fixed bins: DreamerV3's two-hot, normalised.

        log p(x) = (1 - s) l_i + s l_{i+1} - log w_i - log Z     for x = b_i + s w_i,  w_i = b_{i+1} - b_i,  0 <= s <= 1

    The first two terms are what DreamerV3's two-hot cross-entropy sums; Z makes them a density, in which every interval
    has its share of the mass (uniform if all l are equal). This is an exponential family whose statistics are the
    two-hot shares of x, and x is linear in them, so that the best fit has the mean of its data, wherever the bins lie.
    Outside the outermost bins the density is zero, and x is clamped to them. On a number that is itself a bin and
    always comes, the fitted density grows with the logits, as the logarithm of their distance to their neighbours.

    Source: Hafner et al. 2023, arXiv 2301.04104, section "two-hot"; the normalisation is ours.
    """

    measure: ClassVar[Measure] = "density"
    exact: ClassVar[bool] = True
    logits: Float[Tensor, "*batch n"]
    bins: Float[Tensor, " n"]

    @property
    def mean(self) -> Float[Tensor, "*batch 1"]:
        """E[x], summed in float64 since the outer bins are huge."""
        logits, bins = self.logits.double(), self.bins.double()
        within = bins[:-1] + bins.diff() * _mean_of_exponential(logits.diff())  # E[x] of each interval
        return (_log_masses(logits).softmax(-1) * within).sum(-1, keepdim=True).to(self.logits.dtype)

    def log_prob(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch"]:
        """log-density in nats."""
        x = x.clamp(self.bins[0], self.bins[-1])
        upper = torch.searchsorted(self.bins, x.detach()).clamp(1, len(self.bins) - 1)
        left, right = self.bins[upper - 1], self.bins[upper]
        share, width = (x - left) / (right - left), right - left
        height = torch.lerp(self.logits.gather(-1, upper - 1), self.logits.gather(-1, upper), share) - width.log()
        return height.squeeze(-1) - _log_masses(self.logits).logsumexp(-1)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch 1"]:
        """One draw: an interval, then a point of it by the inverse of its distribution function."""
        index = _sample_classes(_log_masses(self.logits).softmax(-1), generator)
        slope = self.logits.diff().gather(-1, index[..., None]).squeeze(-1)
        u = torch.rand(index.shape, generator=generator, device=index.device).to(slope.dtype)
        steep = slope.abs().clamp(min=1e-4)  # below, a uniform draw is right to 1e-4 of the interval
        fallen = -torch.log1p(u * torch.expm1(-steep)) / steep  # distance from the higher end, as a share
        share = torch.where(slope > 0, 1 - fallen, fallen)
        return (self.bins[index] + share * self.bins.diff()[index])[..., None]


@dataclass(frozen=True)
class Atoms:
    """One real number that takes a handful of values: a mass on these, and a density everywhere else.

        P(x = a_i) = (1 - e) p_i                    for the atoms a_1 .. a_n
        p(x) = e f(x), f a logistic's density       elsewhere

    Both parts together are one: a mass of 1 - e and a density that integrates to e (the atoms have no length), so that
    a value that was never seen is unlikely and not impossible. Nats of the two parts differ in kind: those of the mass
    are zero at most; those of the density depend on the unit of x, and no std of it is learned.
    """

    measure: ClassVar[Measure] = "mixed"
    exact: ClassVar[bool] = True
    logits: Float[Tensor, "*batch n"]  # minus infinity where there is no atom
    atoms: Float[Tensor, " n"]
    location: Float[Tensor, ""]  # of the density elsewhere
    scale: Float[Tensor, ""]
    escape: float  # e

    @property
    def mean(self) -> Float[Tensor, "*batch 1"]:
        """E[x]."""
        inside = (self.logits.softmax(-1) * self.atoms).sum(-1, keepdim=True)
        return (1 - self.escape) * inside + self.escape * self.location

    def log_prob(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch"]:
        """log-mass of an atom, or else log-density, in nats."""
        is_atom = (x == self.atoms) & (self.logits != -math.inf)
        mass = log_softmax(self.logits, -1).masked_fill(~is_atom, 0.0).sum(-1) + math.log1p(-self.escape)
        z = (x.squeeze(-1) - self.location) / self.scale
        density = logsigmoid(z) + logsigmoid(-z) - self.scale.log() + math.log(self.escape)
        return torch.where(is_atom.any(-1), mass, density)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch 1"]:
        """One draw."""
        atom = self.atoms[_sample_classes(self.logits.softmax(-1), generator)]
        noise = torch.rand((2, *atom.shape), generator=generator, device=atom.device).to(atom.dtype)
        elsewhere = self.location + self.scale * torch.logit(noise[1], eps=1e-6)
        return torch.where(noise[0] < self.escape, elsewhere, atom)[..., None]


REGRESSIONS = Normal, Affine, SymlogNormal  # those that have an `error`


def symexp_bins(count: int, limit: float = 20.0) -> Float[Tensor, " n"]:
    """Bins evenly spaced in symlog units over [-limit, limit], an odd number so that zero is one of them."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"count: expected an odd number of bins, at least 3, got {count}")
    return symexp(torch.linspace(-limit, limit, count))


def learned_std(raw: Tensor, floor: float) -> Tensor:
    """A positive standard deviation, never below the resolution floor."""
    return floor + softplus(raw)


def _log_masses(logits: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n_minus_1"]:
    """log of the integral of exp((1 - s) l_i + s l_{i+1}) over s in [0, 1], for each pair of neighbours."""
    slope = logits.diff().abs()
    large = slope.clamp(min=1e-2)
    integral = torch.where(slope < 1e-2, slope * (slope / 24 - 0.5), torch.log(-torch.expm1(-large) / large))
    return torch.maximum(logits[..., 1:], logits[..., :-1]) + integral


def _mean_of_exponential(slope: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """E[s] of the density on [0, 1] that is proportional to exp(slope s)."""
    large = torch.where(slope.abs() < 1e-2, 1.0, slope)
    return torch.where(slope.abs() < 1e-2, 0.5 + slope / 12, -1 / torch.expm1(-large) - 1 / large)


def _mean_of_rounded_logistic(location: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """E[x] of a logistic rounded to whole numbers, what lies beyond low and high moved to them.

        E[x] = low + sum over k = low .. high - 1 of S(k + 1/2),    S = 1 - F the survival function

    The terms near the location are summed one by one; the others, where S is all but straight, as an integral.
    """
    first = (location.detach().floor() - NEAR).clamp(low, high)
    last = (location.detach().floor() + NEAR).clamp(low, high)
    total = first
    for step in range(2 * NEAR):
        inside = first + step < last
        total = total + torch.where(inside, torch.sigmoid((location - first - step - 0.5) / scale), 0.0)

    def softplus_at(x: Tensor) -> Tensor:
        return softplus(x / scale)

    above = softplus_at(location - last) - softplus_at(location - high)  # integral of S / scale from last to high
    below = softplus_at(first - location) - softplus_at(low - location)  # of F / scale from low to first
    return total + scale * (above - below)


def _sample_classes(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)
    return flat.reshape(probs.shape[:-1])


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
