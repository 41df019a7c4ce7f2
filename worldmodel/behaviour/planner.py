"""Planning by sampling: action sequences that a model calls good, found without gradients.

B problems side by side, each a search for a sequence of H actions. A plan is one distribution for every action of the
sequence. Each iteration draws N candidates from it, has them evaluated, and makes it the weighted mean of them:

    candidates  a_n ~ plan                       continuous: clip(N(mean, std^2), -1, 1); classes and bits: by their
                                                 probabilities, mixed with the uniform distribution by `explore`
    weights     w_n(return_n), sum_n w_n = 1     CEM: 1 / elites for the best, 0 for the rest; MPPI: a softmax
    plan        mean <- sum_n w_n a_n            of one-hot vectors and bits: their weighted frequencies

The planner knows no model: how candidates are evaluated is a function that it is handed. Evaluate with a sampled model
in mind: of many candidates, the luckiest looks best, so act by the plan and not by the best candidate.

Sources: Rubinstein 1997 (the cross-entropy method, CEM), as in Hafner et al. 2019 (PlaNet), arXiv 1811.04551, algorithm
2; Williams et al. 2017 (model predictive path integral control, MPPI), ICRA, equations 4 and 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.behaviour.action_distributions import likeliest
from worldmodel.checks import require, require_above_zero, require_positive, require_share
from worldmodel.types import ActionSpec

Evaluate = Callable[[Float[Tensor, "N B H A"]], Float[Tensor, "N B"]]


@dataclass(frozen=True)
class CEM:
    """Equal weights for the best candidates; the normal's std becomes theirs, but no less than `min_std`."""

    elites: int
    min_std: float = 0.05  # in units of half the action's range

    def __post_init__(self) -> None:
        require_positive(elites=self.elites)
        require_above_zero(min_std=self.min_std)

    def weights(self, returns: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """1 / elites for each of the best, of each problem."""
        best = returns.topk(self.elites, dim=0).indices
        return torch.zeros_like(returns).scatter(0, best, 1 / self.elites)


@dataclass(frozen=True)
class MPPI:
    """w_n proportional to exp(return_n / (temperature * std of the N returns)); the normal's std stays as it is.

    Measured in units of the candidates' own spread, so that the unit of the reward does not matter.
    """

    temperature: float

    def __post_init__(self) -> None:
        require_above_zero(temperature=self.temperature)

    def weights(self, returns: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """A softmax over candidates, of each problem; equal weights where all returns are the same."""
        spread = returns.std(0, correction=0)
        unit = torch.where(spread > 0, self.temperature * spread, 1.0)
        return ((returns - returns.amax(0)) / unit).softmax(0)


class Plan(NamedTuple):
    """What a search found for B problems: a distribution for each action, and the best candidate it saw."""

    mean: Float[Tensor, "B H A"]  # continuous: mean; classes and bits: probabilities
    actions: Float[Tensor, "B H A"]  # the actions to take: the mean, or the likeliest class or bit
    best: Float[Tensor, "B H A"]  # the best candidate of all iterations
    best_return: Float[Tensor, " B"]


@dataclass(frozen=True)
class Planner:
    """Settings of a search over action sequences; `plan` is the search."""

    spec: ActionSpec
    method: CEM | MPPI
    horizon: int  # actions of a sequence (H)
    iterations: int
    candidates: int  # of each iteration (N); the first of them is the plan's own actions, without noise
    std: float  # continuous: of the first iteration's candidates, in units of half the action's range
    explore: float  # classes and bits: share of the uniform distribution that candidates are drawn from

    def __post_init__(self) -> None:
        require_positive(horizon=self.horizon, iterations=self.iterations)
        require(self.candidates > 1, "candidates", "at least 2", self.candidates)
        if isinstance(self.method, CEM):
            fits = self.method.elites <= self.candidates
            require(fits, "elites", f"at most the {self.candidates} candidates", self.method.elites)
        require_above_zero(std=self.std)
        require_share(explore=self.explore)

    @torch.no_grad()
    def plan(self, evaluate: Evaluate, start: Float[Tensor, "B H A"], generator: torch.Generator | None = None) -> Plan:
        """Search for good action sequences, from a first guess.

        All problems see the same noise, so that B problems side by side are planned as one at a time would be.

        Args:
            evaluate: returns [N, B] of candidates [N, B, H, A]; candidate n of problem b starts from b's own state.
            start: means (probabilities) to begin with: `neutral`, or the last plan's `shifted`.
            generator: source of the noise.
        Raises:
            ValueError: if the start has another horizon or width, or returns have the wrong shape or are not finite.
        """
        B = len(start)
        if start.shape[1:] != (self.horizon, self.spec.width):
            expected = (self.horizon, self.spec.width)
            raise ValueError(f"start: expected [B, H, A] with (H, A) = {expected}, got the shape {tuple(start.shape)}")
        mean, std = start, torch.full_like(start, self.std)
        best, best_return = start, start.new_full((B,), -torch.inf)
        for _ in range(self.iterations):
            candidates = self._candidates(mean, std, generator)
            returns = _checked(evaluate(candidates), (self.candidates, B))
            top, index = returns.max(0)
            better = top > best_return
            best = torch.where(better[:, None, None], candidates[index, torch.arange(B, device=index.device)], best)
            best_return = torch.where(better, top, best_return)
            weights = self.method.weights(returns)[..., None, None].to(candidates.dtype)
            mean = (weights * candidates).sum(0)
            if isinstance(self.method, CEM):
                std = (weights * (candidates - mean).square()).sum(0).sqrt().clamp(min=self.method.min_std)
        return Plan(mean, self.actions(mean), best, best_return)

    def neutral(self, batch: int, device: torch.device | str = "cpu") -> Float[Tensor, "B H A"]:
        """The neutral plan: zeros for continuous actions, equal probabilities for classes and bits."""
        return self._neutral_action(torch.zeros((), device=device)).expand(batch, self.horizon, -1)

    def shifted(self, mean: Float[Tensor, "B H A"]) -> Float[Tensor, "B H A"]:
        """A warm start once the first action was taken: what was planned behind it, and a neutral last action."""
        last = self._neutral_action(mean).expand(len(mean), 1, -1)
        return torch.cat([mean[:, 1:], last], 1)

    def actions(self, mean: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """The actions of a plan without noise: the mean, or the likeliest class of each group, or bit."""
        if self.spec.kind == "continuous":
            return mean.clamp(-1, 1)
        if self.spec.kind == "binary":
            return (mean > 0.5).to(mean.dtype)
        return likeliest(mean, self.spec.classes)

    def _candidates(self, mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
        noise_shape = (self.candidates - 1, 1, *mean.shape[1:])  # [N - 1, 1, H, A]: one noise for all problems
        draw = torch.randn if self.spec.kind == "continuous" else torch.rand
        noise = draw(noise_shape, generator=generator, device=mean.device, dtype=mean.dtype)
        if self.spec.kind == "continuous":
            drawn = (mean + std * noise).clamp(-1, 1)
        else:
            probs = (1 - self.explore) * mean + self.explore * self._neutral_action(mean)
            drawn = self._discrete(probs, noise)
        return torch.cat([self.actions(mean)[None], drawn])  # [N, B, H, A]

    def _discrete(self, probs: Tensor, noise: Tensor) -> Tensor:
        if self.spec.kind == "binary":
            return (noise < probs).to(probs.dtype)
        race = -noise.log() / probs  # exponential clocks of these rates: each class is first with its probability
        return likeliest(-race, self.spec.classes)

    def _neutral_action(self, like: Tensor) -> Float[Tensor, " A"]:
        if self.spec.kind == "continuous":
            return like.new_zeros(self.spec.width)
        if self.spec.kind == "binary":
            return like.new_full((self.spec.width,), 0.5)
        return torch.cat([like.new_full((k,), 1 / k) for k in self.spec.classes])


def _checked(returns: Tensor, shape: tuple[int, int]) -> Tensor:
    if returns.shape != shape:
        raise ValueError(f"evaluate: expected returns of shape {shape}, [N, B], got {tuple(returns.shape)}")
    if not returns.isfinite().all():
        raise ValueError(f"evaluate: expected finite returns, got {int((~returns.isfinite()).sum())} that are not")
    return returns
