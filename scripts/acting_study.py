"""How soon tasks are reached and whether they are held: fixed budgets, every evaluation counted, every seed shown.

    python scripts/acting_study.py --output runs/acting                                   # goes on where it stopped
    python scripts/acting_study.py --output runs/acting --only pendulum --seeds 0 1
    python scripts/acting_study.py --output runs/acting --write    # docs/acting.md and docs/acting_study.jsonl

Every 500 rows the present policy, without exploring, plays 50 episodes from the same starts. CPU seconds are those of
one thread, prefill and training together, without the evaluations. Runs with other settings than the preset's are told
apart by their names: --name and --set.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from docs_blocks import DOCS, kept_results, markdown_table, write_block  # beside this file
from matplotlib.figure import Figure

from worldmodel.report.charts import name_axes
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW, TRUTH

if TYPE_CHECKING:
    from worldmodel.runs.run import Run

PAGE, BLOCK, FIGURE = "acting.md", "study", "acting_study.png"
NUMBERS = "acting_study.jsonl"  # every evaluation behind the page
COLOURS = (RAW, OPTIMISED, BASELINE, "#7a4e9e", "#3d8b5f")  # as many as there are names of settings, or some share one
LABELS = {"preset": "this project"}
PANELS_A_LINE = 3
PROCESSES = 2
STEPS_BETWEEN = 500
OF_STUDY = {
    "training.save_every": 1_000_000,
    "evaluation.acting_episodes": 50,
    "evaluation.episodes": 2,
    "evaluation.particles": 0,
    "evaluation.samples": 1,
    "tracking": "none",
}


class Task(NamedTuple):
    """What is to be reached."""

    target: float  # mean return of an evaluation
    env_steps: int  # rows: where an action is held, several steps of the environment each


TASKS = {
    "cartpole": Task(475.0, 12_000),
    "cartpole_hidden": Task(450.0, 12_000),
    "cartpole_pixels": Task(300.0, 8_000),
    "lunar_lander": Task(100.0, 30_000),
    "minigrid": Task(0.9, 55_000),
    "pendulum": Task(-200.0, 6_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of a JSON file for each")
    parser.add_argument("--only", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--env_steps", type=int, default=None, help="fewer or more than the task's")
    parser.add_argument("--name", default="preset", help="what these settings are called in the table")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings over the preset's")
    parser.add_argument("--write", action="store_true", help="write docs/acting.md from what is there, train nothing")
    options = parser.parse_args()
    if options.write:
        if not (found := kept_results(NUMBERS, read_results(options.output), which_run)):
            parser.error(f"{options.output}: expected results of earlier runs (*.json), found none")
        write_block(PAGE, BLOCK, table(found))
        draw(found).savefig(DOCS / FIGURE, dpi=110)
        return
    settings = dict(one.split("=", 1) for one in options.set)
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    jobs = [
        (preset, seed, options.env_steps or TASKS[preset].env_steps, options.name, settings, options.output)
        for preset in options.only
        for seed in options.seeds
    ]
    waiting = [job for job in jobs if not result_file(*job).exists()]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for line in pool.map(study, *zip(*waiting, strict=True)) if waiting else ():
            print(line, flush=True)


def result_file(preset: str, seed: int, env_steps: int, name: str, settings: Mapping[str, str], output: Path) -> Path:
    return output / f"{preset}-{name}-{env_steps}-seed{seed}.json"


def study(preset: str, seed: int, env_steps: int, name: str, settings: Mapping[str, str], output: Path) -> str:
    """Train with one seed, store every evaluation: -> a line that says how it went."""
    run, evaluations = train_timed(preset, seed, env_steps, name, settings, output)
    if not evaluations or evaluations[-1]["steps"] < env_steps:
        return f"{preset} {name} seed {seed}: stopped before its end, nothing is stored"
    found = {
        "preset": preset,
        "name": name,
        "settings": dict(settings),
        "seed": seed,
        "env_steps": env_steps,
        "action_repeat": run.config.env.action_repeat,
        "target": TASKS[preset].target,
        "run": run.folder.name,
        "evaluations": evaluations,
    }
    result_file(preset, seed, env_steps, name, settings, output).write_text(json.dumps(found, indent=1) + "\n")
    return f"{preset} {name} seed {seed}: " + " ".join(f"{one['return']:.0f}" for one in evaluations)


def train_timed(
    preset: str, seed: int, env_steps: int, name: str, settings: Mapping[str, Any], output: Path
) -> tuple["Run", list[dict[str, float]]]:
    """Train with one seed: -> the run, and every evaluation with the CPU seconds of training until then."""
    import torch
    from rich.console import Console

    from worldmodel.config_io import read_config
    from worldmodel.runs.session import train
    from worldmodel.training.progress import TRAINING, RunProgress

    class Timed(RunProgress):
        """Silent; keeps every evaluation, and the CPU time of everything in training that is none."""

        def __init__(self) -> None:
            super().__init__(env_steps, Console(quiet=True))
            self.evaluations: list[dict[str, float]] = []
            self.beside, self.began = 0.0, 0.0

        @contextmanager
        def phase(self, words: str) -> Iterator[None]:
            now = time.process_time()
            inside = bool(self._phases)
            if words == TRAINING:
                self.began = now
            with super().phase(words):
                yield
            if inside:
                self.beside += time.process_time() - now

        def evaluated(self, scores: Mapping[str, float]) -> None:
            super().evaluated(scores)
            spent = time.process_time() - self.began - self.beside
            self.evaluations.append({"steps": self._rows, "return": scores["return"], "cpu_seconds": round(spent, 1)})

    torch.set_num_threads(1)
    base = read_config(preset)
    rows = base.replay.batch_size * base.replay.sequence_length
    every = round(STEPS_BETWEEN * base.training.train_ratio / rows)
    overrides: dict[str, Any] = OF_STUDY | {"training.evaluate_every": every, "training.env_steps": env_steps}
    overrides |= {"seed": seed, "runs": str(output / "runs"), "name": f"{preset}-{name}-{seed}", **settings}
    progress = Timed()
    run = train(preset, overrides, progress=progress)
    return run, progress.evaluations


def read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def which_run(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the runs of this study apart."""
    return (*(result[key] for key in ("preset", "name", "seed", "env_steps")), json.dumps(result["settings"]))


def reached(evaluations: list[dict[str, float]], target: float) -> float | None:
    """Steps at the first evaluation that reaches the target."""
    return next((one["steps"] for one in evaluations if one["return"] >= target), None)


def for_good(evaluations: list[dict[str, float]], target: float) -> float | None:
    """Steps at the first evaluation from which on all reach the target."""
    good = None
    for one in reversed(evaluations):
        if one["return"] < target:
            break
        good = one["steps"]
    return good


def of_the_environment(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """A run's evaluations, with steps of the environment in place of rows: as many as an action is held, at most."""
    return [{**one, "steps": one["steps"] * result["action_repeat"]} for one in result["evaluations"]]


def table(results: list[dict[str, Any]]) -> str:
    """Every seed in a row."""
    columns = ("task", "settings", "seed", "steps", "target", "reached by", "for good from", "mean of all")
    columns += ("mean of the last five", "least of the last half", "CPU s")
    rows = []
    for one in sorted(results, key=lambda one: (one["preset"], one["name"], one["env_steps"], one["seed"])):
        evaluations, target = of_the_environment(one), one["target"]
        returns = [each["return"] for each in evaluations]
        half = [each["return"] for each in one["evaluations"] if each["steps"] >= one["env_steps"] / 2]
        places = [
            f"{steps:,.0f}" if steps else "never"
            for steps in (reached(evaluations, target), for_good(evaluations, target))
        ]
        about = (f"`{one['preset']}`", one["name"], one["seed"], f"{evaluations[-1]['steps']:,.0f}", f"{target:g}")
        earned = (sum(returns) / len(returns), sum(returns[-5:]) / len(returns[-5:]), min(half))
        decimals = 0 if abs(target) >= 10 else 2
        shown = (f"{number:.{decimals}f}" for number in earned)
        rows.append((*about, *places, *shown, f"{evaluations[-1]['cpu_seconds']:.0f}"))
    return markdown_table(columns, rows)


def draw(results: list[dict[str, Any]]) -> Figure:
    """Returns over steps: a panel a task, a colour the settings, a line a seed, and their median in bold."""
    presets = list(dict.fromkeys(one["preset"] for one in results))
    names = sorted({one["name"] for one in results}, key=lambda name: (name != "preset", name))
    wide = min(len(presets), PANELS_A_LINE)
    lines = math.ceil(len(presets) / wide)
    figure = Figure(figsize=(4.6 * wide, 3.6 * lines), layout="constrained")
    for place, preset in enumerate(presets):
        axis = figure.add_subplot(lines, wide, place + 1)
        for colour, name in zip(itertools.cycle(COLOURS), names, strict=False):
            found = [of_the_environment(one) for one in results if (one["preset"], one["name"]) == (preset, name)]
            curves = [[(each["steps"], each["return"]) for each in evaluations] for evaluations in found]
            for curve in curves:
                axis.plot(*zip(*curve, strict=True), color=colour, lw=0.8, alpha=0.45)
            if curves:
                middle = [(steps[0][0], statistics.median(r for _, r in steps)) for steps in zip(*curves, strict=False)]
                axis.plot(*zip(*middle, strict=True), color=colour, lw=2.2, label=LABELS.get(name, name))
        axis.axhline(TASKS[preset].target, color=TRUTH, lw=0.8, ls=":")
        axis.set_title(preset)
        axis.legend(frameon=False, fontsize="small")
        name_axes(axis, "environment steps", "mean return of 50 episodes" if place % wide == 0 else "")
    return figure


if __name__ == "__main__":
    main()
