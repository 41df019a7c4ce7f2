"""Integrals of a density over a box of few dimensions, in logarithms, wherever in the box its mass lies.

A `Frame` maps the unit cube to the part of the box around a mean, along the axes of a covariance, so that the faces of
the box stay faces of the cube. There `product_rule` is Gauss-Legendre in every dimension, whose error falls
exponentially where the density is smooth; `adaptive_rule` halves the cells of the cube in which it is not, as a kink
needs. Where the density jumps to zero at a smooth surface, the frame is cut there. `focused` finds the frame: from a
frame that contains the mass to the moments of the mass, again and again.

Sources: Genz 1992, Journal of Computational and Graphical Statistics 1, 141 (the triangular map); Genz and Malik 1980,
Journal of Computational and Applied Mathematics 6, 295 (adaptive cells).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

REACH = 7.0  # standard deviations on both sides of the mean; beyond it lie 3e-12 of a Gaussian
AT_ONCE = 2**16  # points that are evaluated together
TINY = 1e-300
BEGIN = 4  # cells to begin with, as a power of two
ALONG = 12  # Chebyshev points along a line, from which its crossing of a surface is found
LogDensity = Callable[[Float[Tensor, "N n"]], Tensor]  # [N, n] -> [N, ...]
Margin = Callable[[Float[Tensor, "N n"]], Float[Tensor, "N M"]]


@dataclass(frozen=True)
class Frame:
    """A part of a box: points mean + scale u that lie in it, with |u_i| <= REACH as a rule."""

    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]
    scale: Float[Tensor, "n n"]  # lower triangular, with a positive diagonal
    margin: Margin | None = None  # smooth functions, all of which are positive where the density is

    @classmethod
    def whole(cls, low: Float[Tensor, " n"], high: Float[Tensor, " n"], margin: Margin | None = None) -> "Frame":
        """The whole box."""
        return cls(low, high, (low + high) / 2, torch.diag((high - low) / 2 / REACH), margin)

    def place(
        self, unit: Float[Tensor, "N n"]
    ) -> tuple[Float[Tensor, "N n"], Float[Tensor, "N n"], Float[Tensor, " N"]]:
        """Points of the unit cube -> points of the box, their u, and the log of the volume element.

        u_i runs over the interval that the box leaves of [-REACH, REACH] given u_1 .. u_i-1, further on one side by
        what the box takes from the other, and the last over what the margins leave of it.
        """
        u, point, volume = torch.zeros_like(unit), torch.zeros_like(unit), torch.zeros_like(unit[:, 0])
        for i in range(unit.shape[1]):
            width = self.scale[i, i]
            centre = self.mean[i] + u[:, :i] @ self.scale[i, :i]
            lowest, highest = _reached((self.low[i] - centre) / width, (self.high[i] - centre) / width)
            if self.margin is not None and i == unit.shape[1] - 1:
                lowest, highest = self._cut(point[:, :i], centre, lowest, highest)
            u[:, i] = lowest + unit[:, i] * (highest - lowest)
            point[:, i] = centre + width * u[:, i]
            volume = volume + (width * (highest - lowest)).log()
        return point, u, volume

    def _cut(
        self, fixed: Float[Tensor, "N m"], centre: Tensor, lowest: Tensor, highest: Tensor
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """The part of the lines through (fixed, .) where the margins are positive; u_n from `lowest` to `highest`."""
        assert self.margin is not None
        bounds = torch.stack([centre, lowest, highest], 1)
        lines, which = torch.unique(torch.cat([fixed, bounds], 1), dim=0, return_inverse=True)
        fixed, centre, lowest, highest = lines[:, :-3], lines[:, -3], lines[:, -2], lines[:, -1]
        along, _ = _chebyshev()
        u = lowest[:, None] + along * (highest - lowest)[:, None]
        last = (centre[:, None] + self.scale[-1, -1] * u)[..., None]
        points = torch.cat([fixed[:, None].expand(-1, ALONG, -1), last], -1).reshape(-1, fixed.shape[1] + 1)
        values = torch.cat([self.margin(part) for part in points.split(AT_ONCE)]).reshape(len(lines), ALONG, -1)
        first, end = _positive_part(values)
        length = highest - lowest
        return (lowest + first * length)[which], (lowest + end * length)[which]


def _reached(low: Float[Tensor, " N"], high: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Of the intervals from low to high, the part within REACH of zero, longer where one end cuts it short.

    A mass at a face of the box falls more slowly than a Gaussian on its other side.
    """
    lowest = torch.maximum(low, high.clamp(-REACH, REACH) - 2 * REACH)
    return lowest, torch.maximum(lowest, torch.minimum(high, low.clamp(-REACH, REACH) + 2 * REACH))


def product_rule(density: LogDensity, frame: Frame, order: int) -> Float[Tensor, " *rest"]:
    """log of the integral of exp(density) over a frame, with `order` Gauss-Legendre points in each dimension."""
    return _weighted(density, frame, order)[1].logsumexp(0)


def growing_rule(
    density: LogDensity, frame: Frame, tolerance: float, orders: Sequence[int]
) -> tuple[Float[Tensor, ""], float]:
    """The product rule of one order after the other: -> the log of the integral, and its estimated error.

    The values converge geometrically where the density is smooth, so that the error is the last step times the ratio of
    the last two steps, if that is below one. It stops once this is below the tolerance.
    """
    values: list[Tensor] = []
    error = math.inf
    for order in orders:
        values.append(product_rule(density, frame, order))
        if len(values) > 2:
            before, last = (abs(float(b - a)) for a, b in pairwise(values[-3:]))
            error = last * min(1.0, last / max(before, TINY))
        if error < tolerance:
            break
    return values[-1], error


def adaptive_rule(
    density: LogDensity, frame: Frame, tolerance: float, *, order: int = 7, smooth: int = 0, most: int = 2_000_000
) -> tuple[Float[Tensor, ""], float]:
    """The integral over cells that are halved where they are not yet sure: -> its log, and its estimated error.

    The rule of a cell is Gauss-Lobatto, whose points include the ends: without them a kink next to an end is not seen.
    A cell's value is the sum over its halves, and its error the distance of that from the rule over the cell as a
    whole, or a hundredth of the error of the cell that it is a half of, if that is more, since the two may agree by
    accident. Cells are halved, those with the largest errors first, until the square root of the sum of the squares of
    what is left falls below the tolerance.

    Args:
        density: log of what is integrated.
        frame: where.
        tolerance: of the log of the integral, in nats.
        order: points in each dimension of a cell.
        smooth: Gauss-Legendre points in the last dimension if it is never halved, since nothing but the frame's cut
            disturbs it; zero if it is halved like the others.
        most: points, after which it stops wherever it is.
    """
    n = len(frame.mean) - bool(smooth)
    cells, points = _Cells(torch.zeros(1, n, dtype=torch.float64), torch.ones(1, dtype=torch.float64)), 0
    for _ in range(BEGIN // n):
        cells = cells.halved()
    whole = _cell_integrals(density, frame, cells, order, smooth)
    value_done, error_done, least = whole[:0], whole[:0], torch.full_like(whole, -torch.inf)
    while True:
        halves = cells.halved()
        parts = _cell_integrals(density, frame, halves, order, smooth)
        points += len(parts) * order**n * max(smooth, 1)
        value = parts.reshape(-1, 2**n).logsumexp(1)
        values = torch.cat([value_done, value])
        error = torch.maximum(torch.maximum(value, whole) + _log_gap(value, whole), least)
        errors = torch.cat([error_done, error])
        total = values.logsumexp(0)
        if bool(total == -torch.inf):  # no point has any density
            return total, 0.0
        relative = (errors - total).exp().square()
        ranked = relative.argsort()
        sure = torch.zeros_like(relative, dtype=torch.bool)
        sure[ranked] = relative[ranked].cumsum(0) <= tolerance**2
        sure[: len(value_done)] = True  # their halves are not kept
        again = ~sure[len(value_done) :]
        if not bool(again.any()) or points > most:
            return total, float(relative.sum().sqrt())
        value_done, error_done = values[sure], errors[sure]
        chosen = again.repeat_interleave(2**n)
        cells, whole = _Cells(halves.corner[chosen], halves.size[chosen]), parts[chosen]
        least = (error[again] - math.log(100)).repeat_interleave(2**n)


def focused(density: LogDensity, frame: Frame, order: int, *, rounds: int = 12) -> Frame:
    """The frame at the mean and covariance of the mass in a given frame.

    A spread that the points do not resolve counts as a quarter of their distance, so that a frame that is much too wide
    closes in within a few rounds.
    """
    for _ in range(rounds):
        u, weights = _weighted(density, frame, order)
        share = weights.softmax(0)
        if not bool(torch.isfinite(share).all()):
            return frame
        mean = share @ u
        centred = u - mean
        values, vectors = torch.linalg.eigh((centred * share[:, None]).T @ centred)
        finest = (torch.pi / 2 * 2 * REACH / order / 4) ** 2
        covariance = vectors * values.clamp(min=finest) @ vectors.T
        scale = torch.linalg.cholesky(frame.scale @ covariance @ frame.scale.T)
        change = scale.diagonal() / frame.scale.diagonal()
        frame = replace(frame, mean=frame.mean + frame.scale @ mean, scale=scale)
        if bool(((change > 0.85) & (change < 1.2)).all()):
            break
    return frame


@dataclass(frozen=True)
class _Cells:
    """Cubes in the unit cube."""

    corner: Float[Tensor, "C n"]
    size: Float[Tensor, " C"]

    def halved(self) -> "_Cells":
        """The 2^n halves of each, one cell after the other."""
        n = self.corner.shape[1]
        steps = torch.cartesian_prod(*[torch.tensor([0.0, 0.5]).double()] * n).reshape(-1, n)
        corner = self.corner[:, None] + self.size[:, None, None] * steps
        return _Cells(corner.reshape(-1, n), (self.size / 2).repeat_interleave(2**n))


def _cell_integrals(density: LogDensity, frame: Frame, cells: _Cells, order: int, smooth: int) -> Float[Tensor, " C"]:
    n = cells.corner.shape[1]
    unit, log_weight = _grid((-order,) * n + (smooth,) * bool(smooth))
    found, together = [], max(1, AT_ONCE // len(unit))
    for corner, size in zip(cells.corner.split(together), cells.size.split(together), strict=True):
        scaled = corner[:, None] + size[:, None, None] * unit[:, :n]
        inside = torch.cat([scaled, unit[:, n:].expand(len(corner), -1, -1)], -1)
        point, _, volume = frame.place(inside.reshape(-1, unit.shape[1]))
        height = (density(point) + volume).reshape(len(corner), -1)
        found.append((height + log_weight).logsumexp(1) + n * size.log())
    return torch.cat(found)


def _weighted(density: LogDensity, frame: Frame, order: int) -> tuple[Float[Tensor, "N n"], Tensor]:
    """The points of the product rule as u, and the logs of what they add to the integral."""
    unit, log_weight = _grid((order,) * len(frame.mean))
    point, u, volume = frame.place(unit)
    height = torch.cat([density(part) for part in point.split(AT_ONCE)])
    outer = (volume + log_weight).reshape(-1, *[1] * (height.ndim - 1))
    return u, height + outer


def _positive_part(values: Float[Tensor, "L K M"]) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
    """Where in [0, 1] all of M functions are positive, given at the Chebyshev points: -> the first and the last point.

    A function that crosses zero more than once is left out.
    """
    _, to_polynomial = _chebyshev()
    coefficient = torch.einsum("jk,lkm->lmj", to_polynomial, values)
    powers = torch.arange(ALONG, dtype=torch.float64)

    def at(v: Float[Tensor, "L M"]) -> Float[Tensor, "L M"]:
        angle = (2 * v - 1).clamp(-1, 1).arccos()
        return (coefficient * (angle[..., None] * powers).cos()).sum(-1)

    crossings = (values[:, 1:].signbit() != values[:, :-1].signbit()).sum(1)
    left, right = torch.zeros_like(coefficient[..., 0]), torch.ones_like(coefficient[..., 0])
    begins, ends = at(left) > 0, at(right) > 0
    for _ in range(48):
        middle = (left + right) / 2
        same = (at(middle) > 0) == begins
        left, right = torch.where(same, middle, left), torch.where(same, right, middle)
    once = crossings <= 1
    first = torch.where(once & ~begins, torch.where(ends, right, 1.0), 0.0).amax(-1)
    end = torch.where(once & ~ends, torch.where(begins, left, 0.0), 1.0).amin(-1)
    return first, torch.maximum(first, end)


def _log_gap(a: Tensor, b: Tensor) -> Tensor:
    """log |exp(a) - exp(b)| less the larger of the two; -inf where both are."""
    apart = torch.where(a == b, torch.inf, (a - b).abs())
    return torch.where(apart == torch.inf, torch.where(a == b, -torch.inf, 0.0), torch.log1p(-(-apart).exp()))


@cache
def _chebyshev() -> tuple[Float[Tensor, " K"], Float[Tensor, "K K"]]:
    """The Chebyshev points of [0, 1], and the matrix from values there to coefficients of Chebyshev polynomials."""
    angle = (torch.arange(ALONG, dtype=torch.float64) + 0.5) * torch.pi / ALONG
    waves = (torch.arange(ALONG, dtype=torch.float64)[:, None] * angle).cos()
    scale = torch.full((ALONG, 1), 2.0 / ALONG, dtype=torch.float64)
    scale[0] = 1.0 / ALONG
    return (angle.cos() + 1) / 2, waves * scale


@cache
def _grid(orders: tuple[int, ...]) -> tuple[Float[Tensor, "N n"], Float[Tensor, " N"]]:
    """The points of a product rule in the unit cube, and the logs of their weights.

    Gauss-Legendre in each dimension, or Gauss-Lobatto where an order is negative.
    """
    rules = [np.polynomial.legendre.leggauss(order) if order > 0 else _lobatto(-order) for order in orders]
    points = torch.cartesian_prod(*[torch.from_numpy((nodes + 1) / 2) for nodes, _ in rules])
    products = torch.cartesian_prod(*[torch.from_numpy(weights / 2).log() for _, weights in rules])
    return points.reshape(-1, len(orders)), products.reshape(-1, len(orders)).sum(1)


def _lobatto(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on [-1, 1]: both ends and the extrema of the Legendre polynomial of degree order - 1."""
    highest = np.polynomial.Legendre.basis(order - 1)
    nodes = np.concatenate([[-1.0], np.sort(highest.deriv().roots().real), [1.0]])
    return nodes, 2 / (order * (order - 1) * highest(nodes) ** 2)
