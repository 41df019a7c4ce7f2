"""A run's trainer, put together: learners, policy, rollout, evaluators and the streams of random numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from worldmodel import build, build_acting
from worldmodel.behaviour.actor_critic import ActorCritic
from worldmodel.config import Config
from worldmodel.data.environment import Environments
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.models.world_model import WorldModel
from worldmodel.runs.worlds import Worlds
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.training.checkpoint import BEHAVIOUR, WORLD
from worldmodel.training.processes import Processes
from worldmodel.training.progress import RunProgress
from worldmodel.training.tracking import Tracker
from worldmodel.training.trainer import Trainer
from worldmodel.types import Batch


def make_trainer(
    config: Config,
    folder: Path,
    model: WorldModel,
    agent: ActorCritic | None,
    worlds: Worlds,
    replay: Replay,
    heldout: Batch,
    tracker: Tracker,
    progress: RunProgress,
    processes: Processes,
    auxiliary: Mapping[str, nn.Module],
    **given: Any,
) -> Trainer:
    """The trainer of a run from its parts, as `Trainer` documents them.

    Args:
        config: the run's settings.
        folder: the run's.
        model, agent: what is learned.
        worlds: the environments.
        replay, heldout: rows to learn from, and episodes to score.
        tracker, progress: where numbers go.
        processes: those that share the run.
        auxiliary: losses beside the bound, by name.
        given: passed on to `Trainer`.
    """
    rank = processes.rank  # every process draws other rows and other latents
    randomness = {
        "sampling": make_generator(config.seed, stream=Stream.SAMPLING, rank=rank),
        "latents": make_generator(config.seed, stream=Stream.LATENTS, device=model.device, rank=rank),
    }
    learner = build.build_learner(config, model, randomness["latents"], processes, auxiliary)
    others: dict[str, BehaviourLearner] = {}
    if agent is not None:
        generator = make_generator(config.seed, stream=Stream.BEHAVIOUR, device=model.device, rank=rank)
        randomness[BEHAVIOUR] = generator
        others[BEHAVIOUR] = build_acting.build_behaviour_learner(config, agent, model, generator, processes)
    held_out, evaluators = build.build_evaluators(
        config, learner, heldout.to(model.device), replay, agent, worlds.playing
    )
    return Trainer(
        learner,
        _rollout(config, model, agent, worlds.learning, replay, processes),
        replay,
        held_out,
        tracker,
        progress,
        folder=folder,
        schedule=build.build_schedule(config, processes),
        randomness=randomness,
        settings=build.lasting_settings(config),
        evaluators=evaluators,
        best_by="elbo" if worlds.playing is None else "return",
        others=others,
        processes=processes,
        update=build.build_captured_update(config, {WORLD: learner, **others}, model.device),
        **given,
    )


def _rollout(
    config: Config,
    model: WorldModel,
    agent: ActorCritic | None,
    environments: Environments | None,
    replay: Replay,
    processes: Processes,
) -> Rollout | None:
    if environments is None:
        return None
    rows, rank = replay.rows_written, processes.rank
    seed = config.seed
    if rows or rank:  # a resumed run goes on with new episodes, and every process has its own
        words = [config.seed, rows, rank] if rank else [config.seed, rows]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    randomness = {
        "policy": make_generator(config.seed, stream=Stream.POLICY, rank=rank),
        "acting": make_generator(config.seed, stream=Stream.ACTING, device=model.device, rank=rank),
    }
    policy = build_acting.build_collecting_policy(config, model, replay, agent, randomness, processes)
    return Rollout(environments, policy, seed)
