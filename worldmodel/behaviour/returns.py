"""What an imagined trajectory is worth: returns, how much each of its steps counts, and the scale of the returns."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.checks import require, require_above_zero, require_share


def lambda_return(
    reward: Float[Tensor, "B H"], value: Float[Tensor, "B _"], discount: Float[Tensor, "B _"], lam: float
) -> Float[Tensor, "B H"]:
    """TD(lambda) targets, computed backward in time.

        R_t = r_{t+1} + d_{t+1} * ((1 - lam) * v_{t+1} + lam * R_{t+1}),   R_H = v_H

    Args:
        reward: [B, H] r_1 .. r_H, in the environment's reward units.
        value: [B, H+1] v_0 .. v_H; v_H bootstraps.
        discount: [B, H] d_1 .. d_H in [0, 1]; zero after termination.
        lam: mixing weight in [0, 1]; 1 is Monte Carlo, 0 is one-step TD.
    Returns:
        [B, H] targets R_0 .. R_{H-1}, differentiable in all three.
    Raises:
        ValueError: if the horizons disagree, or lam is outside [0, 1].
    Source: Sutton and Barto, Reinforcement Learning, 2nd ed., section 12.8.
    """
    B, H = reward.shape
    if value.shape != (B, H + 1) or discount.shape != (B, H):
        shapes = tuple(value.shape), tuple(discount.shape)
        raise ValueError(f"value, discount: expected {(B, H + 1)} and {(B, H)} for rewards {(B, H)}, got {shapes}")
    require_share(lam=lam)
    target, targets = value[:, H], []
    for t in reversed(range(H)):
        target = reward[:, t] + discount[:, t] * ((1 - lam) * value[:, t + 1] + lam * target)
        targets.append(target)
    return torch.stack(targets[::-1], 1) if targets else torch.empty_like(reward)


def discount_weights(discount: Float[Tensor, "B H"], start: Float[Tensor, " B"] | None = None) -> Float[Tensor, "B H"]:
    """How much each step of a trajectory counts in a loss: how likely it is to be reached, discounted.

        w_0 = start,   w_t = w_{t-1} d_t

    Step t is the state s_t and the action taken in it. d_t is zero where arriving at s_t was the end, so that a step
    behind a terminal state has weight zero.

    Args:
        discount: [B, H] d_1 .. d_H in [0, 1].
        start: [B] the weight of s_0: zero where it is terminal itself, or no row that counts; one everywhere if None.
    Returns:
        [B, H] w_0 .. w_{H-1}, with no gradient behind them.
    Source: Sutton and Barto, section 13.3, the gamma^t of the policy gradient; arXiv 2301.04104's code.
    """
    discount = discount.detach()
    first = discount.new_ones(len(discount)) if start is None else start.detach().to(discount.dtype)
    return torch.cat([first[:, None], discount[:, :-1]], 1).cumprod(1)


class ReturnScale(nn.Module):
    """The range in which most returns lie, remembered over updates: what returns are divided by in the actor's loss.

        S = max(least, high - low),   low, high: moving averages of two percentiles of the returns

    Small returns are not blown up, since S is at least `least`. The averages are divided by their summed weight, so
    that they are right from the first update on (DreamerV3's code starts them at zero). They are buffers: a checkpoint
    of the module holds them.

    Source: Hafner et al. 2023, arXiv 2301.04104, equation 7.
    """

    averages: Tensor  # low, high, and the sum of the weights that went into them

    def __init__(self, *, low: float = 0.05, high: float = 0.95, decay: float = 0.99, least: float = 1.0) -> None:
        """Args:
        low, high: the percentiles, as shares in [0, 1].
        decay: of the moving averages, per update.
        least: smallest scale, in the environment's reward units.
        Raises:
            ValueError: if an argument is out of its range.
        """
        super().__init__()
        require(0 <= low < high <= 1, "low, high", "shares with 0 <= low < high <= 1", (low, high))
        require(0 <= decay < 1, "decay", "a share in [0, 1)", decay)
        require_above_zero(least=least)
        self.low, self.high, self.decay, self.least = low, high, decay, least
        self.register_buffer("averages", torch.zeros(3))

    @torch.no_grad()
    def update(self, returns: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"]) -> None:
        """Take the percentiles of these weighted returns into the averages; all-zero weights change nothing."""
        low, high = weighted_quantiles(returns, weight, (self.low, self.high))
        share = (1 - self.decay) * (weight.sum() > 0).to(self.averages.dtype)
        new = torch.stack([low, high, torch.ones_like(low)]).to(self.averages.dtype)
        self.averages.lerp_(new, share)

    def forward(self) -> Float[Tensor, ""]:
        """S, in the environment's reward units; `least` before the first update."""
        low, high, total = self.averages
        return ((high - low) / torch.where(total > 0, total, 1.0)).clamp(min=self.least)


def weighted_quantiles(
    x: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"], shares: tuple[float, ...]
) -> list[Float[Tensor, ""]]:
    """The smallest x below or at which lies each share of the summed weight."""
    ordered, order = x.flatten().sort()
    cumulative = weight.flatten()[order].double().cumsum(0)
    wanted = torch.stack([cumulative[-1] * share for share in shares])  # numbers from the host would have to be copied
    place = torch.searchsorted(cumulative, wanted).clamp(max=len(ordered) - 1)
    return list(ordered[place])
