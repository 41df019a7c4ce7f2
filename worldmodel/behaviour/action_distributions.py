"""Distributions over actions, for every kind of action space: what an actor's output stands for.

    categorical   one class of each group (MultiDiscrete has several), mixed with the uniform distribution
    binary        zeros and ones, mixed likewise
    continuous    a clipped normal: u ~ N(tanh(m), s^2), a = clip(u, -1, 1)

An action is a vector of A numbers, as `ActionSpec` lays it out, and its log-probability is the joint one: the sum over
groups, bits or entries, which are independent given the state. Actions are drawn from noise, so that a generator
decides them.

A continuous action is clipped where it is drawn: what is stored, imagined and executed is the same number, and
`log_prob` speaks of it: a density inside (-1, 1), and at -1 and 1 the mass of all that was clipped to it. A squashed
normal, tanh(u), would leave no mass on the bounds, where bang-bang control has to be.

Sources: Hafner et al. 2023, arXiv 2301.04104 (unimix, tanh mean, bounded std); Fujita and Maeda 2018, arXiv 1802.07564
(the policy gradient of clipped actions).
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import log_ndtr

from worldmodel.kernels.kl_reference import mix_uniform_probs
from worldmodel.kernels.latent import categorical_head_on_triton
from worldmodel.kernels.latent_reference import rates, straight_through
from worldmodel.kernels.precision import full_precision
from worldmodel.models.latents import OneHotCategorical
from worldmodel.types import ActionSpec


@runtime_checkable
class ActionDistribution(Protocol):
    """A distribution over actions [*batch, A], given states [*batch, ...]."""

    @property
    def mode(self) -> Float[Tensor, "*batch A"]:
        """The action of an actor that does not explore."""
        ...

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch M"]:
        """Noise for `rsample`, of as many numbers as it takes."""
        ...

    def rsample(self, noise: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch A"]:
        """A differentiable draw: exact for continuous actions, straight-through for classes and bits."""
        ...

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """One draw, with no gradient behind it."""
        ...

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Joint log-probability of an action, in nats."""
        ...

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Joint entropy, in nats."""
        ...


def likeliest(scores: Float[Tensor, "*batch A"], classes: tuple[int, ...]) -> Float[Tensor, "*batch A"]:
    """The class of the greatest score in each group, as one-hot vectors side by side."""
    hot = [one_hot(part.argmax(-1), part.shape[-1]) for part in scores.split(classes, -1)]
    return torch.cat(hot, -1).to(scores.dtype)


@dataclass(frozen=True)
class CategoricalActions:
    """One class of each group, as one-hot vectors side by side: `classes` says how many each group has."""

    logits: Float[Tensor, "*batch A"]  # of all groups side by side, before mixing
    classes: tuple[int, ...]
    unimix: float

    @property
    def groups(self) -> list[OneHotCategorical]:
        """Each group by itself."""
        return [OneHotCategorical(part[..., None, :], self.unimix) for part in self._split(self.logits)]

    @property
    def mode(self) -> Float[Tensor, "*batch A"]:
        """The likeliest class of each group."""
        return likeliest(self.logits, self.classes)

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """Uniform noise for `rsample`."""
        return _uniform(self.logits.shape, self.logits, generator)

    def rsample(self, noise: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """One-hot draws by Gumbel-max, with the gradient of the probabilities."""
        if categorical_head_on_triton("auto", self.logits, noise):  # a launch each
            parts = zip(self.groups, self._split(noise), strict=True)
            draws = [group.rsample(part[..., None, :]) for group, part in parts]
        else:
            probs = (mix_uniform_probs(part, self.unimix) for part in self._split(self.logits))
            draws = [straight_through(*each) for each in zip(probs, self._split(rates(noise)), strict=True)]
        return draws[0] if len(draws) == 1 else torch.cat(draws, -1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """log-mass of the classes of all groups together."""
        parts = zip(self.groups, self._split(action), strict=True)
        return torch.cat([group.log_prob(part) for group, part in parts], -1).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of all groups together."""
        return torch.cat([group.entropy() for group in self.groups], -1).sum(-1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.classes, -1)


@dataclass(frozen=True)
class BinaryActions:
    """Independent bits: each a categorical of two classes with logits 0 and l, so that it is mixed as these are."""

    logits: Float[Tensor, "*batch A"]  # log-odds of one, before mixing
    unimix: float

    @property
    def bits(self) -> OneHotCategorical:
        """The classes zero and one of every bit."""
        return OneHotCategorical(torch.stack([torch.zeros_like(self.logits), self.logits], -1), self.unimix)

    @property
    def mode(self) -> Float[Tensor, "*batch A"]:
        """One where that is likelier than zero."""
        return (self.logits > 0).to(self.logits.dtype)

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch twice_A"]:
        """Uniform noise for `rsample`: two numbers a bit."""
        *lead, A = self.logits.shape
        return _uniform((*lead, 2 * A), self.logits, generator)

    def rsample(self, noise: Float[Tensor, "*batch twice_A"]) -> Float[Tensor, "*batch A"]:
        """Bits by Gumbel-max, with the gradient of their probabilities."""
        return self.bits.rsample(noise.unflatten(-1, (-1, 2))).unflatten(-1, (-1, 2))[..., 1]

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """log-mass of all bits together."""
        return self.bits.log_prob(torch.stack([1 - action, action], -1).flatten(-2)).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of all bits together."""
        return self.bits.entropy().sum(-1)


@dataclass(frozen=True)
class ClippedNormal:
    """a = clip(u, -1, 1), u ~ N(mean, std^2), for each entry of the action.

        log p(a) = log N(a; mean, std^2)                       for -1 < a < 1, a density
        log P(a = -1) = log F(lower),  log P(a = 1) = log F(-upper)      at the bounds, masses

    with lower = (-1 - mean) / std, upper = (1 - mean) / std and F the standard normal's distribution function.
    """

    mean: Float[Tensor, "*batch A"]  # of u, within [-1, 1]
    std: Float[Tensor, "*batch A"]  # of u

    @property
    def mode(self) -> Float[Tensor, "*batch A"]:
        """The mean of u, which lies within the bounds."""
        return self.mean

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """Standard normal noise for `rsample`."""
        mean = self.mean
        return torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def rsample(self, noise: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """clip(mean + std * noise, -1, 1); a clipped entry does not move, and has no gradient."""
        return (self.mean + self.std * noise).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch A"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Of all entries together: a log-density where an entry is inside its bounds, a log-mass where it is on one."""
        lower, upper = self._bounds()
        inside = -0.5 * ((action - self.mean) / self.std).square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        each = torch.where(action <= -1, log_ndtr(lower), torch.where(action >= 1, log_ndtr(-upper), inside))
        return each.sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Of all entries together: -E[log_prob], in closed form.

            - P(-1) log P(-1) - P(1) log P(1) + P(inside) log(std sqrt(2 pi e)) - 1/2 (upper f(upper) - lower f(lower))

        f is the standard normal's density.
        """
        lower, upper = self._bounds()
        log_below, log_above = log_ndtr(lower), log_ndtr(-upper)
        below, above = log_below.exp(), log_above.exp()
        tails = upper * _density(upper) - lower * _density(lower)
        unclipped = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        inside = (1 - below - above) * unclipped - 0.5 * tails
        return (inside - below * log_below - above * log_above).sum(-1)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        return (-1 - self.mean) / self.std, (1 - self.mean) / self.std


@dataclass(frozen=True)
class ActionFamily:
    """The distributions over one action space, and how many numbers an actor puts out for one."""

    spec: ActionSpec
    unimix: float = 0.01  # classes and bits: share of the uniform distribution that is mixed in
    min_std: float = 0.1  # continuous: of the normal before it is clipped, in units of half the action's range
    max_std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.unimix < 1:
            raise ValueError(f"unimix: expected a share in [0, 1), got {self.unimix}")
        if not 0 < self.min_std < self.max_std:
            raise ValueError(f"min_std, max_std: expected 0 < min_std < max_std, got {(self.min_std, self.max_std)}")

    @property
    def parameters(self) -> int:
        """P, the numbers an actor puts out."""
        return 2 * self.spec.width if self.spec.kind == "continuous" else self.spec.width

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> ActionDistribution:
        """The distribution that an actor's output stands for, in float32 or better.

        Continuous: A numbers m, mean = tanh(m); then A numbers s, std = min_std + (max_std - min_std) sigmoid(s + 2).
        The 2 makes the first actions wide.
        """
        raw = full_precision(raw)
        if self.spec.kind == "categorical":
            return CategoricalActions(raw, self.spec.classes, self.unimix)
        if self.spec.kind == "binary":
            return BinaryActions(raw, self.unimix)
        mean, std = raw.chunk(2, -1)
        return ClippedNormal(mean.tanh(), self.min_std + (self.max_std - self.min_std) * torch.sigmoid(std + 2))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
