"""Whole episodes of a policy as rows, and how well a model knows them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.behaviour.imagination import imagine, scripted
from worldmodel.data.batches import at_once, in_parts, pad_episodes, select, stacked
from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.plan_forecast import PlanForecast
from worldmodel.evaluation.rounds import play_round, rounds
from worldmodel.models.decoder import CONTINUE
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import bound_loss_and_states
from worldmodel.objectives.loss import Objective
from worldmodel.seeding import Stream
from worldmodel.types import Batch, Policy, State

ENDING_BINS = (0.0, 0.001, 0.01, 0.1, 0.5)  # least probability of each


class CriticCalibration(NamedTuple):
    """What a critic expects in the first state of each episode, and the discounted rewards that came."""

    predicted: Float[Tensor, " E"]
    real: Float[Tensor, " E"]  # and behind a truncated episode, the critic's value of its last state


class Ending(NamedTuple):
    """Steps whose predicted probability of ending the episode is alike, and how often they did."""

    least: float  # of the predictions, from `ENDING_BINS`
    steps: int
    predicted: float  # mean
    happened: float  # share


class Judged(NamedTuple):
    """How well a model knows episodes."""

    bound: dict[str, float]  # on their evidence, and its terms: nats per step
    calibration: CriticCalibration | None  # if there is a critic
    ending: list[Ending]


def collect_episodes(
    environments: Environments, policy: Policy, *, episodes: int, seed: int, forecast: PlanForecast | None = None
) -> Batch:
    """Play whole episodes, each from a start seed of its own: -> [E, T] rows, padded.

    Training chooses its best weights by them; `episodes.play` has other starts for the same seed, so that what it says
    of these weights is not flattered by the choice.

    Args:
        environments: N of them; rounds of N episodes are played until there are enough.
        policy: acts.
        episodes: how many (E).
        seed: of the starts.
        forecast: the policy's, where it plans; notes what is expected in each episode's first state.
    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if episodes is not positive, or the seed negative.
    """
    played = list[Batch]()
    for start, wanted in rounds(episodes, environments.count, seed, Stream.CHOOSING):
        rows = play_round(Rollout(environments, policy, start), wanted)
        side_by_side = stacked(list(rows if forecast is None else forecast.noting(rows, wanted)))
        for i in range(wanted):
            length = int(side_by_side.is_last[i].int().argmax()) + 1
            played.append(select(side_by_side, slice(i, i + 1), slice(length)))
    return pad_episodes(played, max(episode.is_first.shape[1] for episode in played))


@torch.no_grad()
def judge(
    model: WorldModel, episodes: Batch, *, seed: int, value: Callable[[State], Tensor] | None = None, discount: float
) -> Judged:
    """How well a model knows padded episodes, from one draw of the latents.

    Args:
        model: the world model.
        episodes: [E, T] rows.
        seed: of the draw, and of the predictions.
        value: a critic's, of states with any leading shape, in reward units.
        discount: of a reward one step later.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    totals: dict[str, float] = {}
    calibrations, ends = [], []
    for part in in_parts(episodes, at_once(episodes.valid.shape[1] * model.spec.width)):
        bound, _, states = bound_loss_and_states(model, part, Objective(), generator)
        if model.smooths:  # but a policy filters
            states = model.filter(part, model.noise(len(part.valid), part.valid.shape[1], generator)).states
        for name, mean in bound.per_step().items():
            totals[name] = totals.get(name, 0.0) + int(part.valid.sum()) * mean.item()
        if value is not None:
            calibrations.append(_calibration(value(states), part, discount))
        ends.append(_ends(model, states, part, generator))
    return Judged(
        {name: total / int(episodes.valid.sum()) for name, total in totals.items()},
        CriticCalibration(*(torch.cat(x) for x in zip(*calibrations, strict=True))) if value is not None else None,
        ending(*(torch.cat(x) for x in zip(*ends, strict=True))),
    )


def ending(probability: Float[Tensor, " n"], ended: Bool[Tensor, " n"]) -> list[Ending]:
    """Predicted probabilities of n steps, sorted into `ENDING_BINS`, beside what came; empty bins are left out."""
    probability = probability.double()
    place = torch.bucketize(probability, probability.new_tensor(ENDING_BINS[1:]), right=True)
    found = []
    for i, least in enumerate(ENDING_BINS):
        here = place == i
        if steps := int(here.sum()):
            found.append(Ending(least, steps, probability[here].mean().item(), ended[here].double().mean().item()))
    return found


def _calibration(values: Float[Tensor, "B T"], episodes: Batch, discount: float) -> tuple[Tensor, Tensor]:
    last = episodes.valid.sum(1, keepdim=True) - 1  # the row, and the number of rewards before it
    bootstrap = discount**last * values.gather(1, last) * ~episodes.is_terminal.gather(1, last)
    worth = discount ** (episodes.episode_step - 1).clamp(min=0)
    return values[:, 0], (worth * episodes.reward * episodes.valid).sum(1) + bootstrap[:, 0]


def _ends(model: WorldModel, states: State, episodes: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How likely each action was to end its episode, by the model and before its outcome was seen; and what came."""
    follows = episodes.valid[:, 1:] & ~episodes.is_first[:, 1:]
    before = State(*(x[:, :-1][follows][None] for x in states))  # [1, n, ...]
    action = episodes.prev_action[:, 1:][follows][None, :, None]
    after = imagine(model, before, scripted(action), 1, generator=generator).states
    alive = model.decode(after, (CONTINUE,))[CONTINUE].mean
    return 1 - alive.flatten(), episodes.is_terminal[:, 1:][follows]
