"""Rolling the model forward without looking: filter what was seen, then draw from the prior under a policy's actions.

`imagine` gives the states, `imagine_rewards` what they earn too, `dream` everything that recorded rows can be compared
with.

Samples are always leading: [N, B, ...]. Each has its own draw of the filtered past, so the spread of the N futures is
the model's whole uncertainty and not only that of the rollout.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.behaviour.returns import discount_weights
from worldmodel.checks import require_positive, require_share
from worldmodel.data.batches import select
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Act, Batch, Carry, State, Trajectory


class Imagined(NamedTuple):
    """Futures of H steps from each of N x B states."""

    states: State  # [N, B, H, ...] after each action
    action: Float[Tensor, "N B H A"]


class Rewarded(NamedTuple):
    """Imagined futures and what they earn: step t is the action a_t taken in s_t, and arriving at s_{t+1}."""

    states: State  # [N, B, H, ...] s_1 .. s_H
    action: Float[Tensor, "N B H A"]  # a_0 .. a_{H-1}
    reward: Float[Tensor, "N B H"]  # r_1 .. r_H: the mean of p(r | s), in the environment's reward units
    alive: Float[Tensor, "N B H"]  # c_1 .. c_H: the probability that the episode goes on at s_1 .. s_H
    weight: Float[Tensor, "N B H"]  # w_0 .. w_{H-1}: how likely a step is to be reached, discounted; no gradient

    @property
    def returns(self) -> Float[Tensor, "N B"]:
        """sum_t w_t r_{t+1}: the discounted rewards of H steps, nothing after them."""
        return (self.weight * self.reward).sum(-1)


class Start(NamedTuple):
    """The state of one row of each of B sequences, to imagine on from."""

    state: State  # [B, ...] h_t and z_t
    carry: Carry | None = None  # [B, ...] what the recurrence remembers; None: what it knows from the state alone


class Dream(NamedTuple):
    """N imagined futures of H rows for each of B recorded pasts, or of B sequences of actions."""

    states: State  # [N, B, H, ...]
    prediction: dict[str, Tensor]  # [N, B, H, ...] by name: E[x | state] of every leaf, of the reward and of continue


def imagine(
    model: WorldModel,
    start: State,
    act: Act,
    horizon: int,
    *,
    carry: Carry | None = None,
    generator: torch.Generator | None = None,
    gradients: bool = False,
) -> Imagined:
    """Roll the prior forward from states, choosing an action at each.

        a_t = act(state_t),    h_{t+1} = f(h_t, z_t, a_t),    z_{t+1} ~ p(z_{t+1} | h_{t+1})

    Args:
        model: the world model.
        start: h_0 and z_0, [N, B, ...].
        act: called with the states [N B, ...] of every step, `start` first: -> actions [N B, A]; `recorded` makes one
            of given actions.
        horizon: actions taken (H).
        carry: what the recurrence remembers at the start, led by [N, B]; left out, what it knows from the states alone.
        generator: source of the latents' noise, drawn before the first step.
        gradients: whether the futures are differentiable in the start and in the actions.
    Raises:
        ValueError: if horizon is not positive.
    """
    require_positive(horizon=horizon)
    N, B = start.deter.shape[:2]
    with torch.set_grad_enabled(gradients):
        flat = State(*(rearrange(x, "N B W -> (N B) W") for x in start))
        noise = model.noise(N * B, horizon, generator)
        remembered = model.dynamics.carry_of(flat) if carry is None else tree_map(lambda x: x.flatten(0, 1), carry)
        states, action = model.imagine(remembered, flat, act, noise)
        futures = (rearrange(x, "(N B) H W -> N B H W", N=N) for x in (*states, action))
        deter, stoch, action = futures
        return Imagined(State(deter, stoch), action)


def imagine_rewards(
    model: WorldModel,
    start: State,
    act: Act,
    horizon: int,
    *,
    discount: float,
    generator: torch.Generator | None = None,
    gradients: bool = False,
) -> Rewarded:
    """Roll the prior forward as `imagine` does, and predict what each step earns and whether the episode goes on.

        w_0 = 1,   w_t = w_{t-1} discount c_t

    Only the reward and the continuation are decoded. The start is taken for a state that the episode goes on from.

    Args:
        model, start, act, horizon, generator, gradients: as in `imagine`.
        discount: of a reward one step later (gamma), in [0, 1].
    Raises:
        ValueError: if horizon is not positive, or the discount not in [0, 1].
    """
    require_share(discount=discount)
    states, action = imagine(model, start, act, horizon, generator=generator, gradients=gradients)
    with torch.set_grad_enabled(gradients):
        decoded = model.decode(states, (REWARD, CONTINUE))
        reward, alive = decoded[REWARD].mean[..., 0], decoded[CONTINUE].mean[..., 0]  # [N, B, H]
    weight = discount_weights(discount * alive.flatten(0, 1)).view_as(alive)
    return Rewarded(states, action, reward, alive, weight)


def scripted(action: Float[Tensor, "N B H A"]) -> Act:
    """A policy that takes the actions given for each of N x B futures, step by step, whatever happens."""
    steps = iter(rearrange(action, "N B H A -> H (N B) A"))
    return lambda state: next(steps)


def recorded(action: Float[Tensor, "B H A"], samples: int) -> Act:
    """A policy that takes the actions given for each of B pasts in all N futures."""
    return scripted(repeat(action, "B H A -> N B H A", N=samples))


@torch.no_grad()
def dream(
    model: WorldModel,
    batch: Batch,
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> Dream:
    """Filter the first `context` rows of each sequence, then imagine `horizon` more under the recorded actions.

    Args:
        model: the world model.
        batch: at least context + horizon rows of each sequence.
        context: rows the model sees.
        horizon: rows it predicts (H).
        samples: futures for each sequence (N).
        generator: source of the noise.
    Raises:
        ValueError: if the batch is too short or a number is not positive.
    """
    length = batch.is_first.shape[1]
    require_positive(context=context, horizon=horizon, samples=samples)
    if context + horizon > length:
        raise ValueError(f"context + horizon: expected at most the {length} rows given, got {context + horizon}")
    filtered = _filtered(model, select(batch, rows=slice(context)), samples, generator)
    last = State(*(x[:, -1] for x in filtered.states))
    start, carry = tree_map(lambda x: rearrange(x, "(N B) ... -> N B ...", N=samples), (last, filtered.carry))
    act = recorded(batch.prev_action[:, context : context + horizon], samples)
    return _decoded(model, imagine(model, start, act, horizon, carry=carry, generator=generator).states)


@torch.no_grad()
def branch(
    model: WorldModel,
    start: Start,
    action: Float[Tensor, "B H A"],
    *,
    samples: int,
    generator: torch.Generator | None = None,
) -> Dream:
    """Imagine on from one state under each of B sequences of actions, without looking.

    All futures leave from the same draw of z_t: they differ by the prior's draws and by the actions.

    Args:
        model: the world model.
        start: one state, or as many as there are sequences of actions.
        action: what is done, as rows lay actions out.
        samples: futures of each sequence of actions (N).
        generator: source of the noise.
    Raises:
        ValueError: if samples is not positive, there is no action, or the states are another number.
    """
    B, H, _ = action.shape
    require_positive(samples=samples, horizon=H)
    if (count := len(start.state.deter)) not in (1, B):
        raise ValueError(f"start: expected one state, or one for each of {B} sequences of actions, got {count}")
    remembered = model.dynamics.carry_of(start.state) if start.carry is None else start.carry
    state, carry = tree_map(lambda x: x.expand(samples, B, *x.shape[1:]), (start.state, remembered))
    act = recorded(action, samples)
    return _decoded(model, imagine(model, state, act, H, carry=carry, generator=generator).states)


def _decoded(model: WorldModel, states: State) -> Dream:
    """[N, B, H, ...] states and what they predict."""
    decoded = [means(model, states, n) for n in range(len(states.deter))]  # one sample at a time: images are large
    return Dream(states, {name: torch.stack([mean[name] for mean in decoded]) for name in decoded[0]})


def filter_samples(model: WorldModel, batch: Batch, samples: int, generator: torch.Generator | None = None) -> State:
    """N draws of the filtered states of every row, [N, B, T, ...]; no row knows what follows it."""
    states = _filtered(model, batch, samples, generator).states
    return State(*(rearrange(x, "(N B) T W -> N B T W", N=samples) for x in states))


def _filtered(model: WorldModel, batch: Batch, samples: int, generator: torch.Generator | None) -> Trajectory:
    """[N B, T, ...] of N draws of the filtered past."""
    embed = repeat(model.embed_newest(batch), "B T E -> (N B) T E", N=samples)
    action = repeat(batch.prev_action, "B T A -> (N B) T A", N=samples)
    is_first = repeat(batch.is_first, "B T -> (N B) T", N=samples)
    noise = model.noise(is_first.shape[0], is_first.shape[1], generator)
    return model.dynamics.observe(embed, action, is_first, noise)


def means(model: WorldModel, states: State, sample: int) -> dict[str, Tensor]:
    """E[x | state] of everything that is predicted, at the states of one of the N samples: [B, H, ...] by name."""
    return {name: p.mean for name, p in model.decode(State(*(x[sample] for x in states))).items()}
