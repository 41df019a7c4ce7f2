"""The bound, KL and reconstructions of held-out episodes.

Episodes are filtered whole from their reset, so their sums are bounds on the evidence of whole episodes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.data.batches import at_once, select
from worldmodel.evaluation.open_loop import OpenLoopError, open_loop_errors
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Objective, optimised_kl
from worldmodel.types import Batch, State

FRAMES = 8  # of an episode, that are reconstructed for a picture
ACTIVE_NATS = 0.01  # a latent group whose mean KL is above this carries something


@dataclass(frozen=True)
class KLDiagnostics:
    """The raw KL of every row of a batch, in nats, looked at from every side. NaN where there is no row."""

    by_position: np.ndarray  # [T] mean over sequences at each place of the sequence
    by_episode_step: np.ndarray  # [L] mean over rows that lie that many steps after their episode's reset
    heat_map: np.ndarray  # [S, T] mean of each latent group at each place of the sequence
    optimised_by_position: np.ndarray  # [T] the optimised KL (clipped, weighted), beside the raw one
    rows: np.ndarray  # [N] of every row that counts
    summary: dict[str, float]  # mean, median, q95, share_under_free_nats, share_under_1_nat, active_units, ...


@dataclass(frozen=True)
class Surprise:
    """One held-out episode: where the model was surprised."""

    kl: np.ndarray  # [T] raw KL of each row, nats
    optimised_kl: np.ndarray  # [T] the same as the loss has it
    reward: np.ndarray  # [T]


@dataclass(frozen=True)
class Reconstruction:
    """Rows of one held-out episode: the recorded images, and their reconstructions from the filtered states.

    Both are [F, H, W, C].
    """

    truth: np.ndarray
    filtered: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """A look at the held-out episodes."""

    per_step: dict[str, float]  # elbo, kl and every log-likelihood, nats per step
    bits_per_dimension: dict[str, float]  # of every image: -log2 p per channel of a pixel
    kl: KLDiagnostics
    surprise: Surprise
    open_loop: dict[str, OpenLoopError]  # by leaf; empty if the episodes are too short
    reconstructions: dict[str, Reconstruction]  # by image


@torch.no_grad()
def evaluate(
    model: WorldModel,
    objective: Objective,
    episodes: Batch,
    *,
    context: int,
    horizon: int,
    samples: int,
    seed: int,
) -> Evaluation:
    """Score held-out episodes.

    Args:
        model: the world model.
        objective: what it is trained on, for the optimised KL beside the raw one.
        episodes: whole episodes from their reset, padded.
        context, horizon, samples: of the open-loop errors; see `open_loop_errors`.
        seed: of the noise, so that two evaluations of one model agree.
    """
    generator = torch.Generator(episodes.reward.device).manual_seed(seed)
    bound = _score(model, episodes, generator)
    optimised = optimised_kl(bound.kl, bound.valid, objective)
    errors = open_loop_errors(model, episodes, context=context, horizon=horizon, samples=samples, generator=generator)
    kl = kl_diagnostics(bound, optimised, episodes.episode_step, objective.free_nats)
    one = bound.valid[0]
    surprise = Surprise(_numpy(bound.kl[0][one]), _numpy(optimised[0][one]), _numpy(episodes.reward[0][one]))
    per_step = {name: value.item() for name, value in bound.per_step().items()}
    images = {name: leaf for name, leaf in model.spec.observations.items() if leaf.kind == "image"}
    bits = {name: -per_step[name] / (leaf.width * math.log(2)) for name, leaf in images.items()}
    seen = reconstruct(model, episodes, generator) if images else {}
    return Evaluation(per_step, bits, kl, surprise, errors, seen)


@torch.no_grad()
def reconstruct(model: WorldModel, episodes: Batch, generator: torch.Generator) -> dict[str, Reconstruction]:
    """Some rows, evenly spaced, of the first episode's images, filtered and decoded."""
    length = int(episodes.valid[0].sum())
    episode = select(episodes, slice(1), slice(length))
    rows = torch.linspace(0, length - 1, min(FRAMES, length)).long().to(model.device)
    states = model.observe(episode, model.noise(1, length, generator)).states
    images = [name for name, leaf in model.spec.observations.items() if leaf.kind == "image"]
    decoded = model.decode(State(*(x[0, rows] for x in states)), images)
    return {
        name: Reconstruction(_numpy(episode.obs[name][0, rows]), _numpy(decoded[name].mean.float())) for name in images
    }


@torch.no_grad()
def training_kl(model: WorldModel, objective: Objective, batch: Batch, *, seed: int) -> KLDiagnostics:
    """The KL on training sequences: the same, but sequences start inside episodes, from an empty state."""
    generator = torch.Generator(batch.reward.device).manual_seed(seed)
    bound = _score(model, batch, generator)
    optimised = optimised_kl(bound.kl, bound.valid, objective)
    everywhere = Bound(bound.log_likelihood, bound.kl_groups, torch.ones_like(bound.valid))
    return kl_diagnostics(everywhere, optimised, batch.episode_step, objective.free_nats)


def kl_diagnostics(
    bound: Bound, optimised: torch.Tensor, episode_step: torch.Tensor, free_nats: float
) -> KLDiagnostics:
    """Summarise the KL of every valid row of [B, T], all of one process.

    Arguments as in `Loss` and `Batch`; free_nats in nats per step.
    """
    valid, kl, groups = _numpy(bound.valid), _numpy(bound.kl), _numpy(bound.kl_groups)
    clamped, steps = _numpy(optimised), _numpy(episode_step)
    rows, group_means = kl[valid], groups[valid].mean(0)
    summary = {
        "mean": rows.mean(),
        "median": np.median(rows),
        "q95": np.quantile(rows, 0.95),
        "optimised_mean": clamped[valid].mean(),
        "share_under_free_nats": (rows < free_nats).mean(),
        "share_under_1_nat": (rows < 1).mean(),
        "active_units": (group_means > ACTIVE_NATS).sum(),
    }
    total = np.bincount(steps[valid], rows)
    count = np.bincount(steps[valid])
    by_episode_step = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return KLDiagnostics(
        by_position=_mean_over_batch(kl, valid),
        by_episode_step=by_episode_step,
        heat_map=_mean_over_batch(groups, valid).T,
        optimised_by_position=_mean_over_batch(clamped, valid),
        rows=rows,
        summary={name: float(value) for name, value in summary.items()},
    )


def _score(model: WorldModel, batch: Batch, generator: torch.Generator) -> Bound:
    """The bound of many rows, as many sequences at a time as memory allows."""
    B, T = batch.is_first.shape
    size = at_once(T * model.spec.width)
    bounds = [sampled_bound(model, select(batch, slice(start, start + size)), generator) for start in range(0, B, size)]
    terms = {name: torch.cat([bound.log_likelihood[name] for bound in bounds]) for name in bounds[0].log_likelihood}
    return Bound(terms, torch.cat([bound.kl_groups for bound in bounds]), batch.valid)


def _mean_over_batch(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    weight = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
    count = np.broadcast_to(weight.sum(0), x.shape[1:])
    total = np.where(weight, x, 0).sum(0)
    return np.divide(total, count, out=np.full(x.shape[1:], np.nan), where=count > 0)


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
