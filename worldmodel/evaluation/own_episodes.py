"""Whole episodes of a policy as rows, and how well a model knows them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.data.batches import at_once, in_parts, pad_episodes, select, stacked
from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.rounds import play_round, rounds
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.types import Batch, Policy, State


def collect_episodes(environments: Environments, policy: Policy, *, episodes: int, seed: int) -> Batch:
    """Play whole episodes, each from a start seed of its own, those of `episodes.play`: -> [E, T] rows, padded.

    Args:
        environments: N of them; rounds of N episodes are played until there are enough.
        policy: acts.
        episodes: how many (E).
        seed: of the starts.
    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if episodes is not positive, or the seed negative.
    """
    played = list[Batch]()
    for start, wanted in rounds(episodes, environments.count, seed):
        side_by_side = stacked(list(play_round(Rollout(environments, policy, start), wanted)))
        for i in range(wanted):
            length = int(side_by_side.is_last[i].int().argmax()) + 1
            played.append(select(side_by_side, slice(i, i + 1), slice(length)))
    return pad_episodes(played, max(episode.is_first.shape[1] for episode in played))


@torch.no_grad()
def bound_per_step(model: WorldModel, episodes: Batch, seed: int) -> dict[str, float]:
    """The bound on the evidence of padded episodes and its terms, in nats per step, from one draw of the latents."""
    generator = torch.Generator(model.device).manual_seed(seed)
    totals: dict[str, float] = {}
    for part in in_parts(episodes, at_once(episodes.valid.shape[1] * model.spec.width)):
        steps = int(part.valid.sum())
        for name, mean in sampled_bound(model, part, generator).per_step().items():
            totals[name] = totals.get(name, 0.0) + steps * mean.item()
    return {name: total / int(episodes.valid.sum()) for name, total in totals.items()}


@torch.no_grad()
def calibration(
    model: WorldModel, value: Callable[[State], Tensor], episodes: Batch, *, discount: float, seed: int
) -> tuple[Float[Tensor, " E"], Float[Tensor, " E"]]:
    """A critic's value of the first state of padded episodes, and the discounted rewards that came.

    Behind an episode that was truncated, the critic's value of its last state stands for the rewards to come.

    Args:
        model: filters the episodes, with one draw of the latents.
        value: of states with any leading shape, in reward units.
        episodes: [E, T] rows.
        discount: of a reward one step later.
        seed: of the draw.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    predicted, real = [], []
    for part in in_parts(episodes, at_once(episodes.valid.shape[1] * model.spec.width)):
        values = value(model.filter(part, model.noise(len(part.valid), part.valid.shape[1], generator)).states)
        last = part.valid.sum(1, keepdim=True) - 1  # the row, and the number of rewards before it
        bootstrap = discount**last * values.gather(1, last) * ~part.is_terminal.gather(1, last)
        worth = discount ** (part.episode_step - 1).clamp(min=0)
        predicted.append(values[:, 0])
        real.append((worth * part.reward * part.valid).sum(1) + bootstrap[:, 0])
    return torch.cat(predicted), torch.cat(real)
