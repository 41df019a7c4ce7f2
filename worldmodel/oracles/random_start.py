"""Exact evidence where only the start is random: an integral over the start, by quadrature.

    p(x_1:t, r_2:t, c_2:t | a_2:t) = integral of p(s_1) prod p(x_i | s_i) p(r_i | s_1:i) [c_i is the flag of s_i] d s_1

The states s_2, s_3, ... follow from the start s_1 and the actions; the observations and rewards are seen through
Gaussian noise; the flags follow from the states, so that they restrict the start to a part of its box. See
`worldmodel_envs.stock_laws` for the law.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles import cart_pole
from worldmodel.oracles.classic_control import DYNAMICS, Dynamics
from worldmodel.oracles.episodes import Episode, log_normal
from worldmodel.oracles.quadrature import Frame, Margin, adaptive_rule, focused, growing_rule, product_rule

TOLERANCE = 1e-7  # of an episode's evidence, in nats
ACCEPTED = 1e-6  # beyond which an episode's evidence comes with a warning
# By the dimensions of the integral: points in each, to find the frame, and to integrate the first rows of an episode.
FOCUS = {1: 64, 2: 24, 4: 10}
ROWS = {1: 256, 2: 40, 4: 12}
LAST = {1: 64, 2: 24, 4: 14}  # to find the last frame
WHOLE = (11, 14, 17, 20, 23)  # points in each of four dimensions for a whole episode
SMOOTH = 48  # points in the last dimension of two, where the start is cut by a flag
# How much wider than the moments say the frame is that a whole episode is integrated over.
WIDER = {1: 1.5, 2: 1.5, 4: 1.0}
GROWTH = 1.25  # rows after which a new frame is made, as a factor


@dataclass(frozen=True)
class Integral:
    """What is integrated over what part of the start."""

    log_density: Callable[[Float[Tensor, "N n"], Sequence[int]], Float[Tensor, "N K"]]
    """log p(s_1) p(x_1:t, r_2:t, c_2:t | s_1) of N starts, for each of K numbers of rows t in ascending order."""
    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    circle: Sequence[bool]  # whether an entry is an angle over a whole turn
    margin: Margin | None = None  # positive where the last two flags of a terminated episode are as they were

    def at(self, times: Sequence[int]) -> Callable[[Float[Tensor, "N n"]], Float[Tensor, "N K"]]:
        """The densities of several numbers of first rows."""
        return lambda start: self.log_density(start, times)

    def after(self, t: int) -> Callable[[Float[Tensor, "N n"]], Float[Tensor, " N"]]:
        """The density of the first t rows."""
        return lambda start: self.log_density(start, [t])[:, 0]


def row_evidence(integral: Integral, rows: int) -> Float[Tensor, " T"]:
    """log p(x_t, r_t, c_t | rows before) of every row, in nats.

    Every sum of first rows is an integral of its own. Those before the last are by one rule of fixed order for a few
    rows each, to about 1e-3 nats where a flag or a wall cuts the start and to 1e-5 elsewhere; the last, which is the
    evidence of the episode, is refined until it is sure. If it never is to 1e-6 nats, there is a warning.
    """
    frame, found = Frame.whole(integral.low, integral.high), []
    n = len(integral.low)
    for times in _windows(rows):
        frame = _centred(integral, frame, times[0]) if times[0] == 1 else frame
        frame = focused(integral.after(times[0]), frame, FOCUS[n])
        found.append(product_rule(integral.at(times), frame, ROWS[n]))
    frame = focused(integral.after(rows), replace(frame, margin=integral.margin), LAST[n])
    frame = replace(frame, scale=WIDER[n] * frame.scale)
    if n < 4:
        smooth = 0 if integral.margin is None else SMOOTH
        last, error = adaptive_rule(integral.after(rows), frame, TOLERANCE, smooth=smooth)
    else:
        last, error = growing_rule(integral.after(rows), frame, TOLERANCE, WHOLE)
    so_far = torch.cat([torch.zeros(1).double(), *found[:-1], last[None]])
    if error > ACCEPTED:
        words = f"an episode of {rows} rows: its exact evidence is known to {error:.1g} nats only"
        warnings.warn(f"{words}, since an end, a wall or a limit cuts its starts", stacklevel=2)
    return torch.where(so_far[:-1] == -torch.inf, 0.0, so_far.diff())


def integral_of(law: Mapping[str, Any], episode: Episode) -> Integral:
    """The integral that a law and an episode make.

    Raises:
        ValueError: if the law has other dynamics than are known.
    """
    if law["dynamics"] not in DYNAMICS:
        raise ValueError(f"law: expected dynamics of {sorted(DYNAMICS)}, got {law['dynamics']!r}")
    number = {name: torch.as_tensor(law[name], dtype=torch.float64) for name in ("start_low", "start_high")}
    low, high = number.values()
    std, reward_std = torch.as_tensor(law["observation_std"], dtype=torch.float64), float(law["reward_std"])
    if law["dynamics"] == "cart_pole":
        density = cart_pole.log_density(law["constants"], low, high, std, reward_std, episode)
        return Integral(
            density, low[2:], high[2:], (False, False), cart_pole.margin(law["constants"], float(std[2]), episode)
        )
    dynamics = DYNAMICS[law["dynamics"]]
    density = log_density(dynamics, law["constants"], low, high, std, reward_std, episode)
    free = low < high
    return Integral(density, low[free], high[free], [c for c, f in zip(dynamics.circle, free, strict=True) if f])


def log_density(
    dynamics: Dynamics,
    constants: Mapping[str, float],
    low: Float[Tensor, " m"],
    high: Float[Tensor, " m"],
    observation_std: Float[Tensor, " d"],
    reward_std: float,
    episode: Episode,
) -> Callable[[Float[Tensor, "N n"], Sequence[int]], Float[Tensor, "N K"]]:
    """log p(s_1) p(x_1:t, r_2:t, c_2:t | s_1) as a function of the start's random entries and of numbers of rows."""
    free = low < high
    uniform = -(high - low)[free].log().sum()

    def density(start: Float[Tensor, "N n"], times: Sequence[int]) -> Float[Tensor, "N K"]:
        state = low.repeat(len(start), 1)
        state[:, free] = start
        total, found = uniform.expand(len(start)), []
        for t in range(times[-1]):
            if t:
                state, reward, ended = dynamics.step(state, episode.action[t], constants)
                total = total + log_normal(reward - episode.reward[t], reward_std)
                total = torch.where(ended == episode.ends(t), total, -torch.inf)
            noise = dynamics.observe(state) - episode.observation[t]
            total = total + log_normal(noise, observation_std).sum(-1)
            if t + 1 in times:
                found.append(total)
        return torch.stack(found, -1)

    return density


def _windows(rows: int) -> Iterator[range]:
    """Numbers of rows 1 .. T in groups that share a frame; the last is T by itself."""
    first = 1
    while first < rows:
        after = min(max(first + 1, int(first * GROWTH)), rows)
        yield range(first, after)
        first = after
    yield range(rows, rows + 1)


def _centred(integral: Integral, frame: Frame, t: int) -> Frame:
    """The box with its angles' whole turns around the most likely of a few starts, where a posterior is not cut."""
    if not any(integral.circle):
        return frame
    nodes = torch.cartesian_prod(*[torch.linspace(0, 1, 65, dtype=torch.float64)[:-1] + 1 / 128] * len(frame.low))
    start = frame.low + nodes.reshape(-1, len(frame.low)) * (frame.high - frame.low)
    best = start[integral.after(t)(start).argmax()]
    circle = torch.tensor(integral.circle)
    low = torch.where(circle, best - math.pi, frame.low)
    return Frame.whole(low, torch.where(circle, best + math.pi, frame.high))
