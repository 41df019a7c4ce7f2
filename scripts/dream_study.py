"""Can an agent that knows nothing of this code learn in a dream what it then does in the world?

    python scripts/dream_study.py runs/cartpole-... runs/cartpole-... --output runs/dream_study
    python scripts/dream_study.py --output runs/dream_study --write     # docs/acting.md, from what is there

PPO of stable-baselines3 learns in the dream of each run and is evaluated in the world at every checkpoint; and the
reverse: PPO that learns in the world is evaluated in each dream. Budgets are fixed, no checkpoint is chosen. Results
are in OUTPUT/results.jsonl, a line a PPO; what is there already is not done again. Needs the extra `sb3`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from docs_blocks import DOCS, add_result, is_done, kept_results, markdown_table, read_results, write_block
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from model_free_study import make as make_plain
from model_free_study import returns
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import worldmodel_envs  # noqa: F401  registers the dream
from worldmodel.data.replay import Replay
from worldmodel.report.charts import name_axes
from worldmodel.report.vocabulary import OPTIMISED, RAW, TRUTH
from worldmodel.runs.folder import stored_data
from worldmodel.runs.run import Run, open_run
from worldmodel_envs.stable_baselines import StableVecEnv

PAGE, BLOCK, FIGURE = "acting.md", "dream", "dream_study.png"
NUMBERS = "dream_study.jsonl"  # every checkpoint behind the page
DREAM, WORLD = "dream", "world"
DEFAULTS = {"horizon": "longest", "from_resets": True}  # of dreams
TARGET = 475.0  # CartPole-v1, where it counts as solved
# stable-baselines3's own settings for CartPole (rl-baselines3-zoo), with four times as many environments. Learning rate
# and clipping fall linearly to zero over the whole budget, as they do there.
SETTINGS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate": lambda left: 1e-3 * left,
    "clip_range": lambda left: 0.2 * left,
    "ent_coef": 0.0,
}
ENVIRONMENTS = 32  # that PPO learns in, side by side
STARTS = 1_000_000  # the seed of the episodes that checkpoints are evaluated on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of trained runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of results.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="of PPO; by default the run's")
    parser.add_argument("--steps", type=int, default=100_000, help="that PPO learns for")
    parser.add_argument("--every", type=int, default=20_000, help="steps between two checkpoints")
    parser.add_argument("--episodes", type=int, default=50, help="that a checkpoint is evaluated on, in each of both")
    parser.add_argument("--learns", nargs="+", choices=(DREAM, WORLD), default=[DREAM, WORLD], help="where PPO learns")
    parser.add_argument("--checkpoint", default=None, help="of the runs: best, last or previous")
    parser.add_argument("--dream", type=json.loads, default={}, metavar="JSON", help="options of dreams, over defaults")
    parser.add_argument("--write", action="store_true", help="write docs/acting.md from what is there, train nothing")
    options = parser.parse_args()
    options.dream = DEFAULTS | options.dream  # what is recorded is what is asked for
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not options.write:
        runs = [open_run(folder, options.checkpoint) for folder in options.runs]
        try:
            for run in runs:  # all, before the first PPO learns
                missing(run, options)
        except ValueError as error:
            parser.error(str(error))
        for run in runs:
            study(run, options)
    rows = read_results(options.output)
    if options.write:
        rows = kept_results(NUMBERS, rows, which)
    if not rows:
        parser.error(f"runs: expected folders of runs, or results in {options.output}; got neither")
    if options.write:
        write_block(PAGE, BLOCK, table(rows))
        draw(rows).savefig(DOCS / FIGURE, dpi=110)
    else:
        print(table(rows))


def missing(run: Run, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is known before they learn of all PPOs of a run that have no result yet.

    Raises:
        ValueError: if one has a result with other checkpoints, of the run or of PPO.
    """
    done = read_results(options.output)
    about = {"model": run.config.name, "model_seed": run.config.seed, "rows": rows_of(run)}
    about |= {"steps": options.steps, "dream": options.dream}
    about["effort"] = {name: getattr(options, name) for name in ("checkpoint", "every", "episodes")}
    seeds = options.seeds or [run.config.seed]
    asked = [{**about, "learns": learns, "seed": seed} for learns in options.learns for seed in seeds]
    return [one for one in asked if not is_done(done, one, which)]


def study(run: Run, options: argparse.Namespace) -> None:
    """Every seed's PPO, learning in both, that is not there yet."""
    for about in missing(run, options):
        found, seconds = learn(run, about["learns"], about["seed"], options)
        add_result(options.output, about | {"checkpoints": found, "cpu_seconds": round(seconds, 1)})


def which(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the results of this study apart; their order is by it."""
    names, dream = ("model", "model_seed", "seed", "steps"), result["dream"]
    others = dream != DEFAULTS  # the default dreams come before all others
    return result["learns"], others, json.dumps(dream, sort_keys=True), *(result[name] for name in names)


def rows_of(run: Run) -> int:
    with Replay.open(stored_data(run.config, run.folder)[0], read_only=True) as replay:
        return len(replay) * replay.streams


class Checkpoints(BaseCallback):
    """Evaluates PPO every so many steps, between two rollouts; it never sees what it is evaluated on."""

    def __init__(self, make: Mapping[str, Any], every: int, words: str) -> None:
        super().__init__()
        self.make, self.every, self.words = make, every, words
        self.found: list[dict[str, Any]] = []
        self.seconds = 0.0  # of CPU that evaluating took

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.found) * self.every:
            self.look()

    def look(self) -> None:
        """The present policy's returns in both, without exploring."""
        began = time.process_time()
        row: dict[str, Any] = {"step": self.num_timesteps}
        for place, make in self.make.items():
            found = returns(self.model, make(), seed=STARTS)
            row[place] = {"mean": float(found.mean()), "least": float(found.min()), "most": float(found.max())}
        self.found.append(row)
        self.seconds += time.process_time() - began
        print(f"{self.words}: {row}", flush=True)


def learn(run: Run, learns: str, seed: int, options: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """PPO's returns in the world and in the dream at every checkpoint, and the CPU seconds that it learned for."""
    make = {WORLD: lambda n: make_worlds(run, n), DREAM: lambda n: make_dreams(run, n, options.dream)}
    evaluated = {place: partial(each, options.episodes) for place, each in make.items()}
    checkpoints = Checkpoints(evaluated, options.every, f"{run.folder.name} learns in the {learns}, seed {seed}")
    envs = StableVecEnv(make[learns](ENVIRONMENTS))
    agent = PPO("MlpPolicy", envs, seed=seed, device="cpu", **SETTINGS)
    began = time.process_time()
    agent.learn(options.steps, callback=checkpoints)
    checkpoints.look()
    envs.close()
    return checkpoints.found, time.process_time() - began - checkpoints.seconds


def make_dreams(run: Run, count: int, settings: dict[str, Any]) -> VectorEnv:
    return gymnasium.make_vec("worldmodel/Dream-v0", count, run=run, spaces="world", **settings)


def make_worlds(run: Run, count: int) -> VectorEnv:
    """The run's environment as it is.

    Raises:
        ValueError: if its observations are not what the run's model sees.
    """
    env = run.config.env
    if env.wrappers or env.hide or env.pixels != "off" or env.action_repeat > 1 or env.time_limit is not None:
        raise ValueError(f"{run.folder}: expected a run of an environment as it is, got one that its settings change")
    return make_plain(env.id, count, **env.kwargs)


def table(results: list[dict[str, Any]]) -> str:
    """A line for each PPO: its returns at all checkpoints, in the world and in the dream."""
    columns = ("PPO learns in the", "model", "its seed", "its rows", "dreams", "PPO's seed")
    columns += ("return in the world, by checkpoint", "least of the last", "return in the dream", "CPU s")
    rows = []
    for one in results:
        found = one["checkpoints"]
        world, dream = (" ".join(f"{row[place]['mean']:.0f}" for row in found) for place in (WORLD, DREAM))
        about = (one["learns"], one["model"], one["model_seed"], f"{one['rows']:,}", words_of(one["dream"]))
        least, seconds = found[-1][WORLD]["least"], one["cpu_seconds"]
        rows.append((*about, one["seed"], world, f"{least:.0f}", dream, f"{seconds:.0f}"))
    return markdown_table(columns, rows)


def words_of(dream: Mapping[str, Any]) -> str:
    if dream == DEFAULTS:
        return "defaults"
    return ", ".join(f"`{name}={value!r}`" for name, value in dream.items())


def draw(results: list[dict[str, Any]]) -> Figure:
    """Returns by step: a column where PPO learned, a row where it is evaluated; a line a PPO, their mean in bold."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        dreams = words_of(one["dream"]).replace("`", "")
        columns.setdefault(f"PPO learns in the {one['learns']}\ndreams: {dreams}", []).append(one)
    figure = Figure(figsize=(4.4 * len(columns), 6.4), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True)  # dreams differ in how long they last
    for column, (title, found) in enumerate(columns.items()):
        for line, (place, colour) in enumerate(((WORLD, RAW), (DREAM, OPTIMISED))):
            axis = axes[line, column]
            curves = [[(row["step"], row[place]["mean"]) for row in one["checkpoints"]] for one in found]
            for curve in curves:
                axis.plot(*zip(*curve, strict=True), color=colour, lw=0.8, alpha=0.45)
            mean = [(at[0][0], statistics.mean(value for _, value in at)) for at in zip(*curves, strict=True)]
            axis.plot(*zip(*mean, strict=True), color=colour, lw=2.2)
            axis.set_ylim(bottom=0)
            name_axes(axis, "steps of PPO" if line else "", "" if column else f"return in the {place}")
        axes[0, column].axhline(TARGET, color=TRUTH, lw=0.8, ls=":")
        axes[0, column].set_title(title)
    return figure


if __name__ == "__main__":
    main()
