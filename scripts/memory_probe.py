"""What a model of MiniGrid's memory task remembers of the cue, and whether it knows what the cue means.

    python scripts/memory_probe.py RUN [--checkpoint last] [--episodes 400]

RUN is one of the preset `minigrid`. A script walks to the cue, from there to the junction, and steps to a side drawn by
chance, from starts that training never evaluates; the model filters these episodes. Two numbers are printed:

- *cue*: how often a linear classifier, fitted on two thirds of the episodes, tells a key from a ball by h_t at the last
  row of the others. The script knows only 32 different episodes, so this says that the cue is in h_t, not that one
  could read it in episodes of another kind.
- *match*: how likely the model is to expect more reward of an episode that succeeds than of one that fails, both at
  their last row. It takes a memory of the cue and the knowledge of what it means.

Both are 0.5 by chance, with a standard error of 0.04 and 0.03 over 400 episodes.
"""

import argparse

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.evaluation.own_episodes import collect_episodes
from worldmodel.models.decoder import REWARD
from worldmodel.runs.environments import evaluation_environments
from worldmodel.runs.run import Run, open_run
from worldmodel.types import Batch, Rows, State

LEFT, RIGHT, FORWARD, ACTIONS = 0, 1, 2, 7
TO_THE_CUE = [LEFT, LEFT, FORWARD, FORWARD, FORWARD]  # against the wall, which stops it wherever it began
TO_THE_JUNCTION = [LEFT, LEFT, FORWARD, FORWARD, FORWARD, FORWARD]
ROWS = len(TO_THE_CUE) + len(TO_THE_JUNCTION) + 3  # the first, and two more to turn and to step
KEY, CELLS = 5, 9
START_SEED, RIDGE = 1_000_000, 10.0


class LooksFirst:
    """Looks at the cue, then steps to a side that is drawn for each episode."""

    def __init__(self, seed: int) -> None:
        self.generator, self.side = np.random.default_rng(seed), LEFT

    def __call__(self, rows: Rows) -> Float[np.ndarray, "1 A"]:
        """The next action of the one environment."""
        if rows.is_first[0]:
            self.side = self.generator.choice([LEFT, RIGHT])
        plan = [*TO_THE_CUE, *TO_THE_JUNCTION, self.side, FORWARD]
        return np.eye(ACTIONS, dtype=np.float32)[None, plan[int(rows.episode_step[0])]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="last")
    parser.add_argument("--episodes", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cue, match = probe(open_run(options.run, options.checkpoint), options.episodes)
    print(f"cue {cue:.2f}   match {match:.2f}")


@torch.no_grad()
def probe(run: Run, episodes: int) -> tuple[float, float]:
    """-> (cue, match), as above; raises ValueError for a run of another task."""
    require_memory_task(run.config)
    with evaluation_environments(run.config, run.model.spec, 1) as environments:
        batch = collect_episodes(environments, LooksFirst(0), episodes=episodes, seed=START_SEED)
    assert batch.valid.shape[1] == ROWS and bool(batch.is_terminal[:, -1].all())
    noise = run.model.noise(episodes, ROWS, torch.Generator().manual_seed(0))
    last = State(*(x[:, -1] for x in run.model.filter(batch, noise).states))
    key = (_view(batch)[:, len(TO_THE_CUE)] == KEY).any(-1)
    expected = run.model.decode(last, (REWARD,))[REWARD].mean[..., 0]
    return linear_accuracy(last.deter, key), order(expected, batch.reward[:, -1] > 0)


def require_memory_task(config: Config) -> None:
    """Raise ValueError unless the script fits the task, and the model does not read the reward that it is to expect."""
    env, expected = config.env, read_config("minigrid").env
    same = (env.id, env.wrappers, env.kwargs) == (expected.id, expected.wrappers, expected.kwargs)
    if not same or config.encoder.reward:
        raise ValueError(
            f"RUN: expected env.id {expected.id}, env.wrappers {expected.wrappers}, env.kwargs {expected.kwargs} and"
            f" encoder.reward false, got {env.id}, {env.wrappers}, {env.kwargs} and {config.encoder.reward}"
        )


def _view(batch: Batch) -> Tensor:
    (view,) = batch.obs.values()
    return view[..., :CELLS]  # the objects; the colours follow


def linear_accuracy(x: Float[Tensor, "E W"], is_true: Bool[Tensor, " E"]) -> float:
    """Of a ridge regression on the signs, fitted on the first two thirds: how many signs of the rest it gets right."""
    fitted, sign = 2 * len(x) // 3, is_true.double() * 2 - 1
    x = ((x - x[:fitted].mean(0)) / (x[:fitted].std(0) + 1e-3)).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], -1)
    known = x[:fitted]
    weights = torch.linalg.solve(known.T @ known + RIDGE * torch.eye(x.shape[1]).double(), known.T @ sign[:fitted])
    return ((x[fitted:] @ weights > 0) == is_true[fitted:]).double().mean().item()


def order(score: Float[Tensor, " E"], is_true: Bool[Tensor, " E"]) -> float:
    """How likely a true one has the higher score (the area under the ROC curve)."""
    difference = score[is_true][:, None] - score[~is_true][None]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


if __name__ == "__main__":
    main()
