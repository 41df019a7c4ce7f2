"""A proposal for the first row that looks ahead.

What the first observation leaves open of z_1, the next rows decide, and then the particles that guessed right are few.
But what is carried before the first row is a constant. So the density of the first L rows together,

    p(x_1:L, z_1:L) = prod_t  p(x_t | h_t, z_t) p(z_t | h_t),    h_t a function of z_1:t-1,

is explored once a sequence, for all particles. Where the decoder is sharp, it is a thin curved sheet, of which a
Gaussian at the mode covers next to nothing. So K points are spread over the sheet by randomising, then optimising: with
the errors e = (x - m) / s of the rows and the offsets d of the latents from their prior's means, in its stds, each is

    argmin over z_1:L of  | e(z_1:L) - epsilon |^2 + | d(z_1:L) - eta |^2,    epsilon, eta standard normal,

by damped Gauss-Newton steps, from a draw of the prior, whose offsets are eta; at first with larger s, so that far draws
find their way. In a linear model the points are draws from p(z_1:L | x_1:L). With the curvature A at each, z_1 is
proposed from the mixture of the Gaussians N(point, c (A^-1)_11), narrow and wide, weighted by a power of their Laplace
evidence: below one, lest a point that only seems best takes all. The weights know the exact density of the mixture, so
that the estimate is unbiased whatever was found. Later rows are proposed as `Sharpened` does, the first of them with
more steps and wider Gaussians, since their densities are curved too.

Sources: Doucet, Briers and Senecal 2006, J. Comput. Graph. Stat. 15 (proposals over blocks of rows); Bardsley, Solonen,
Haario and Laine 2014, SIAM J. Sci. Comput. 36 (randomise, then optimise); Tierney and Kadane 1986, JASA 81 (Laplace).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.evidence.sharpened import (
    Drawn,
    RegressionSequence,
    Sharpened,
    adjusted,
    downhill,
    finite,
    gaussian,
)
from worldmodel.oracles.distributions import LOG_2PI, apply, half_log_det, symmetric, whiten
from worldmodel.types import Latent, State

FIRST_ROWS, FIRST_STEPS, FIRST_INFLATION = 6, 6, 1.6  # rows with more steps and wider Gaussians, at least these
AHEAD = 2  # rows that are looked at together
POINTS = 128
STAGES = (30.0, 10.0, 3.0, 1.0)  # the rows' stds are so many times as large
STEPS = 4  # of each stage
POWER = 0.25  # of the Laplace evidence, in a point's weight
INFLATIONS = (1.0, 3.0)  # of the covariance at a point,
PARTS = (0.8, 0.2)  # and what part of its weight has it


@dataclass(frozen=True)
class Spread:
    """N draws of z_1 of B sequences from a mixture of Gaussians around K points of each; one group (S = 1), float64."""

    points: Float[Tensor, "K B Z"]
    roots: Float[Tensor, "K B Z Z"]  # Cholesky factors of the covariances, without their inflation
    log_share: Float[Tensor, "K B"]
    particles: int

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "N B noise"]:
        """Z standard normal numbers, and two uniform ones: for the point, and for the inflation."""
        points = self.points
        _, B, Z = points.shape
        like: Any = {"generator": generator, "device": points.device, "dtype": points.dtype}
        return torch.cat([torch.randn(self.particles, B, Z, **like), torch.rand(self.particles, B, 2, **like)], -1)

    def rsample(self, noise: Float[Tensor, "N B noise"]) -> Float[Tensor, "N B Z"]:
        """Draws, each around one of the points."""
        bounds = self.log_share.exp().T.contiguous().cumsum(-1)
        k = torch.searchsorted(bounds, noise[..., -2].T.contiguous(), right=True).T.clamp(max=len(self.points) - 1)
        b = torch.arange(k.shape[1], device=k.device)
        narrow, wide = INFLATIONS
        inflation = torch.where(noise[..., -1] < PARTS[0], narrow, wide)
        return self.points[k, b] + inflation.sqrt()[..., None] * apply(self.roots[k, b], noise[..., :-2])

    def log_prob(self, z: Float[Tensor, "N B Z"]) -> Float[Tensor, "N B 1"]:
        """The logarithm of sum_k share_k sum_c part_c N(z; point_k, c cov_k), nats."""
        Z = z.shape[-1]
        whitener = torch.linalg.solve_triangular(
            self.roots, torch.eye(Z, dtype=z.dtype, device=z.device).expand_as(self.roots), upper=False
        )
        white = torch.einsum("kbij,nbj->nkbi", whitener, z) - apply(whitener, self.points)
        distance = white.square().sum(-1)  # [N, K, B]
        by_inflation = [
            math.log(part) - 0.5 * (distance / c + Z * (math.log(c) + LOG_2PI))
            for c, part in zip(INFLATIONS, PARTS, strict=True)
        ]
        density = torch.logaddexp(*by_inflation) - half_log_det(self.roots)
        return (self.log_share + density).logsumexp(1)[..., None]


class LookAhead(Sharpened):
    """A sequence for SMC with this proposal on its first row; its evidence is the same."""

    def __init__(
        self,
        sequence: RegressionSequence,
        *,
        ahead: int = AHEAD,
        points: int = POINTS,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> None:
        """Args:
        sequence: whose latents are Gaussian, and whose particles all start from the same carry.
        ahead: L, rows looked at together. Particles should not be resampled before the last of them: see `smc.Start`.
        points: K.
        generator: source of the points; they are looked for once, when the first row is first proposed.
        settings: of `Sharpened`.
        Raises:
            ValueError: if a number is out of range.
        """
        super().__init__(sequence, **settings)
        require_positive(ahead=ahead, points=points)
        self.ahead, self.points, self.generator = min(ahead, sequence.valid.shape[1]), points, generator
        self._spread: tuple[Tensor, Tensor, Tensor] | None = None

    def found(self, deter: Float[Tensor, "N B D"], t: int, posterior: Latent) -> Drawn:
        """The mixture at the first row, one Gaussian for every particle at later ones."""
        if t > 0:
            return super().found(deter, t, posterior)
        if self._spread is None:
            self._spread = _Block(self.sequence, self.ahead).spread(self.points, self.generator)
        return Spread(*self._spread, len(deter))

    def effort(self, t: int) -> tuple[int, float]:
        """More steps and a larger inflation at the first rows."""
        steps, inflation = super().effort(t)
        return (max(steps, FIRST_STEPS), max(inflation, FIRST_INFLATION)) if t < FIRST_ROWS else (steps, inflation)


class _Point(NamedTuple):
    """z_1:L of K points, and what rows and prior say there; float64."""

    z: Float[Tensor, "K B L Z"]
    errors: Float[Tensor, "K B R"]  # e
    offsets: Float[Tensor, "K B LZ"]  # d
    of_errors: Float[Tensor, "K B R LZ"]  # the derivatives of either
    of_offsets: Float[Tensor, "K B LZ LZ"]
    log_density: Float[Tensor, "K B"]  # log p(x_1:L, z_1:L)

    def curvature(self, widened: float) -> Float[Tensor, "K B LZ LZ"]:
        """A, with stds of the rows so many times as large."""
        return self.of_errors.mT @ self.of_errors / widened**2 + self.of_offsets.mT @ self.of_offsets


class _Block:
    """The first rows as one least-squares problem."""

    def __init__(self, sequence: RegressionSequence, rows: int) -> None:
        self.sequence, self.rows = sequence, rows

    def spread(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """K points of z_1 [K, B, Z], the roots of their covariances [K, B, Z, Z] and log-shares [K, B]."""
        point = self.at(self.draw(count, generator))
        errors = point.errors
        noise = torch.randn(errors.shape, generator=generator, dtype=errors.dtype, device=errors.device)
        point = self.optimised(point, noise, point.offsets)
        Z = point.z.shape[-1]
        root = torch.linalg.cholesky(point.curvature(1.0))
        covariance = symmetric(torch.cholesky_inverse(root)[..., :Z, :Z])
        log_share = (POWER * (point.log_density - half_log_det(root))).log_softmax(0)
        return point.z[..., 0, :], torch.linalg.cholesky(covariance), log_share

    def optimised(self, point: _Point, epsilon: Float[Tensor, "K B R"], eta: Float[Tensor, "K B LZ"]) -> _Point:
        """Where the steps lead that make e - epsilon and d - eta small."""
        damping = torch.full_like(point.log_density, 0.01)
        for widened in STAGES:

            def cost(at: _Point, widened: float = widened) -> Float[Tensor, "K B"]:
                return ((at.errors - epsilon) / widened).square().sum(-1) + (at.offsets - eta).square().sum(-1)

            for _ in range(STEPS):
                slope = apply(point.of_errors.mT, (point.errors - epsilon) / widened**2)
                slope = slope + apply(point.of_offsets.mT, point.offsets - eta)
                step = downhill(point.curvature(widened), slope, damping)
                tried = self.at(point.z + step.unflatten(-1, point.z.shape[-2:]))
                success = cost(tried) < cost(point)
                damping = adjusted(damping, success)
                point = _Point(*(torch.where(_like(success, a), a, b) for a, b in zip(tried, point, strict=True)))
        return point

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator | None) -> Float[Tensor, "K B L Z"]:
        """Latents of the rows, drawn from the prior."""
        carry, z = self.sequence.initial(count), []
        for t in range(self.rows):
            carry, deter, prior = self.sequence.step(carry, t)
            z.append(prior.sample(generator))
            carry = self.sequence.advance(carry, State(deter, z[-1]))
        return torch.stack(z, 2)

    def at(self, z: Float[Tensor, "K B L Z"]) -> _Point:
        """Errors and offsets of these latents, with their derivatives; none where they are not finite."""
        with torch.enable_grad():
            leaf = z.detach().double().requires_grad_()
            errors, offsets, log_density = zip(*self.terms(leaf), strict=True)
            sides = [torch.cat(errors, -1), torch.cat(offsets, -1)]
            of = [torch.stack([_slope(x, leaf) for x in side.unbind(-1)], 2).flatten(-2) for side in sides]
        e, d = (finite(side.detach().double(), otherwise=1e6) for side in sides)
        of_e, of_d = (finite(slopes.double()) for slopes in of)
        height = finite(torch.stack(log_density).sum(0).detach().double(), otherwise=-1e12)
        return _Point(leaf.detach().double(), e, d, of_e, of_d, height)

    def terms(self, z: Float[Tensor, "K B L Z"]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Errors, offsets and log-density of each row; a row that does not count has offsets alone."""
        carry = self.sequence.initial(len(z))
        for t in range(self.rows):
            carry, deter, prior = self.sequence.step(carry, t)
            now, counts, of_prior = z[:, :, t], self.sequence.valid[:, t], gaussian(prior)
            state = State(deter, now.to(deter.dtype))
            log_likelihood = torch.stack(list(self.sequence.likelihood(state, t).values())).sum(0)
            log_density = torch.where(counts, log_likelihood, 0.0) + of_prior.log_prob(now)[..., 0]
            error = torch.where(counts[:, None], self.sequence.error(state, t), 0.0)
            yield error, whiten(of_prior.scale_tril, now - of_prior.mean), log_density
            carry = self.sequence.advance(carry, state)


def _slope(x: Tensor, z: Tensor) -> Tensor:
    slope = torch.autograd.grad(x.sum(), z, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(z) if slope is None else slope


def _like(success: Tensor, x: Tensor) -> Tensor:
    return success[(..., *[None] * (x.ndim - success.ndim))]
