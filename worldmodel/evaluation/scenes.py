"""A few episodes imagined in full, as arrays: what was seen, what was imagined after it, and what really happened."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.behaviour.imagination import filter_samples, imagine, recorded
from worldmodel.checks import require_positive
from worldmodel.data.batches import long_enough, select
from worldmodel.evaluation.baselines import predicted_leaves
from worldmodel.models.decoder import REWARD
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, Likelihood, ObservationSpec, State

QUANTILES = (0.05, 0.25, 0.75, 0.95)  # the edges of the central 90 % and 50 %
DRAWS = 64  # of the likelihood of each state, for the quantiles
DIMENSIONS = 8  # of a leaf of numbers, at most, whose quantiles are computed
MAPPED_ROWS = 4096  # at most, of the posterior states that the map is made of


@dataclass(frozen=True)
class Scene:
    """One leaf of B episodes over R = context + horizon rows: filtered for `context` rows, imagined from there on."""

    leaf: ObservationSpec
    # The first row has no reward: there the truth and all that is predicted of the reward are NaN.
    truth: np.ndarray  # [B, R, ...] as stored, or only the context's rows where nothing happened after them
    paths: np.ndarray  # [N, B, R, ...] E[x | state] of every sample; of an image only the first
    mean: np.ndarray  # [B, R, ...] over the N samples
    bands: np.ndarray | None  # [4, B, R, n] QUANTILES of draws from the likelihoods; leaves of numbers, the reward


@dataclass(frozen=True)
class LatentMap:
    """Posterior states [deter, stoch] and imagined ones in the plane in which the posterior's vary most."""

    posterior: np.ndarray  # [M, 2] of all the episodes
    filtered: np.ndarray  # [B, R, 2] the true path; only the context's rows where nothing happened after them
    imagined: np.ndarray  # [N, B, H, 2]
    explained: np.ndarray  # [2] shares of the posterior states' variance


@dataclass(frozen=True)
class Scenes:
    """What pictures of imagination are drawn from."""

    context: int
    leaves: dict[str, Scene]  # everything that is predicted, by name
    latents: LatentMap


@torch.no_grad()
def make_scenes(
    model: WorldModel,
    episodes: Batch,
    *,
    context: int,
    horizon: int,
    samples: int,
    shown: int,
    generator: torch.Generator,
    action: Float[Tensor, "B H A"] | None = None,
) -> Scenes:
    """Filter the first `context` rows of the first episodes and imagine on.

    Args:
        model: the world model.
        episodes: whole episodes from their reset, padded; those are used that have context + horizon rows, or with
            other actions than the recorded ones, `context`.
        context, horizon, samples: rows seen, rows imagined (H), futures of each episode (N).
        shown: episodes imagined (B), or all if there are fewer.
        generator: source of the noise.
        action: what is done instead of what was recorded, at least B sequences of H; then nothing is known beyond the
            context.
    Raises:
        ValueError: if no episode is long enough, or a number is not positive.
    """
    require_positive(context=context, horizon=horizon, samples=samples)
    rows = context + (horizon if action is None else 0)
    episodes = long_enough(episodes, rows)
    batch = select(episodes, slice(shown), slice(rows))
    filtered = filter_samples(model, select(batch, rows=slice(context)), samples, generator)
    start = State(*(x[:, :, -1] for x in filtered))
    taken = batch.prev_action[:, context:] if action is None else action[: len(batch.reward)]
    imagined = imagine(model, start, recorded(taken, samples), horizon, generator=generator).states
    states = State(*(torch.cat(parts, 2) for parts in zip(filtered, imagined, strict=True)))
    return Scenes(
        context,
        _decode(model, states, batch, generator),
        _map(model, episodes, batch, imagined, generator),
    )


def _decode(model: WorldModel, states: State, batch: Batch, generator: torch.Generator) -> dict[str, Scene]:
    leaves, targets = predicted_leaves(model.spec), model.targets(batch)
    N = states.deter.shape[0]
    paths: dict[str, list[Tensor]] = defaultdict(list)
    mean: dict[str, Tensor] = {}
    draws: dict[str, list[Tensor]] = defaultdict(list)
    for n in range(N):  # one sample at a time: images are large
        for name, likelihood in model.decode(State(*(x[n] for x in states))).items():
            mean[name] = mean.get(name, torch.zeros(())) + likelihood.mean / N
            if n == 0 or leaves[name].kind != "image":
                paths[name].append(likelihood.mean)
            if leaves[name].is_numeric:
                draws[name].extend(_draws(likelihood, generator))
    scenes = {}
    for name, leaf in leaves.items():
        truth = _numpy(targets[name].float() if leaf.kind == "vector" else targets[name])
        bands = _quantiles(torch.stack(draws[name])) if name in draws else None
        scene = Scene(leaf, truth, _numpy(torch.stack(paths[name])), _numpy(mean[name]), bands)
        scenes[name] = _without_first_row(scene) if name == REWARD else scene
    return scenes


def _without_first_row(scene: Scene) -> Scene:
    """NaN where the episode begins: no reward leads there."""

    def rest(x: Float[np.ndarray, "*lead R n"]) -> np.ndarray:
        return np.where(np.arange(x.shape[-2])[:, None] == 0, np.nan, x)

    assert scene.bands is not None
    return Scene(scene.leaf, *(rest(x) for x in (scene.truth, scene.paths, scene.mean, scene.bands)))


def _draws(likelihood: Likelihood, generator: torch.Generator) -> list[Tensor]:
    return [likelihood.sample(generator)[..., :DIMENSIONS].float() for _ in range(DRAWS)]


def _quantiles(draws: Float[Tensor, "M B R n"]) -> np.ndarray:
    return np.quantile(_numpy(draws), QUANTILES, axis=0)


def _map(model: WorldModel, episodes: Batch, shown: Batch, imagined: State, generator: torch.Generator) -> LatentMap:
    """Principal components of one draw of the posterior states of the episodes, at no more than MAPPED_ROWS rows."""
    count = max(1, MAPPED_ROWS // episodes.is_first.shape[1])
    some = select(episodes, slice(count))
    posterior = _joined(filter_samples(model, some, 1, generator))[0][some.valid][:MAPPED_ROWS]
    filtered = _joined(filter_samples(model, shown, 1, generator))[0]
    centre, axes, explained = principal_plane(posterior)

    def place(x: Tensor) -> np.ndarray:
        return _numpy((x.double() - centre) @ axes)

    return LatentMap(place(posterior), place(filtered), place(_joined(imagined)), _numpy(explained))


def principal_plane(
    x: Float[Tensor, "M W"],
) -> tuple[Float[Tensor, " W"], Float[Tensor, "W 2"], Float[Tensor, " 2"]]:
    """The mean of points, the two directions in which they vary most, and their shares of the variance, in float64.

    A direction's largest entry is positive, so that the same points always look the same.
    """
    x = x.double()
    centre = x.mean(0)
    _, singular, directions = torch.linalg.svd(x - centre, full_matrices=False)
    axes = directions[:2].T
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    variance = singular.square()
    return centre, axes, variance[:2] / variance.sum().clamp(min=1e-12)


def _joined(states: State) -> Tensor:
    return torch.cat(states, -1)


def _numpy(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
