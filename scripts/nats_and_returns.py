"""What the usual tricks buy an actor: nats of its world model, steps until it has learned the task, and CPU time.

    python scripts/nats_and_returns.py --output runs/nats               # 80 runs; goes on where it stopped
    python scripts/nats_and_returns.py --output runs/nats --only pendulum --seeds 0
    python scripts/nats_and_returns.py --output runs/nats --write       # docs/tricks.md and docs/nats_and_returns.jsonl

Every combination of: the std of the likelihoods learned or fixed (to the standard deviation of the prefill); the bound
as the loss, or 1 free nat and KL balancing of 1 and 0.1; Gaussian latents, or 16 of 16 classes. Everything else is the
acting preset, in which the actor's gradient is pathwise only for continuous actions and Gaussian latents; but it is the
actor itself that plays, not a slow one. Budgets are fixed and every seed counts. Each run is judged at its end by ten
episodes of its own actor and ten random ones: the bound and an estimate of the evidence by SMC, both of the first 100
rows of each, and the critic's forecast. Of every evaluation the number of its 50 episodes that ended, and how many ends
the model expected, are in docs/acting.md; the forecasts are kept too.
"""

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from acting_study import TASKS, for_good, reached, read_results, result_file, train_timed  # beside this file
from docs_blocks import kept_results, markdown_table, write_block

PAGE, BLOCK, PROCESSES = "tricks.md", "nats and returns", 2
VALLEY_PAGE, VALLEY_BLOCK, ENDING_TASK = "acting.md", "valley", "cartpole"
EARLY = 1500  # steps of the environment, two evaluations
NUMBERS = "nats_and_returns.jsonl"  # every run behind the page
BUDGETS = {"cartpole": 5000, "pendulum": 3000}
STD = {"learned": {}, "fixed": {"decoder.std": "fixed"}}
LOSS = {"bound": {}, "tricks": {"loss.dyn": 1.0, "loss.rep": 0.1, "loss.free_nats": 1.0}}
LATENT = {"Gaussian": {}, "classes": {"rssm.latent": "categorical", "rssm.stoch": 16, "rssm.classes": 16}}
EPISODES = 10
ROUGH = {"particles": 64, "sequences": EPISODES, "rows": 100, "seed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of a JSON file for each")
    parser.add_argument("--only", nargs="+", choices=sorted(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--write", action="store_true", help="write docs/tricks.md from what is there, train nothing")
    options = parser.parse_args()
    if options.write:
        if not (found := kept_results(NUMBERS, read_results(options.output), which_run)):
            parser.error(f"{options.output}: expected results of earlier runs (*.json), found none")
        write_block(PAGE, BLOCK, tables(found))
        write_block(VALLEY_PAGE, VALLEY_BLOCK, valley(found))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    jobs = [
        (preset, cell, seed, options.output)
        for seed in options.seeds  # a whole design a seed, so that what is there is balanced
        for preset in options.only
        for cell in itertools.product(STD, LOSS, LATENT)
        if not _file(preset, cell, seed, options.output).exists()
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for line in pool.map(study, *zip(*jobs, strict=True)) if jobs else ():
            print(line, flush=True)


def study(preset: str, cell: tuple[str, str, str], seed: int, output: Path) -> str:
    """Train with one seed and judge what came of it: -> a line that says how it went."""
    std, loss, latent = cell
    settings: dict[str, Any] = {"actor.slow_rate": None} | STD[std] | LOSS[loss] | LATENT[latent]
    run, evaluations = train_timed(preset, seed, BUDGETS[preset], "-".join(cell), settings, output)
    evaluations = [one | two for one, two in zip(evaluations, ends(run.folder), strict=True)]
    found = {"preset": preset, "cell": cell, "seed": seed, "evaluations": evaluations, **judged(run)}
    _file(preset, cell, seed, output).write_text(json.dumps(found, indent=1) + "\n")
    return f"{preset} {' '.join(cell)} seed {seed}: " + " ".join(f"{one['return']:.0f}" for one in evaluations)


def ends(folder: Path) -> list[dict[str, float]]:
    """Of every evaluation of a run: the episodes that ended, how many ends its model expected, and the forecast."""
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "acting/return" in row:
            bins = [name.rpartition("/")[0] for name in row if name.startswith("acting_ending/") and "steps" in name]
            came, expected = (
                sum(row[f"{one}/steps"] * row[f"{one}/{what}"] for one in bins) for what in ("happened", "predicted")
            )
            forecast = round(row["acting/predicted_return"], 1)
            found.append({"ends": round(came), "ends_expected": round(expected, 1), "forecast": forecast})
    return found


def judged(run: Any) -> dict[str, float]:
    """The last weights of a run on its actor's episodes and on the random ones, in nats per step; and the forecast."""
    from worldmodel.data.batches import trimmed
    from worldmodel.evaluation.evidence import rough_evidence
    from worldmodel.evaluation.own_episodes import collect_episodes, judge
    from worldmodel.runs.environments import evaluation_environments
    from worldmodel.runs.run import open_run

    run = open_run(run.folder, "last")
    with evaluation_environments(run.config, run.model.spec, EPISODES) as environments:
        own, random = (
            trimmed(collect_episodes(environments, run.policy(name), episodes=EPISODES, seed=1))
            for name in ("actor", "random")
        )
    discount = run.config.behaviour.discount
    calibration = judge(run.model, own, seed=0, value=run.agent.value, discount=discount).calibration
    assert calibration is not None
    numbers = {"forecast": calibration.predicted.mean().item(), "came": calibration.real.mean().item()}
    for name, episodes in (("own", own), ("random", random)):
        rough = rough_evidence(run.model, episodes, **ROUGH)  # both of the same rows
        numbers |= {f"{name}/bound": rough.elbo, f"{name}/evidence": rough.smc}
    return numbers


def which_run(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the runs of this study apart."""
    return (result["preset"], *result["cell"], result["seed"])


def tables(results: Iterable[Mapping[str, Any]]) -> str:
    """A table a task, a row a combination: means over seeds."""
    results = list(results)
    columns = ("std", "loss", "latents", "seeds", "bound, own", "evidence, own", "bound, random", "evidence, random")
    columns += ("mean of all returns", "reached by", "held to the end", "forecast - came", "CPU s")
    parts = []
    for preset in dict.fromkeys(one["preset"] for one in results):
        rows = []
        for cell in itertools.product(STD, LOSS, LATENT):
            found = [one for one in results if one["preset"] == preset and tuple(one["cell"]) == cell]
            if found:
                rows.append((*cell, *row(found, TASKS[preset].target)))
        parts.append(f"`{preset}`, {BUDGETS[preset]:,} steps:\n\n{markdown_table(columns, rows)}")
    return "\n\n".join(parts)


def valley(results: Iterable[Mapping[str, Any]]) -> str:
    """Ends that came and were expected, summed over evaluations: first ones, later ones below the target, others."""
    target, results = TASKS[ENDING_TASK].target, [one for one in results if one["preset"] == ENDING_TASK]
    phases = {
        f"evaluations to {EARLY:,} steps": lambda one: one["steps"] <= EARLY,
        f"later, below {target:g}": lambda one: one["steps"] > EARLY and one["return"] < target,
        f"later, {target:g} and more": lambda one: one["steps"] > EARLY and one["return"] >= target,
    }
    rows = []
    for cell in itertools.product(STD, LOSS, LATENT):
        cells = list[str]()
        for belongs in phases.values():
            found = [e for one in results if tuple(one["cell"]) == cell for e in one["evaluations"] if belongs(e)]
            came, expected = (sum(one[name] for one in found) for name in ("ends", "ends_expected"))
            cells += [str(len(found)), f"{came}, {expected:.0f}"] if found else ["0", ""]
        rows.append((*cell, *cells))
    columns = [name for phase in phases for name in (phase, "ends: came, expected")]
    return markdown_table(("std", "loss", "latents", *columns), rows)


def row(found: list[Mapping[str, Any]], target: float) -> Iterable[str]:
    yield str(len(found))
    for name in ("own/bound", "own/evidence", "random/bound", "random/evidence"):
        yield _spread([one[name] for one in found], 2)
    yield _spread([statistics.mean(each["return"] for each in one["evaluations"]) for one in found], 0)
    steps = [reached(one["evaluations"], target) for one in found]
    there = sorted(step for step in steps if step is not None)
    yield f"{len(there)} of {len(found)}" + (f": {there[0]:,.0f} to {there[-1]:,.0f}" if there else "")
    yield f"{sum(for_good(one['evaluations'], target) is not None for one in found)} of {len(found)}"
    yield _spread([one["forecast"] - one["came"] for one in found], 1)
    yield f"{statistics.mean(one['evaluations'][-1]['cpu_seconds'] for one in found):.0f}"


def _spread(numbers: list[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{deviation}"


def _file(preset: str, cell: tuple[str, str, str], seed: int, output: Path) -> Path:
    return result_file(preset, seed, BUDGETS[preset], "-".join(cell), {}, output)


if __name__ == "__main__":
    main()
