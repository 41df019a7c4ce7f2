"""A proposal that looks at the row itself: where p(x_t | h_t, z_t) p(z_t | h_t) is large, found by Fisher scoring.

A learned posterior may miss mass, and then no number of particles makes up for it. Where numbers of a row are Gaussian
given the state, with means m(z) and stds s, the best proposal can be looked for, for every particle. With J = dm/dz and
the prior N(mu, P), a step is

    A = P^-1 + J' s^-2 J,    z <- z + A^-1 d/dz ( log p(x_t | h_t, z) + log p(z | h_t) )

and is taken where it raises that log-density; where it does not, the next one is damped, by adding a multiple of A's
diagonal to A (Levenberg and Marquardt). The proposal is the mixture of N(z, inflation A^-1) and the posterior,
whose exact density the weights know: the estimate stays unbiased. With linear means, fixed stds and an inflation of 1
the first part is the locally optimal proposal p(z_t | h_t, x_t), after one step.

Sources: Doucet, Godsill and Andrieu 2000, Statistics and Computing 10, section II.D (linearised optimal proposals);
Hesterberg 1995, Technometrics 37 (defensive mixtures);
Nocedal and Wright 2006, Numerical Optimization, 2nd ed., section 10.3 (Levenberg-Marquardt).
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.checks import require, require_positive, require_share
from worldmodel.evidence.same_model import SameModel
from worldmodel.models.full_gaussian import FullGaussian
from worldmodel.models.latents import DiagonalGaussian
from worldmodel.oracles.distributions import Gaussian, apply, symmetric
from worldmodel.types import Carry, Latent, LatentSequence, Proposal, State

SHARE, STEPS, INFLATION = 0.9, 2, 1.1
DAMPING = 0.01, 20.0, 0.2  # after the first step that fails; its factors after a failure, and after a success


class RegressionSequence(LatentSequence, Protocol):
    """A `LatentSequence` that says how far each row is from what its states predict."""

    def error(self, state: State, t: int) -> Float[Tensor, "N B R"]:
        """(x - m) / s of all R numbers of row t that are Gaussian given the state, with the gradient of the means m
        alone; zero where there is no observation.
        """
        ...


@runtime_checkable
class Drawn(Protocol):
    """A density that is drawn from by noise; one group (S = 1), in float64."""

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch noise"]:
        """What `rsample` makes a draw from."""
        ...

    def rsample(self, noise: Float[Tensor, "*batch noise"]) -> Float[Tensor, "*batch Z"]:
        """One draw."""
        ...

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch 1"]:
        """Log-density in nats."""
        ...


@dataclass(frozen=True)
class Mixture:
    """Two distributions of one latent, the first with a probability `share`; one group (S = 1), in float64."""

    share: float
    first: Drawn
    second: Latent

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw; each state tosses its own coin."""
        second = self.second.sample(generator)
        first = self.first.rsample(self.first.noise(generator)).to(second.dtype)
        coin = torch.rand(second.shape[:-1], generator=generator, device=second.device)
        return torch.where((coin < self.share)[..., None], first, second)

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch 1"]:
        """log( share first(z) + (1 - share) second(z) ), nats."""
        shares = torch.tensor([self.share, 1 - self.share], dtype=torch.float64).log().tolist()
        parts = (self.first.log_prob(z.double())[..., 0], self.second.log_prob(z).double().sum(-1))
        return torch.logaddexp(*(share + part for share, part in zip(shares, parts, strict=True)))[..., None]


class Sharpened(SameModel):
    """A sequence for SMC with this proposal in place of the posterior: its evidence is the same."""

    sequence: RegressionSequence

    def __init__(
        self,
        sequence: RegressionSequence,
        *,
        share: float = SHARE,
        steps: int = STEPS,
        inflation: float = INFLATION,
        rows: int | None = None,
    ) -> None:
        """Args:
        sequence: whose latents are Gaussian.
        share: of the Gaussian that is found, the rest is the posterior.
        steps: of Fisher scoring, from the mean of the posterior or of the prior, whichever explains the row better.
        inflation: of its covariance.
        rows: how many rows it looks at, from the first; later ones have the posterior alone. All of them by default.
        Raises:
            ValueError: if a number is out of range.
        """
        require_positive(steps=steps)
        require_share(share=share)
        require(inflation >= 1, "inflation", "at least 1", inflation)
        self.sequence, self.share, self.steps, self.inflation = sequence, share, steps, inflation
        self.rows = sequence.valid.shape[1] if rows is None else rows
        self._prior: Latent | None = None  # of the newest step

    def step(self, carry: Carry, t: int) -> tuple[Carry, Float[Tensor, "N B D"], Latent]:
        """The sequence's own; `proposal` is for the h_t that this gave last."""
        carry, deter, self._prior = super().step(carry, t)
        return carry, deter, self._prior

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Proposal:
        """The mixture, for every particle."""
        posterior = self.sequence.proposal(deter, t)
        return Mixture(self.share, self.found(deter, t, posterior), posterior) if t < self.rows else posterior

    def effort(self, t: int) -> tuple[int, float]:
        """Steps and inflation at row t."""
        return self.steps, self.inflation

    def found(self, deter: Float[Tensor, "N B D"], t: int, posterior: Latent) -> Drawn:
        """The Gaussian at the mode that the steps lead to."""
        prior = gaussian(self._prior)
        climb = _Climb(self.sequence, deter, t, prior)
        point = climb.better(climb.at(gaussian(posterior).mean), climb.at(prior.mean))
        damping = torch.zeros_like(point.height)
        steps, inflation = self.effort(t)
        for _ in range(steps):
            tried = climb.at(climb.step(point, damping))
            damping = adjusted(damping, tried.height > point.height)
            point = climb.better(tried, point)
        covariance = inflation * torch.cholesky_inverse(torch.linalg.cholesky(point.precision))
        return Gaussian(point.z, symmetric(covariance))


@dataclass(frozen=True)
class _Point:
    """A latent for every particle, and the log-density there; float64."""

    z: Float[Tensor, "N B Z"]
    height: Float[Tensor, "N B"]  # log p(x_t | h_t, z) + log p(z | h_t)
    slope: Float[Tensor, "N B Z"]  # its gradient
    precision: Float[Tensor, "N B Z Z"]  # A


class _Climb:
    """Fisher scoring on one row."""

    def __init__(self, sequence: RegressionSequence, deter: Tensor, t: int, prior: Gaussian) -> None:
        self.sequence, self.deter, self.t, self.prior = sequence, deter, t, prior
        self.of_prior = torch.cholesky_inverse(prior.scale_tril)  # its precision

    def at(self, z: Tensor) -> _Point:
        """What the row and the prior say of these latents."""
        with torch.enable_grad():
            leaf = z.detach().to(self.deter.dtype).requires_grad_()
            state = State(self.deter, leaf)
            error = self.sequence.error(state, self.t)
            rows = [torch.autograd.grad(e.sum(), leaf, retain_graph=True)[0] for e in error.unbind(-1)]
            log_likelihood = torch.stack(list(self.sequence.likelihood(state, self.t).values())).sum(0)
            (score,) = torch.autograd.grad(log_likelihood.sum(), leaf)
        z, jacobian = z.detach().double(), finite(torch.stack(rows, -2).double())
        height = finite(log_likelihood.detach().double() + self.prior.log_prob(z)[..., 0], otherwise=-math.inf)
        slope = finite(score.double()) - apply(self.of_prior, z - self.prior.mean)
        return _Point(z, height, slope, self.of_prior + jacobian.mT @ jacobian)

    def step(self, point: _Point, damping: Float[Tensor, "N B"]) -> Float[Tensor, "N B Z"]:
        """The next latent."""
        return point.z + downhill(point.precision, -point.slope, damping)

    def better(self, one: _Point, other: _Point) -> _Point:
        """Of each particle, the point with the higher density."""
        first = one.height > other.height
        parts = {
            name: torch.where(first[(..., *[None] * (a.ndim - first.ndim))], a, b)
            for name, a, b in ((name, getattr(one, name), getattr(other, name)) for name in _Point.__annotations__)
        }
        return _Point(**parts)


def downhill(
    curvature: Float[Tensor, "*batch n n"], slope: Float[Tensor, "*batch n"], damping: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch n"]:
    """-(A + damping diag A)^-1 slope."""
    damped = curvature + torch.diag_embed(damping[..., None] * curvature.diagonal(dim1=-2, dim2=-1))
    return -torch.cholesky_solve(slope[..., None], torch.linalg.cholesky(damped))[..., 0]


def adjusted(damping: Float[Tensor, "*batch"], success: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The damping of the next step: less after a success, more after a failure."""
    least, up, down = DAMPING
    return torch.where(success, damping * down, (damping * up).clamp(min=least, max=1e12))


def finite(x: Tensor, otherwise: float = 0.0) -> Tensor:
    """The same, with another number for what is not finite: where a row says nothing of use, the prior remains."""
    return torch.where(x.isfinite(), x, otherwise)


def gaussian(latent: Latent | None) -> Gaussian:
    """The same distribution with a full covariance, in float64.

    Raises:
        ValueError: if it is no Gaussian.
    """
    if isinstance(latent, DiagonalGaussian):
        return Gaussian(latent.mean.double(), torch.diag_embed(latent.std.double().square()))
    if isinstance(latent, FullGaussian):
        factor = latent.scale_tril.double()
        return Gaussian(latent.mean.double(), factor @ factor.mT)
    if isinstance(latent, Gaussian):
        return Gaussian(latent.mean.double(), latent.cov.double())
    raise ValueError(f"sequence: expected Gaussian latents, got {type(latent).__name__}")
