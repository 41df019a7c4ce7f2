"""Episodes to look at: what an environment showed, and what the model made of every row of it.

Episodes are played first and filmed afterwards: only the chosen ones, by their start seeds and actions, so that no
frames are kept of the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from worldmodel.data.batches import in_precision, stacked
from worldmodel.data.environment import Environments
from worldmodel.data.policy import ScriptedPolicy
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.rounds import best_and_median, play_round, rounds
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch, Policy, State

DRAWS = 16  # of the prior at every row, for the one-step prediction
QUANTILES = (0.05, 0.95)
SIDE = 320  # pixels that frames are kept in, at most: a film has no room for more


class Recorded(NamedTuple):
    """An episode as it can be played again: its start seed, its actions, and what they earned."""

    seed: int
    action: Float[np.ndarray, "T A"]
    earned: float


class Watched(NamedTuple):
    """An episode of T rows, and the model's view of them; predictions are made from the rows before."""

    frames: UInt8[np.ndarray, "T H W 3"]  # what the environment showed
    reward: Float[np.ndarray, " T"]
    kl: Float[np.ndarray, " T"]  # nats: what each row told the model beyond its prediction
    leaves: dict[str, "Seen"]  # by path


class Seen(NamedTuple):
    """One leaf of the observation, [T, ...] each; classes as probabilities."""

    truth: np.ndarray
    reconstruction: np.ndarray  # E[x | h_t, z_t], z_t from the posterior, which saw the row
    prediction: np.ndarray  # the same with z_t from the prior, the mean over draws
    band: np.ndarray | None  # [2, T, n] QUANTILES of the prediction, of leaves of numbers


@dataclass(frozen=True)
class Chosen:
    """The best and the median episode of some, best first; one alone where there is one."""

    episodes: int
    titles: tuple[str, ...]
    recorded: tuple[Recorded, ...]


def choose(
    environments: Environments,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    at: Callable[[str], None] = lambda words: None,
) -> Chosen:
    """Play whole episodes, as `episodes.play` does, and choose the best and the median one by their returns.

    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if episodes is not positive, or the seed negative.
    """
    played = list[Recorded]()
    for start, wanted in rounds(episodes, environments.count, seed):
        reward, action, last = [], [], []
        for rows in play_round(Rollout(environments, policy, start), wanted, at=at):
            reward.append(rows.reward)
            action.append(rows.prev_action)
            last.append(rows.is_last)
        for i in range(wanted):
            steps = slice(1, int(np.argmax([row[i] for row in last])) + 1)
            earned = float(sum(row[i] for row in reward[steps]))
            played.append(Recorded(start + i, np.stack([row[i] for row in action[steps]]), earned))
    chosen = best_and_median([one.earned for one in played])
    titles = [f"{words} of {episodes} episodes" if episodes > 1 else "one episode" for words in chosen]
    return Chosen(episodes, tuple(titles), tuple(played[i] for i in chosen.values()))


def film(
    environments: Environments, recorded: Recorded, at: Callable[[str], None] = lambda words: None
) -> tuple[np.ndarray, Batch]:
    """Play an episode again in one environment that renders: its frames [T, H, W, 3], and its rows [1, T].

    Raises:
        ValueError: if the environment does not render.
        EnvironmentFailureError: if it fails.
    """
    rollout = Rollout(environments, ScriptedPolicy(recorded.action), recorded.seed)
    rows, frames = [rollout.step()], [smaller(environments.frames()[0])]
    while len(rows) <= len(recorded.action) and not rows[-1].is_last[0]:
        rows.append(rollout.step())
        frames.append(smaller(environments.frames()[0]))
        at(f"filmed {len(rows)} of {len(recorded.action) + 1} rows")
    return np.stack(frames), stacked(rows)


@torch.no_grad()
def watch(model: WorldModel, frames: np.ndarray, rows: Batch, generator: torch.Generator) -> Watched:
    """What the model makes of an episode: filters it, and predicts each row from those before.

    Args:
        model: the world model.
        frames, rows: as `film` gives them.
        generator: source of the noise, on the model's device.
    """
    rows = in_precision(rows.to(model.device), next(model.parameters()).dtype)
    states, posterior, prior, _ = model.filter(rows, model.noise(1, len(frames), generator))
    kl = posterior.kl(prior).sum(-1)[0]
    leaves = model.spec.observations
    names = [*leaves]
    reconstruction = {name: one.mean for name, one in model.decode(states, names).items()}
    total: dict[str, Tensor] = {}
    draws: dict[str, list[Tensor]] = {name: [] for name, leaf in leaves.items() if leaf.is_numeric}
    for _ in range(DRAWS):
        guess = model.decode(State(states.deter, prior.sample(generator)), names)
        for name, likelihood in guess.items():
            total[name] = total.get(name, torch.zeros(())) + likelihood.mean / DRAWS
            if name in draws:
                draws[name].append(likelihood.sample(generator).float())
    seen = {}
    for name in names:
        band = np.quantile(_numpy(torch.stack(draws[name])[:, 0]), QUANTILES, axis=0) if name in draws else None
        truth, seen_row, guessed = (_numpy(x[name][0]) for x in (rows.obs, reconstruction, total))
        seen[name] = Seen(truth, seen_row, guessed, band)
    return Watched(frames, _numpy(rows.reward[0]), _numpy(kl), seen)


def smaller(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The same picture with no side longer than SIDE, each pixel the mean over its part."""
    if max(frame.shape[:2]) <= SIDE:
        return np.array(frame)  # an environment may draw the next one into the same array
    h, w = (max(1, round(n * SIDE / max(frame.shape[:2]))) for n in frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((w, h), Image.Resampling.BOX))


def _numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy() if x.is_floating_point() else x.cpu().numpy()
