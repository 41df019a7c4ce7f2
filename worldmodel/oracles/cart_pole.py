"""CartPole's evidence given the start of its pole: the cart's start is integrated out in closed form.

The pole moves as if the cart were not there, and the cart's position and velocity are linear in their start v:

    x_t = x + (t - 1) tau x' + X_t,    x'_t = x' + V_t

where X and V are the path of a cart that starts at rest at zero under the same pole. So log p(rows | v, pole) is
c + b . v - v . L v / 2, and the integral over the box of starts is Gaussian: over x by the normal distribution
function, between the bounds that the flags leave it, and over x' by quadrature.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.classic_control import cart_pole_reward, pole
from worldmodel.oracles.episodes import Episode, log_normal

ORDER = 30  # Gauss-Legendre points for the cart's velocity
REACH = 7.5  # standard deviations of the velocity on both sides of its mean


def log_density(
    constants: Mapping[str, float],
    low: Float[Tensor, " 4"],
    high: Float[Tensor, " 4"],
    observation_std: Float[Tensor, " 4"],
    reward_std: float,
    episode: Episode,
) -> Callable[[Float[Tensor, "N 2"], Sequence[int]], Float[Tensor, "N K"]]:
    """log p(pole) p(x_1:t, r_2:t, c_2:t | pole) as a function of the pole's angle and speed and of numbers of rows."""
    tau, limit = constants["tau"], constants["theta_threshold_radians"]
    std = observation_std
    uniform = -(high - low).log().sum()

    def density(start: Float[Tensor, "N 2"], times: Sequence[int]) -> Float[Tensor, "N K"]:
        angle, speed = start.unbind(-1)
        x, velocity = torch.zeros_like(angle), torch.zeros_like(angle)
        cart, total, found = Cart(x, low, high, constants["x_threshold"]), uniform.expand(len(start)), []
        for t in range(times[-1]):
            if t:
                push, turning = pole(angle, speed, episode.action[t], constants)
                x, velocity = x + tau * velocity, velocity + tau * push
                angle, speed = angle + tau * speed, speed + tau * turning
                reward = cart_pole_reward(torch.full_like(angle, episode.ends(t), dtype=torch.bool), constants)
                total = total + log_normal(reward - episode.reward[t], reward_std)
                fallen = angle.abs() > limit
                cart.keep(x, t * tau, ends=episode.ends(t), fallen=fallen)
                total = total if episode.ends(t) else torch.where(fallen, -torch.inf, total)
            noise = torch.stack([angle, speed], -1) - episode.observation[t, 2:]
            total = total + log_normal(noise, std[2:]).sum(-1)
            total = total + cart.see(x - episode.observation[t, 0], t * tau, std[0])
            total = total + cart.see(velocity - episode.observation[t, 1], None, std[1])
            if t + 1 in times:
                found.append(total + cart.log_integral())
        return torch.stack(found, -1)

    return density


def margin(
    constants: Mapping[str, float], std: float, episode: Episode
) -> Callable[[Float[Tensor, "N 2"]], Float[Tensor, "N M"]] | None:
    """By how much the pole is on the side of its limit where the flags say it is, on the rows that come near it.

    None where no row does, where the end may be that of the track, or where an angle is seen with so much noise (`std`)
    that it does not tell on which side the pole fell.
    """
    limit, seen = constants["theta_threshold_radians"], episode.observation[:, 2].tolist()
    near = [t for t, angle in enumerate(seen) if t and abs(angle) > limit / 2]
    if (
        not near
        or std > limit / 6
        or (episode.terminated and abs(float(episode.observation[-1, 0])) > constants["x_threshold"] / 2)
    ):
        return None

    def inside(start: Float[Tensor, "N 2"]) -> Float[Tensor, "N M"]:
        angle, speed = start.unbind(-1)
        found = []
        for t in range(1, len(seen)):
            _, turning = pole(angle, speed, episode.action[t], constants)
            angle, speed = angle + constants["tau"] * speed, speed + constants["tau"] * turning
            if t in near:
                within = limit - math.copysign(1, seen[t]) * angle
                found.append(-within if episode.ends(t) else within)
        return torch.stack(found, -1)

    return inside


class Cart:
    """log p(rows | v, pole) for N poles, as a quadratic function of the cart's start v = (x, x'), and bounds on v."""

    def __init__(
        self, like: Float[Tensor, " N"], low: Float[Tensor, " 4"], high: Float[Tensor, " 4"], threshold: float
    ) -> None:
        self._low, self._high, self._threshold = low[:2], high[:2], threshold
        self._precision = torch.zeros(2, 2, dtype=torch.float64)
        self._linear = torch.zeros(len(like), 2, dtype=torch.float64)
        # Of each row: -threshold - X_t <= x + elapsed x' <= threshold - X_t, as (X_t, elapsed).
        self._within: list[tuple[Tensor, float]] = []
        self._last: tuple[Tensor, float, Tensor] | None = None  # where the last row ends it: and where the pole fell

    def see(self, offset: Float[Tensor, " N"], elapsed: float | None, std: Tensor) -> Float[Tensor, " N"]:
        """See x + elapsed x' (or x', if None) through noise, offset from its value at v = 0: -> log p at v = 0."""
        direction = torch.tensor([0.0, 1.0] if elapsed is None else [1.0, elapsed], dtype=torch.float64)
        self._precision = self._precision + torch.outer(direction, direction) / std**2
        self._linear = self._linear - offset[:, None] * direction / std**2
        return log_normal(offset, std)

    def keep(self, x: Float[Tensor, " N"], elapsed: float, *, ends: bool, fallen: Tensor) -> None:
        """Restrict v to carts that are within the track on a row, or, where the row ends the episode, need not be."""
        if ends:
            self._last = (x, elapsed, fallen)
        elif float(x.abs().max()) + self._farthest(elapsed) > self._threshold:
            self._within.append((x, elapsed))

    def _farthest(self, elapsed: float) -> float:
        """The largest |x + elapsed x'| over the box."""
        ends = torch.maximum(self._low.abs(), self._high.abs())
        return float(ends[0] + elapsed * ends[1])

    def log_integral(self) -> Float[Tensor, " N"]:
        """log of the integral of exp(b . v - v . L v / 2) over the box and the bounds."""
        (a, b), (_, d) = self._precision.tolist()
        variance = a / (a * d - b * b)  # of the velocity, whatever the position
        mean = (a * self._linear[:, 1] - b * self._linear[:, 0]) / (a * d - b * b)
        reach = REACH * math.sqrt(variance)
        middle = mean.clamp(self._low[1], self._high[1])
        first, last = (middle - reach).clamp(min=self._low[1]), (middle + reach).clamp(max=self._high[1])
        nodes, weights = _rule()
        speed = first[:, None] + nodes * (last - first)[:, None]  # [N, J]
        slope = self._linear[:, :1] - b * speed
        height = self._linear[:, 1:] * speed - d * speed**2 / 2 + slope**2 / (2 * a)
        share = self._share(speed, slope / a, a**-0.5)
        inner = height + share.log() + 0.5 * math.log(2 * math.pi / a)
        return (inner + weights.log()).logsumexp(1) + (last - first).log()

    def _share(self, speed: Float[Tensor, "N J"], mean: Float[Tensor, "N J"], std: float) -> Float[Tensor, "N J"]:
        """The probability of N(mean, std^2) between the bounds of x."""
        low, high = torch.full_like(speed, float(self._low[0])), torch.full_like(speed, float(self._high[0]))
        for x, elapsed in self._within:
            low, high = self._bounds(low, high, x, elapsed, speed)
        alive = _between((low - mean) / std, (high - mean) / std)
        if self._last is None:
            return alive
        x, elapsed, fallen = self._last
        low, high = self._bounds(low, high, x, elapsed, speed)
        still = _between((low - mean) / std, (high - mean) / std)
        return torch.where(fallen[:, None], alive, (alive - still).clamp(min=0))

    def _bounds(
        self, low: Tensor, high: Tensor, x: Float[Tensor, " N"], elapsed: float, speed: Float[Tensor, "N J"]
    ) -> tuple[Float[Tensor, "N J"], Float[Tensor, "N J"]]:
        offset = x[:, None] + elapsed * speed
        return torch.maximum(low, -self._threshold - offset), torch.minimum(high, self._threshold - offset)


def _between(low: Float[Tensor, "N J"], high: Float[Tensor, "N J"]) -> Float[Tensor, "N J"]:
    """Phi(high) - Phi(low), by the tail on whose side both are; zero where high < low."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=0)


@cache
def _rule() -> tuple[Float[Tensor, " J"], Float[Tensor, " J"]]:
    nodes, weights = np.polynomial.legendre.leggauss(ORDER)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
