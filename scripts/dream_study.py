"""Can an agent that knows nothing of this code learn in a dream what it then does in the world?

    python scripts/dream_study.py runs/cartpole-... runs/cartpole-... --output runs/dream_study
    python scripts/dream_study.py --output runs/dream_study --write     # table and figure from what is there

PPO of stable-baselines3 learns in the dream of each run and is evaluated in the world at every checkpoint; and the
reverse: PPO that learns in the world is evaluated in each dream. Budgets are fixed, no checkpoint is chosen. Results
are in OUTPUT/results.jsonl, a line a checkpoint; what is there already is not done again. Needs the extra `sb3`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from matplotlib.figure import Figure
from model_free_study import make as make_plain  # beside this file
from model_free_study import returns
from stable_baselines3 import PPO

import worldmodel_envs  # noqa: F401  registers the dream
from worldmodel.report.charts import name_axes
from worldmodel.report.vocabulary import OPTIMISED, RAW
from worldmodel.runs.run import Run, open_run
from worldmodel_envs.stable_baselines import StableVecEnv

DREAM, WORLD = "dream", "world"
# stable-baselines3's own settings for CartPole (rl-baselines3-zoo), but a constant learning rate, since no checkpoint
# is to depend on how many come after it, and four times as many environments.
SETTINGS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "ent_coef": 0.0,
}
ENVIRONMENTS = 32  # that PPO learns in, side by side
STARTS = 1_000_000  # the seed of the episodes that checkpoints are evaluated on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of trained runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of results.jsonl, table.md and figure.png")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of PPO")
    parser.add_argument("--steps", type=int, default=100_000, help="that PPO learns for")
    parser.add_argument("--every", type=int, default=10_000, help="steps between two checkpoints")
    parser.add_argument("--episodes", type=int, default=50, help="that a checkpoint is evaluated on, in each of both")
    parser.add_argument("--learns", nargs="+", choices=(DREAM, WORLD), default=[DREAM, WORLD], help="where PPO learns")
    parser.add_argument("--checkpoint", default=None, help="of the runs: best, last or previous")
    parser.add_argument("--horizon", type=int, default=50, help="steps of a dream; 0: until it ends")
    parser.add_argument("--ends", default="sampled", help="of dreams: sampled, likeliest or never")
    parser.add_argument("--observed", default="mean", help="observations of dreams: mean or sample")
    parser.add_argument("--from_resets", action="store_true", help="dreams begin at first rows of episodes only")
    parser.add_argument("--write", action="store_true", help="write the table and the figure, train nothing")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not options.write:
        for run in [open_run(folder, options.checkpoint) for folder in options.runs]:
            study(run, options)
    rows = results(options.output)
    if not rows:
        parser.error(f"runs: expected folders of runs, or results in {options.output}; got neither")
    (options.output / "table.md").write_text(table(rows))
    draw(rows).savefig(options.output / "figure.png", dpi=110)
    print(table(rows))


def study(run: Run, options: argparse.Namespace) -> None:
    """Every seed's PPO, learning in both, whose last checkpoint is not there yet."""
    dream = {"horizon": options.horizon or None, "ends": options.ends, "observed": options.observed}
    dream["from_resets"] = options.from_resets
    done = {(row["run"], row["learns"], row["seed"]) for row in results(options.output) if row["step"] >= options.steps}
    for learns in options.learns:
        for seed in options.seeds:
            if (run.folder.name, learns, seed) in done:
                continue
            about = {"run": run.folder.name, "learns": learns, "seed": seed, "dream": dream}
            lines = [json.dumps(about | row) for row in checkpoints(run, learns, seed, dream, options)]
            with (options.output / "results.jsonl").open("a") as file:  # whole, or not at all
                file.write("".join(f"{line}\n" for line in lines))


def checkpoints(
    run: Run, learns: str, seed: int, dream: dict[str, Any], options: argparse.Namespace
) -> Iterable[dict[str, Any]]:
    """PPO's return in the world and in the dream, by step; it never sees what it is evaluated on."""
    make = {DREAM: lambda n: make_dreams(run, n, dream), WORLD: lambda n: make_worlds(run, n)}
    envs = StableVecEnv(make[learns](ENVIRONMENTS))
    agent = PPO("MlpPolicy", envs, seed=seed, device="cpu", **SETTINGS)
    seconds = 0.0
    for goal in range(0, options.steps + 1, options.every):
        began = time.process_time()
        if goal:
            agent.learn(goal - agent.num_timesteps, reset_num_timesteps=False)
        seconds += time.process_time() - began
        row: dict[str, Any] = {"step": goal, "steps_taken": agent.num_timesteps, "cpu_seconds": seconds}
        for place in (WORLD, DREAM):
            found = returns(agent, make[place](options.episodes), seed=STARTS)
            row[place] = {"mean": float(found.mean()), "least": float(found.min()), "most": float(found.max())}
        print(f"{run.folder.name} learns in the {learns}, seed {seed}: {row}", flush=True)
        yield row
    envs.close()


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


def results(output: Path) -> list[dict[str, Any]]:
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each run, place to learn in and seed: the returns of all checkpoints, in both."""
    lines = ["| run | PPO learns in the | seed | return in the world, by checkpoint | in the dream | CPU seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for (name, learns, seed), found in grouped(rows, "run", "learns", "seed").items():
        world, dream = (" ".join(f"{row[place]['mean']:.0f}" for row in found) for place in (WORLD, DREAM))
        lines.append(f"| {name} | {learns} | {seed} | {world} | {dream} | {found[-1]['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Returns by step: a column where PPO learned, a row where it is evaluated; a line a seed, their mean in bold."""
    columns = grouped(rows, "learns")
    figure = Figure(figsize=(5.2 * len(columns), 6.4), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for column, ((learns,), found) in enumerate(columns.items()):
        for line, (place, colour) in enumerate(((WORLD, RAW), (DREAM, OPTIMISED))):
            axis = axes[line, column]
            for one in grouped(found, "run", "seed").values():
                axis.plot([r["step"] for r in one], [r[place]["mean"] for r in one], color=colour, lw=0.8, alpha=0.45)
            by_step = {step: [r[place]["mean"] for r in some] for (step,), some in grouped(found, "step").items()}
            axis.plot([*by_step], [statistics.mean(x) for x in by_step.values()], color=colour, lw=2.2)
            name_axes(axis, "steps of PPO" if line else "", "" if column else f"return in the {place}")
        axes[0, column].set_title(f"PPO learns in the {learns}")
    return figure


def grouped(rows: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


if __name__ == "__main__":
    main()
