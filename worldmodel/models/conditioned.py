"""A world model together with the episodes it is to explain, as the `LatentSequence` that the estimators see.

All rows are embedded once. N particles of B sequences are carried as [N, B, ...] and flattened for the recurrent cell
alone; they are decoded a few at a time, so that images do not exhaust the memory.
"""

from collections.abc import Callable, Mapping

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from worldmodel.models.likelihoods import REGRESSIONS
from worldmodel.types import Batch, Carry, Dynamics, Latent, Likelihood, State


class ConditionedWorldModel:
    """p(x_1:T, z_1:T || actions) and q(z_1:T | x) of whole episodes: what `WorldModel.given` returns."""

    def __init__(
        self,
        dynamics: Dynamics,
        decode: Callable[[State], Mapping[str, Likelihood]],
        batch: Batch,
        embed: Float[Tensor, "B T E"],
        targets: Mapping[str, Tensor],
        observed: Mapping[str, Bool[Tensor, "B T"]],
        *,
        particles_at_once: int,
        start: Carry | None = None,
    ) -> None:
        """Args:
        dynamics, decode: the model's recurrence, and its likelihoods by name at states with any leading shape.
        batch: whole episodes, or what follows `start` of each, in the model's precision.
        embed: of every row, as the posterior is meant to see it.
        targets, observed: what each likelihood is evaluated at, and where it is an observation, by name.
        particles_at_once: how many of the N particles are decoded in one pass.
        start: what the recurrence carries before row 0, [B, ...]; by default as before an episode.
        """
        self.dynamics, self.decode, self.valid = dynamics, decode, batch.valid
        self._prev_action, self._is_first = batch.prev_action, batch.is_first
        self._targets, self._observed = targets, observed
        self._projected = dynamics.project(embed)  # [B, T, I] all that q reads of the rows
        self._particles_at_once, self._start = particles_at_once, start

    def initial(self, samples: int) -> Carry:
        """What the recurrence carries before row 0, led by [N, B]."""
        if self._start is not None:
            return tree_map(lambda x: x.expand(samples, *x.shape), self._start)
        return tree_map(self._unflat, self.dynamics.initial(samples * len(self.valid)))

    def step(self, carry: Carry, t: int) -> tuple[Carry, Float[Tensor, "N B D"], Latent]:
        """The carry and h_t under the action that led to row t, and p(z_t | h_t)."""
        flat = tree_map(lambda x: x.flatten(0, 1), carry)
        samples = len(tree_leaves(carry)[0])
        action = repeat(self._prev_action[:, t], "B A -> (N B) A", N=samples)
        is_first = repeat(self._is_first[:, t], "B -> (N B)", N=samples)
        stepped, deter = tree_map(self._unflat, self.dynamics.step(flat, action, is_first))
        return stepped, deter, self.dynamics.prior(deter)

    def advance(self, carry: Carry, state: State) -> Carry:
        """The carry once z_t is known."""
        flat, seen = (tree_map(lambda x: x.flatten(0, 1), tree) for tree in (carry, state))
        return tree_map(self._unflat, self.dynamics.advance(flat, seen))

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Latent:
        """q(z_t | h_t, x)."""
        return self.dynamics.posterior(deter, self._projected[None, :, t])

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x_t | h_t, z_t), log p(r_t | .) and log p(c_t | .); no reward leads to a first row."""
        parts = zip(*(x.split(self._particles_at_once) for x in state), strict=True)
        scores = [self._score(State(*part), t) for part in parts]
        return {name: torch.cat([score[name] for score in scores]) for name in scores[0]}

    def error(self, state: State, t: int) -> Float[Tensor, "N B R"]:
        """(x - m) / s of every number of row t whose likelihood is Gaussian, with the gradient of the means alone."""
        parts = []
        for name, likelihood in self.decode(state).items():
            if isinstance(likelihood, REGRESSIONS):
                target = self._targets[name][:, t]
                error = likelihood.error(target.expand(len(state.deter), *target.shape))
                observed = self._observed.get(name)
                parts.append(error if observed is None else error * observed[:, t, None])
        return torch.cat(parts, -1)

    def _unflat(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, len(self.valid)))  # [N B, ...] -> [N, B, ...]

    def _score(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        scores = {}
        for name, likelihood in self.decode(state).items():
            target = self._targets[name][:, t]
            score = likelihood.log_prob(target.expand(len(state.deter), *target.shape))
            observed = self._observed.get(name)
            scores[name] = score if observed is None else torch.where(observed[:, t], score, 0.0)
        return scores
