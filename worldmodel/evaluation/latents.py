"""What a model makes of episodes, row by row: the states, the posterior and the prior of every z_t."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.behaviour.imagination import Start
from worldmodel.data.batches import at_once, in_precision, require_whole_episodes, select, with_last_rows_marked
from worldmodel.models.world_model import WorldModel
from worldmodel.types import BalancedLatent, Batch, State


@dataclass(frozen=True)
class Latents:
    """One draw of the latents of B episodes of T rows, at most; an episode's rows end where `valid` does."""

    states: State  # h_t [B, T, D] and z_t [B, T, Z], sampled from the posterior
    posterior: BalancedLatent  # q(z_t | h_t, x_t) of every row, [B, T]
    prior: BalancedLatent  # p(z_t | h_t)
    valid: Bool[Tensor, "B T"]
    smoothed: bool = False  # whether the posterior has read what follows each row

    @property
    def features(self) -> Float[Tensor, "B T W"]:
        """h_t and z_t side by side, as decoders and probes read them."""
        return torch.cat(self.states, -1)

    @property
    def kl_groups(self) -> Float[Tensor, "B T S"]:
        """Raw KL(posterior || prior) of each latent group in nats; NaN behind the end of an episode."""
        return torch.where(self.valid[..., None], self.posterior.kl(self.prior), torch.nan)

    @property
    def kl(self) -> Float[Tensor, "B T"]:
        """Raw KL(posterior || prior) of each row in nats: what x_t told the model beyond its prediction."""
        return self.kl_groups.sum(-1)

    def at(self, row: int, episode: int = 0) -> Start:
        """The state of one row, to imagine on from.

        Raises:
            ValueError: if the episode has no such row, or its states know what followed it.
        """
        if self.smoothed:
            raise ValueError("start: expected states that do not know what follows; filtering=True gives such latents")
        if not 0 <= episode < len(self.valid):
            raise ValueError(f"episode: expected 0 to {len(self.valid) - 1}, got {episode}")
        rows = int(self.valid[episode].sum())
        if not -rows <= row < rows:
            raise ValueError(f"row: expected -{rows} to {rows - 1}, the rows of episode {episode}, got {row}")
        here = row % rows
        return Start(State(*(x[episode : episode + 1, here] for x in self.states)))


@torch.no_grad()
def infer_latents(
    model: WorldModel, episodes: Batch, generator: torch.Generator | None = None, *, filtering: bool = False
) -> Latents:
    """The latents of whole episodes for one draw of z_1:T.

    Args:
        model: the world model.
        episodes: whole episodes from their reset, [B, T] padded.
        generator: source of the draw.
        filtering: also where the model's posterior smooths, let no row know what follows it.
    Raises:
        ValueError: if the episodes are not whole.
    """
    require_whole_episodes(episodes)
    B, T = episodes.valid.shape
    rows = in_precision(with_last_rows_marked(episodes), next(model.parameters()).dtype)
    embed = model.embed_newest if filtering else model.embed_sequence
    size = at_once(T * model.spec.width)  # images are large
    parts = [embed(select(rows, slice(start, start + size))) for start in range(0, B, size)]
    noise = model.noise(B, T, generator)
    found = model.dynamics.observe(torch.cat(parts), rows.prev_action, rows.is_first, noise)
    return Latents(found.states, found.posterior, found.prior, episodes.valid, model.smooths and not filtering)
