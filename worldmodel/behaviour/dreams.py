"""Many dreams side by side: a world model stepped action by action, as an environment is.

A dream begins at a row that was seen: the rows up to it are filtered, and everything behind it is the model's own.

    h_{t+1} = f(h_t, z_t, a_t),   z_{t+1} ~ p(z_{t+1} | h_{t+1})      one forward pass for all dreams
    reward        the mean of p(r | s)
    observation   the mean of p(x | s), or a draw from it
    end           with probability 1 - c, c = p(continue | s); or where c < 1/2; or never

`behaviour.dream_environment` puts Gymnasium's interface on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.behaviour.action_distributions import likeliest
from worldmodel.checks import require_positive
from worldmodel.data.batches import in_precision, joined, select
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch, Carry, Likelihood, ObservationSpec, State

OBSERVED = ("mean", "sample")
ENDS = ("sampled", "likeliest", "never")
CONTEXT = 16  # rows before a dream that are filtered, at most
POOL = 256  # contexts that are filtered at once, at least: a dream that begins alone takes one that is ready
ATTEMPTS = 100  # at a row that an episode goes on from

DrawContexts = Callable[[int, torch.Generator], Batch]  # how many, a CPU's generator -> so many sequences of rows


@dataclass(frozen=True)
class DreamRules:
    """How dreams end and what is seen in them."""

    horizon: int | None = None
    """Steps after which a dream is truncated; None: never."""
    observed: str = "mean"
    """Observations are the likelihood's mean (the likeliest class or bit), or a draw. The mean is for worlds that are
    seen without noise; what is random in the world itself is in z and is sampled in either case."""
    ends: str = "sampled"
    """A dream terminates with the probability that the model gives, or where that is above a half, or never. Only the
    first has the right frequency; an agent that may choose exploits the others."""

    def __post_init__(self) -> None:
        if self.horizon is not None:
            require_positive(horizon=self.horizon)
        for name, known, got in (("observed", OBSERVED, self.observed), ("ends", ENDS, self.ends)):
            if got not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {got!r}")


class Dreamed(NamedTuple):
    """What one step of N dreams gives."""

    obs: dict[str, Tensor]  # [N, ...] by path, as rows store them
    reward: Float[Tensor, " N"]
    terminated: Bool[Tensor, " N"]
    truncated: Bool[Tensor, " N"]


class _Begun(NamedTuple):
    """What n dreams begin with."""

    carry: Carry
    state: State
    obs: dict[str, Tensor]


class Dreams:
    """N dreams. `begin` them, then `step`; the seed decides everything that is random."""

    def __init__(self, model: WorldModel, count: int, draw: DrawContexts, rules: DreamRules) -> None:
        """Args:
        model: the world model.
        count: dreams side by side (N).
        draw: gives contexts, where `begin` is given none: sequences of rows, of which the last is not an episode's.
        rules: of the dreams.
        Raises:
            ValueError: if count is not positive.
        """
        require_positive(count=count)
        self.model, self.count, self.rules, self._draw = model, count, rules, draw
        self.state: State | None = None  # the newest, [N, ...]
        self._carry: Carry | None = None
        self._steps = torch.zeros(count, dtype=torch.long)
        self._used = 0  # of the pool
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begin the random numbers anew: the same seed, contexts and actions give the same dreams."""
        self._generator = make_generator(seed, stream=Stream.IMAGINATION, device=self.model.device)
        self._choice = make_generator(seed, stream=Stream.STARTS)
        self._pool: _Begun | None = None

    @torch.no_grad()
    def begin(
        self, where: Bool[Tensor, " N"] | None = None, context: Batch | None = None
    ) -> tuple[Bool[Tensor, " N"], dict[str, Tensor]]:
        """Begin dreams anew: -> which, and all observations that they begin with, [n, ...] by path.

        Args:
            where: which; all of them if None.
            context: the rows that they begin behind, [n, T], or [1, T] for all alike; drawn if None.
        Raises:
            ValueError: if the context has another number of sequences.
        """
        where = torch.ones(self.count, dtype=torch.bool) if where is None else where
        wanted = int(where.sum())
        begun = self._ready(wanted) if context is None else self._filtered(_for_each(context, wanted))
        here = where.to(self.model.device)
        if self._carry is None:
            assert where.all(), "all dreams begin together, the first time"
            self._carry, self.state = begun.carry, begun.state
        else:
            assert self.state is not None
            self._carry = tree_map(lambda old, new: _put(old, here, new), self._carry, begun.carry)
            self.state = State(*(_put(old, here, new) for old, new in zip(self.state, begun.state, strict=True)))
        self._steps = torch.where(where, 0, self._steps)
        return where, begun.obs

    @torch.no_grad()
    def step(self, action: Float[Tensor, "N A"]) -> Dreamed:
        """One step of all dreams: one pass of the recurrence, one of the decoder."""
        assert self._carry is not None, "begin first"
        dynamics = self.model.dynamics
        noise = self.model.noise(self.count, 1, self._generator)[:, 0]
        carry, deter = dynamics.step(self._carry, action.to(noise.device))
        self.state = State(deter, dynamics.prior(deter).rsample(noise))
        self._carry = dynamics.advance(carry, self.state)
        self._steps += 1
        decoded = self.model.decode(self.state)
        obs = {path: self._seen(decoded[path], leaf) for path, leaf in self.model.spec.observations.items()}
        terminated = self._ended(decoded[CONTINUE].mean[..., 0]).cpu()
        horizon = self.rules.horizon
        late = self._steps >= horizon if horizon is not None else torch.zeros_like(terminated)
        return Dreamed(obs, decoded[REWARD].mean[..., 0].cpu(), terminated, late & ~terminated)

    def _seen(self, likelihood: Likelihood, leaf: ObservationSpec) -> Tensor:
        seen = likelihood.sample(self._generator) if self.rules.observed == "sample" else expected(likelihood, leaf)
        return seen.cpu()

    def _ended(self, alive: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
        if self.rules.ends == "never":
            return torch.zeros_like(alive, dtype=torch.bool)
        if self.rules.ends == "likeliest":
            return alive < 0.5
        return torch.rand(alive.shape, generator=self._generator, device=alive.device) >= alive

    def _ready(self, wanted: int) -> _Begun:
        """So many beginnings that nobody has had, from the pool; it is filled when it has not enough left."""
        if self._pool is None or self._used + wanted > len(self._pool.state.deter):
            self._pool, self._used = self._filtered(self._draw(max(wanted, POOL), self._choice)), 0
        mine = slice(self._used, self._used + wanted)
        self._used += wanted
        carry, state, obs = self._pool
        return _Begun(tree_map(lambda x: x[mine], carry), State(*(x[mine] for x in state)), _sliced(obs, mine))

    def _filtered(self, context: Batch) -> _Begun:
        """The newest states of sequences, each row filtered once."""
        obs = {path: x[:, -1] for path, x in context.obs.items()}
        context = in_precision(context.to(self.model.device), next(self.model.parameters()).dtype)
        B, T = context.is_first.shape
        noise, carry = self.model.noise(B, T, self._generator), self.model.dynamics.initial(B)
        for t in range(T):
            seen = {path: x[:, t] for path, x in context.obs.items()}
            flags = context.prev_action[:, t], context.is_first[:, t], noise[:, t], context.reward[:, t]
            carry, state, _ = self.model.step(carry, seen, *flags)
        return _Begun(carry, state, obs)


def expected(likelihood: Likelihood, leaf: ObservationSpec) -> Tensor:
    """The mean of an observation as a row stores one: whole numbers rounded, the likeliest class, the likelier bit."""
    mean = likelihood.mean
    if leaf.kind == "vector":
        return mean.float()
    if leaf.kind == "categorical":
        hot = likeliest(mean, leaf.classes).split(leaf.classes, -1)
        return torch.stack([part.argmax(-1) for part in hot], -1).to(torch.int32)
    return (mean > 0.5 if leaf.kind == "binary" else mean.round()).to(leaf.torch_dtype)


def going_on(draw: Callable[[int], Batch], count: int) -> Batch:
    """So many sequences of those that `draw` gives, without those that end with their episode.

    Raises:
        ValueError: if hardly any goes on.
    """
    found: list[Batch] = []
    for _ in range(ATTEMPTS):
        drawn = draw(count)
        found.append(select(drawn, ~drawn.is_last[:, -1]))
        if sum(len(one.reward) for one in found) >= count:
            return select(joined(found), slice(count))
    raise ValueError(f"contexts: expected rows that an episode goes on from, found none in {ATTEMPTS * count} rows")


def _for_each(context: Batch, wanted: int) -> Batch:
    given = len(context.reward)
    if given not in (1, wanted):
        raise ValueError(f"context: expected {wanted} sequences of rows, or one for all dreams, got {given}")
    return context if given == wanted else joined([context] * wanted)


def _put(old: Tensor, where: Tensor, new: Tensor) -> Tensor:
    old = old.clone()
    old[where] = new
    return old


def _sliced(obs: dict[str, Tensor], mine: slice) -> dict[str, Tensor]:
    return {path: x[mine] for path, x in obs.items()}
