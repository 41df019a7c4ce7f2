"""Episodes drawn from a world model itself, with the latents that made them.

Latents and observations are drawn together from p(z_1:T, x_1:T || actions), so z_1:T is a draw from the exact posterior
p(z_1:T | x_1:T), which no inference could give: on such episodes the evidence has an upper bound too.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.data.batches import in_precision, require_whole_episodes, with_last_rows_marked
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, State


class Simulation(NamedTuple):
    """B episodes of a model's own making."""

    batch: Batch
    path: Float[Tensor, "B T Z"]  # z_1:T behind them


@torch.no_grad()
def simulate(model: WorldModel, template: Batch, *, generator: torch.Generator | None = None) -> Simulation:
    """Draw an episode for each recorded one, under its actions.

    An episode ends where its own continue flag says so, or else with the recorded one: it is never longer.

    Args:
        model: the world model.
        template: recorded episodes, whole from their reset; of their rows only actions and length are used.
        generator: source of all draws.
    Raises:
        ValueError: if a sequence of the template is not one episode from its reset, padded at the end.
    """
    require_whole_episodes(template)
    template = in_precision(template, next(model.parameters()).dtype)
    carry = model.dynamics.initial(len(template.valid))
    path, rows = [], []
    for action, is_first in zip(template.prev_action.unbind(1), template.is_first.unbind(1), strict=True):
        carry, deter = model.dynamics.step(carry, action, is_first)
        state = State(deter, model.dynamics.prior(deter).sample(generator))
        carry = model.dynamics.advance(carry, state)
        path.append(state.stoch)
        rows.append({name: likelihood.sample(generator) for name, likelihood in model.decode(state).items()})
    drawn = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    return Simulation(_as_episodes(drawn, template), torch.stack(path, 1))


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
