"""Episodes drawn from a world model itself, with the latents that made them.

Latents and observations are drawn together from p(z_1:T, x_1:T || actions), so z_1:T is a draw from the exact posterior
p(z_1:T | x_1:T), which no inference could give: on such episodes the evidence has an upper bound too.

Of many first rows one may be picked that looks like the recorded one. What is carried before it is a constant, so the
pairs (z_1, x_1) are independent draws, and picking by x_1 alone leaves z_1 a draw from p(z_1 | x_1). At later rows it
would not: there h_t knows the latents before.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.checks import require_positive
from worldmodel.data.batches import (
    in_precision,
    require_continued_episodes,
    require_whole_episodes,
    with_last_rows_marked,
)
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, Carry, State


class Simulation(NamedTuple):
    """B episodes of a model's own making."""

    batch: Batch
    path: Float[Tensor, "B T Z"]  # z_1:T behind them


@torch.no_grad()
def simulate(
    model: WorldModel,
    template: Batch,
    *,
    start: Carry | None = None,
    candidates: int = 1,
    generator: torch.Generator | None = None,
) -> Simulation:
    """Draw an episode for each recorded one, under its actions.

    An episode ends where its own continue flag says so, or else with the recorded one: it is never longer.

    Args:
        model: the world model.
        template: recorded episodes, whole from their reset, or with `start` what follows it of each; of their rows only
            actions and length are used, and the first observation where there are several candidates.
        start: [B, ...] what the recurrence carries before the first row, by default as before an episode.
        candidates: draws of the first row, of which the one is kept whose numbers are nearest to the recorded ones, in
            standard deviations of the data; those in which the episode ends are taken last.
        generator: source of all draws.
    Raises:
        ValueError: if a sequence of the template is not one episode, padded at the end, or a number is not positive.
    """
    require_positive(candidates=candidates)
    (require_whole_episodes if start is None else require_continued_episodes)(template)
    template = in_precision(template, next(model.parameters()).dtype)
    carry = model.dynamics.initial(len(template.valid)) if start is None else start
    path: list[Tensor] = []
    rows: list[dict[str, Tensor]] = []
    for action, is_first in zip(template.prev_action.unbind(1), template.is_first.unbind(1), strict=True):
        carry, deter = model.dynamics.step(carry, action, is_first)
        drawn = _draws(model, deter, 1 if rows else candidates, generator)
        state, row = tree_map(partial(_pick, _nearest(model, drawn[1], template)), drawn)
        carry = model.dynamics.advance(carry, state)
        path.append(state.stoch)
        rows.append(row)
    episodes = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    return Simulation(_as_episodes(episodes, template), torch.stack(path, 1))


@torch.no_grad()
def predicted_rows(
    model: WorldModel, batch: Batch, states: State, *, generator: torch.Generator | None = None
) -> Batch:
    """Every row drawn anew from the model's own prediction p(x_t, r_t | h_t), the rows before it left as they are.

    Args:
        model: the world model.
        batch: recorded episodes.
        states: [B, T, ...] that explain them; of these h_t is used.
        generator: source of all draws.
    """
    batch = in_precision(batch, next(model.parameters()).dtype)
    z = model.dynamics.prior(states.deter).sample(generator)
    drawn = {name: one.sample(generator) for name, one in model.decode(State(states.deter, z)).items()}
    reward = torch.where(batch.is_first, 0.0, drawn[REWARD].squeeze(-1))
    return batch._replace(obs={path: drawn[path] for path in batch.obs}, reward=reward)


def _draws(
    model: WorldModel, deter: Float[Tensor, "B D"], count: int, generator: torch.Generator | None
) -> tuple[State, dict[str, Tensor]]:
    """States and rows after h_t, [count, B, ...]."""
    deter = deter.expand(count, *deter.shape)
    state = State(deter, model.dynamics.prior(deter).sample(generator))
    return state, {name: likelihood.sample(generator) for name, likelihood in model.decode(state).items()}


def _nearest(model: WorldModel, drawn: dict[str, Tensor], template: Batch) -> Int[Tensor, " B"]:
    """Which of the draws is nearest to the template's first observation, among those that go on."""
    distance = torch.where(drawn[CONTINUE].squeeze(-1) == 0, math.inf, 0.0)  # [count, B]
    if len(distance) > 1:
        for name, leaf in model.spec.observations.items():
            if leaf.is_numeric:
                off = (drawn[name] - template.obs[name][:, 0]) / model.standardiser(name).scale
                distance = distance + off.square().sum(-1)
    return distance.argmin(0)


def _pick(chosen: Int[Tensor, " B"], x: Shaped[Tensor, "count B ..."]) -> Shaped[Tensor, "B ..."]:
    return x[chosen, torch.arange(len(chosen), device=chosen.device)]


def _as_episodes(drawn: dict[str, Tensor], template: Batch) -> Batch:
    """Drawn rows with the flags that belong to them."""
    obs = {name: x for name, x in drawn.items() if name not in (REWARD, CONTINUE)}
    terminal = drawn[CONTINUE].squeeze(-1) == 0
    valid = template.valid & ~_before(terminal)
    reward = torch.where(template.is_first, 0.0, drawn[REWARD].squeeze(-1))
    episodes = template._replace(obs=obs, reward=reward, is_terminal=valid & terminal, valid=valid)
    return with_last_rows_marked(episodes)


def _before(flag: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Whether the flag was up at an earlier row."""
    return (flag.cumsum(1) - flag.long()) > 0
