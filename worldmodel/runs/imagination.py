"""Which futures a run imagines unless others are asked for, and the scenes of them that are drawn."""

from typing import NamedTuple

from worldmodel.config import Config
from worldmodel.data.batches import fitting_rows, longest_episode
from worldmodel.data.policy import random_actions
from worldmodel.evaluation.scenes import Scenes, make_scenes
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch

SHOWN = 3  # episodes in pictures


class FutureOptions(NamedTuple):
    """Which futures are imagined."""

    context: int  # steps seen
    horizon: int  # steps imagined
    samples: int  # futures of each start


def futures_of(
    config: Config,
    episodes: Batch,
    context: int | None = None,
    horizon: int | None = None,
    samples: int | None = None,
) -> FutureOptions:
    """What is asked for, and for the rest what the run's evaluations have, as far as the episodes are that long.

    Raises:
        ValueError: if no episode has context + horizon rows.
    """
    usual = config.evaluation
    fitting = fitting_rows(longest_episode(episodes), (usual.context, usual.horizon), context, horizon)
    return FutureOptions(*fitting, usual.samples if samples is None else samples)


def scenes_of(
    config: Config,
    model: WorldModel,
    heldout: Batch,
    policy: str,
    context: int | None,
    horizon: int | None,
    samples: int | None,
    *,
    seed: int,
) -> Scenes:
    """A few held-out episodes imagined in full, for pictures; under random actions if the policy is random."""
    if policy == "random" and horizon is None:
        horizon = config.evaluation.horizon  # no episode need be so long: nothing is compared with one
    futures = futures_of(config, heldout, context, horizon, samples)
    action = None
    if policy == "random":
        choice = make_generator(seed, stream=Stream.POLICY)
        action = random_actions(model.spec.action, (SHOWN, futures.horizon), choice).to(model.device)
    noise = make_generator(seed, stream=Stream.IMAGINATION, device=model.device)
    return make_scenes(model, heldout, **futures._asdict(), shown=SHOWN, generator=noise, action=action)
