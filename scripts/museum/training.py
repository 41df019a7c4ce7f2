"""The worlds, their rows, and runs on them: sound ones and ones with a bug, from the same weights, on the same rows."""

import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.museum.bugs import Bug
from worldmodel import build, build_networks
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.batches import select
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.evidence.estimate import per_step
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch

ROWS = 80_000
EPISODES = 384  # held out
WATCHED = 48  # of these, for the curves
EVERY = 20  # updates between two points of a curve
SPRINGS = {  # actions explain much of the motion; episodes end by termination or, after 32 rows, by truncation
    "env.kwargs": {"force_noise": 0.2, "termination": 0.02},
    "env.time_limit": 31,
    "replay.batch_size": 64,
}
SMOOTHING = {"rssm.latent": "gaussian", "optimizer.learning_rate": 0.004}  # the preset's when these ran
RING = {"rssm.deter": 64, "rssm.blocks": 4, "encoder.units": 64, "decoder.units": 64}  # as when it ran
SYMLOG = {"encoder.inputs": "symlog", "decoder.vector": "symlog", "decoder.reward": "symlog"}
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> preset, and its settings that are others
    "springs": ("linear_gaussian", SPRINGS),
    "springs, symlog": ("linear_gaussian", {**SPRINGS, **SYMLOG}),
    "springs, smoothing": ("linear_gaussian_smoothing", {**SPRINGS, **SMOOTHING}),
    "springs, smoothing, 1 free nat": ("linear_gaussian_smoothing", {**SPRINGS, **SMOOTHING, "loss.free_nats": 1.0}),
    "ring": ("hidden_markov", {"env.time_limit": 31, **RING}),
}


@dataclass(frozen=True)
class Run:
    """A trained model, the world's own, and how its losses went."""

    model: WorldModel
    curves: dict[str, list[float]]  # `update`, `train` and, by name, held-out losses in nats per step
    seconds: float  # CPU


def settings(world: str, seed: int, updates: int) -> Config:
    """The settings of a run in a world."""
    preset, others = WORLDS[world]
    config = read_config(preset, {**others, "evaluation.episodes": EPISODES, "seed": seed})
    return replace(config, offline="rows", training=replace(config.training, updates=updates))


def law_of(world: str) -> Mapping[str, Any]:
    """The law of a world's rows."""
    preset, others = WORLDS[world]
    law = build.build_law(read_config(preset, others))
    assert law is not None, "the environments of these presets state their law"
    return law


def rows_of(world: str, seed: int, folder: Path) -> tuple[Replay, Batch]:
    """Rows to learn from and held-out episodes, written once for each environment and seed."""
    config = settings(world, seed, 1)
    place = folder / f"{config.env.id.split('/')[-1]}-{seed}"
    for part, count, number in (("replay", ROWS, seed), ("heldout", 32 * EPISODES, seed + 10**6)):
        if not (place / part).exists():
            _write(config, place / f"{part}.partial", count, number)
            (place / f"{part}.partial").rename(place / part)  # an interruption leaves no half of them under this name
    heldout = select(read_episodes(place / "heldout", config.evaluation.max_length), slice(EPISODES))
    return Replay.open(place / "replay", read_only=True), heldout


def train(config: Config, replay: Replay, heldout: Batch, bug: Bug, watched: Mapping[str, Bug]) -> Run:
    """Train with a bug: the library's learner, inside the bug, on the rows as the bug has them.

    Args:
        config: of the run, from `settings`.
        replay, heldout: rows to learn from, and held-out episodes.
        bug: what is wrong.
        watched: whose held-out losses are to be followed, by name.
    """
    began, updates = time.process_time(), config.training.updates
    assert updates is not None, "`settings` says how many"
    noise, choice = torch.Generator().manual_seed(config.seed), torch.Generator().manual_seed(config.seed)
    some = select(heldout, slice(WATCHED))
    curves: dict[str, list[float]] = {name: [] for name in ("update", "train", *watched)}
    recent: list[Tensor] = []
    with bug.inside():
        model = new_model(config, replay)
        learner = build.build_learner(config, model, noise)
    for update in range(1, updates + 1):
        batch = replay.sample(
            config.replay.batch_size,
            config.replay.sequence_length,
            choice,
            burn_in=config.replay.burn_in,
            restart=config.replay.restart,
        )
        with bug.inside():
            recent.append(learner.update(bug.rows(batch)).loss.value)
        if update % EVERY == 0:
            curves["update"].append(update)
            curves["train"].append(statistics.mean(x.item() for x in recent))
            recent.clear()
            for name, one in watched.items():
                claims = one.claims(model, some, learner.objective.at(updates), torch.Generator().manual_seed(0))
                curves[name].append(-per_step(claims.sum(1), some.valid.sum(1)).mean)
    clean = new_model(config, replay)  # made outside the bug
    clean.load_state_dict(model.state_dict())
    return Run(clean.eval(), curves, time.process_time() - began)


def new_model(config: Config, replay: Replay) -> WorldModel:
    """An untrained model, the same for the same seed."""
    torch.manual_seed(config.seed)
    model = build_networks.build_model(config, replay.spec)
    for name, (mean, std) in replay.statistics().items():
        model.standardise(name, mean.float(), std.float())
    return model


def _write(config: Config, folder: Path, count: int, seed: int) -> None:
    """Write at least this many rows under random actions."""
    shutil.rmtree(folder, ignore_errors=True)
    with build.build_environments(config) as environments:
        streams, steps = environments.count, -(-count // environments.count)
        policy = RandomPolicy(environments.spec.action, torch.Generator().manual_seed(seed))
        rollout = Rollout(environments, policy, seed)
        with Replay(folder, environments.spec, capacity=steps * streams, streams=streams) as replay:
            for _ in range(steps):
                replay.append(rollout.step())
