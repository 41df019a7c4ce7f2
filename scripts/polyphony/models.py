"""World models of piano rolls: their settings, and their training on whole pieces, with an early choice by validation.

A model that reads the past has x_{t-1} for its action (a VRNN, Chung et al. 2015); one that does not knows the past by
its own latents alone (a deep Markov model, Krishnan et al. 2017). A recorded piece has neither rewards nor ends, so
these count for nothing in the loss, and are left out of the evidence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from scripts.polyphony.rolls import Music, as_episodes
from worldmodel import build, build_networks
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.batches import select, trimmed
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.types import Batch

BASE: dict[str, Any] = {
    "offline": "given:",
    "tracking": "none",
    "replay.burn_in": 0,
    "encoder.layers": 1,
    "decoder.layers": 1,
    "decoder.reward": "categorical",  # of which there is one, zero
    "loss.reward_scale": 0.0,
    "loss.continue_scale": 0.0,
    "optimizer.clip_norm": 10.0,
}
POOL = 5  # batches of pieces that are sorted by length together
DRAWS = 2  # of the latents, for a validation score


@dataclass(frozen=True)
class Recipe:
    """A model of piano rolls and how it is trained."""

    words: str
    settings: Mapping[str, Any]
    reads_past: bool = True
    """Whether the action into a step is the step before it."""
    drop: float = 0.0
    """Share of the notes of that action that training hides, at random."""
    epochs: int = 40
    """Passes over the training pieces."""
    pieces: int = 16
    """Pieces in a batch."""

    def config(self, seed: int, updates: int) -> Config:
        """The settings of a training with so many updates."""
        return read_config((), {**BASE, **self.settings, "seed": seed, "training.updates": updates})


@dataclass(frozen=True)
class Trained:
    """A trained model, with its validation bound by epoch, of which it is the best."""

    model: WorldModel
    epoch: int
    curve: list[tuple[int, float, float]]  # epoch, validation bound and KL in nats per step


def train(
    recipe: Recipe, music: Music, seed: int, *, every: int = 5, log: Callable[[str], None] = lambda words: None
) -> Trained:
    """Train on whole pieces, and keep the weights of the epoch with the best validation bound.

    Args:
        recipe: what is trained, and how.
        music: of which the training and validation parts are looked at.
        seed: of everything that is random.
        every: epochs between two validation scores.
        log: told each of them.
    """
    episodes = as_episodes(music.train, reads_past=recipe.reads_past)
    pieces, valid = episodes.batch(), as_episodes(music.valid, reads_past=recipe.reads_past).batch()
    per_epoch = -(-len(episodes) // recipe.pieces)
    config = recipe.config(seed, recipe.epochs * per_epoch)
    model = build_networks.build_model(config, episodes.spec)
    model.standardise("obs", *_mean_and_std(pieces))
    order, hiding, noise = (torch.Generator().manual_seed(seed + k) for k in (0, 10**6, 2 * 10**6))
    learner = build.build_learner(config, model, noise)
    best, curve = None, []
    for epoch in range(1, recipe.epochs + 1):
        for chosen in batches(pieces.valid.sum(1), recipe.pieces, order):
            learner.update(hide(trimmed(select(pieces, chosen)), recipe.drop, hiding))
        if epoch % every == 0 or epoch == recipe.epochs:
            score, kl = validation_bound(model, valid, seed)
            curve.append((epoch, score, kl))
            log(f"epoch {epoch}: validation bound {score:.3f}, KL {kl:.3f} nats per step")
            if score == max(one for _, one, _ in curve):
                best = {name: value.clone() for name, value in model.state_dict().items()}
    assert best is not None
    model.load_state_dict(best)
    return Trained(model.eval(), max(curve, key=lambda one: one[1])[0], curve)


def batches(lengths: Int[Tensor, " n"], size: int, generator: torch.Generator) -> list[Int[Tensor, " size"]]:
    """Every piece once, in batches in random order; in one, pieces are of similar length, so that little is padding.

    Pieces are drawn into pools of several batches, and only within a pool is a batch chosen by length.
    """
    found = []
    for pool in torch.randperm(len(lengths), generator=generator).split(size * POOL):
        found += list(pool[lengths[pool].argsort(stable=True)].split(size))
    return [found[k] for k in torch.randperm(len(found), generator=generator)]


def hide(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """The batch with a random share of the entries of its actions set to zero: word dropout.

    Source: Bowman et al. 2016, arXiv 1511.06349, section 3.2.
    """
    if share == 0:
        return batch
    kept = torch.rand(batch.prev_action.shape, generator=generator) >= share
    return batch._replace(prev_action=batch.prev_action * kept)


@torch.no_grad()
def validation_bound(model: WorldModel, pieces: Batch, seed: int) -> tuple[float, float]:
    """The bound of the notes and its KL in nats per step, from a few draws, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    notes, kl = 0.0, 0.0
    for _ in range(DRAWS):
        bound = sampled_bound(model, pieces, generator).per_step()
        notes, kl = notes + bound["obs"].item() / DRAWS, kl + bound["kl"].item() / DRAWS
    return notes - kl, kl


def _mean_and_std(pieces: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    notes = pieces.obs["obs"][pieces.valid].float()
    return notes.mean(0), notes.std(0)
