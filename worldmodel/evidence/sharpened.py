"""A proposal that looks at the row itself: where p(x_t | h_t, z_t) p(z_t | h_t) is large, found by Fisher scoring.

A learned posterior may miss mass, and then no number of particles makes up for it. Where numbers of a row are Gaussian
given the state, with means m(z) and stds s, the best proposal can be looked for, for every particle. With J = dm/dz and
the prior N(mu, P), a step is

    A = P^-1 + J' s^-2 J,    z <- z + A^-1 d/dz ( log p(x_t | h_t, z) + log p(z | h_t) )

and is taken where it raises that log-density. The proposal is the mixture of N(z, inflation A^-1) and the posterior,
whose exact density the weights know: the estimate stays unbiased. With linear means, fixed stds and an inflation of 1
the first part is the locally optimal proposal p(z_t | h_t, x_t), after one step.

Sources: Doucet, Godsill and Andrieu 2000, Statistics and Computing 10, section II.D (linearised optimal proposals);
Hesterberg 1995, Technometrics 37 (defensive mixtures).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require, require_positive, require_share
from worldmodel.evidence.same_model import SameModel
from worldmodel.models.latents import DiagonalGaussian
from worldmodel.oracles.distributions import Gaussian, apply, symmetric
from worldmodel.types import Carry, Latent, LatentSequence, State

SHARE, STEPS, INFLATION = 0.9, 2, 1.1


class RegressionSequence(LatentSequence, Protocol):
    """A `LatentSequence` that says how far each row is from what its states predict."""

    def error(self, state: State, t: int) -> Float[Tensor, "N B R"]:
        """(x - m) / s of all R numbers of row t that are Gaussian given the state, with the gradient of the means m
        alone; zero where there is no observation.
        """
        ...


@dataclass(frozen=True)
class Mixture:
    """Two distributions of one latent, the first with a probability `share`; one group (S = 1), in float64."""

    share: float
    first: Gaussian
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
        self, sequence: RegressionSequence, *, share: float = SHARE, steps: int = STEPS, inflation: float = INFLATION
    ) -> None:
        """Args:
        sequence: whose latents are Gaussian.
        share: of the Gaussian that is found, the rest is the posterior.
        steps: of Fisher scoring, from the mean of the posterior or of the prior, whichever explains the row better.
        inflation: of its covariance.
        Raises:
            ValueError: if a number is out of range.
        """
        require_positive(steps=steps)
        require_share(share=share)
        require(inflation >= 1, "inflation", "at least 1", inflation)
        self.sequence, self.share, self.steps, self.inflation = sequence, share, steps, inflation
        self._prior: Latent | None = None  # of the newest step

    def step(self, carry: Carry, t: int) -> tuple[Carry, Float[Tensor, "N B D"], Latent]:
        """The sequence's own; `proposal` is for the h_t that this gave last."""
        carry, deter, self._prior = super().step(carry, t)
        return carry, deter, self._prior

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Mixture:
        """The mixture, for every particle."""
        prior, posterior = _gaussian(self._prior), self.sequence.proposal(deter, t)
        climb = _Climb(self.sequence, deter, t, prior)
        point = climb.better(climb.at(_gaussian(posterior).mean), climb.at(prior.mean))
        for _ in range(self.steps):
            point = climb.better(climb.at(climb.step(point)), point)
        covariance = self.inflation * torch.cholesky_inverse(torch.linalg.cholesky(point.precision))
        return Mixture(self.share, Gaussian(point.z, symmetric(covariance)), posterior)


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
        z, jacobian = z.detach().double(), torch.stack(rows, -2).double()
        height = log_likelihood.detach().double() + self.prior.log_prob(z)[..., 0]
        slope = score.double() - apply(self.of_prior, z - self.prior.mean)
        return _Point(z, height, slope, self.of_prior + jacobian.mT @ jacobian)

    def step(self, point: _Point) -> Float[Tensor, "N B Z"]:
        """The next latent."""
        root = torch.linalg.cholesky(point.precision)
        return point.z + torch.cholesky_solve(point.slope[..., None], root)[..., 0]

    def better(self, one: _Point, other: _Point) -> _Point:
        """Of each particle, the point with the higher density."""
        first = one.height > other.height
        parts = {
            name: torch.where(first[(..., *[None] * (a.ndim - first.ndim))], a, b)
            for name, a, b in ((name, getattr(one, name), getattr(other, name)) for name in _Point.__annotations__)
        }
        return _Point(**parts)


def _gaussian(latent: Latent | None) -> Gaussian:
    """The same distribution with a full covariance, in float64.

    Raises:
        ValueError: if it is no Gaussian.
    """
    if isinstance(latent, DiagonalGaussian):
        return Gaussian(latent.mean.double(), torch.diag_embed(latent.std.double().square()))
    if isinstance(latent, Gaussian):
        return Gaussian(latent.mean.double(), latent.cov.double())
    raise ValueError(f"sequence: expected Gaussian latents, got {type(latent).__name__}")
