"""How well planning does in world models that were learned from random actions alone, without an actor or a critic.

    python scripts/planning_study.py --output runs/planning             # goes on where it stopped
    python scripts/planning_study.py --output runs/planning --write     # the block "planning" of docs/acting.md

The preset `pendulum_random` is trained with each seed; then every planner plays the same 50 episodes, whose starts
neither training nor `worldmodel evaluate` plays. Every return is kept in docs/planning_study.jsonl.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from docs_blocks import add_result, kept_results, read_results, write_block  # beside this file

PAGE, BLOCK, NUMBERS = "acting.md", "planning", "planning_study.jsonl"
PRESET = "pendulum_random"
PLANNERS: dict[str, dict[str, Any]] = {
    "mppi, as the preset has it": {"name": "mppi"},
    "mppi, 25 actions ahead": {"name": "mppi", "horizon": 25},
    "cem": {"name": "cem"},
}
EPISODES, STARTS = 50, 1_000_000
QUIET = {"tracking": "none", "evaluation.particles": 0, "training.evaluate_every": 100_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of results.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--write", action="store_true", help="write docs/acting.md from what is there, train nothing")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.write:
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        done = {one["seed"] for one in read_results(options.output)}
        for seed in options.seeds:
            if seed not in done:
                add_result(options.output, study(seed, options.output))
        return
    if not (found := kept_results(NUMBERS, read_results(options.output), lambda one: one["seed"])):
        parser.error(f"{options.output}: expected results of earlier runs (results.jsonl), found none")
    write_block(PAGE, BLOCK, table(found))


def study(seed: int, output: Path) -> dict[str, Any]:
    """Train with one seed and let every planner act: -> the returns, and the CPU seconds of one action."""
    import torch
    from rich.console import Console

    from worldmodel.runs.session import train
    from worldmodel.training.progress import RunProgress

    torch.set_num_threads(1)
    overrides = {"seed": seed, "runs": str(output / "runs"), "name": f"{PRESET}-{seed}", **QUIET}
    run = train(PRESET, overrides, progress=RunProgress(0, Console(quiet=True)))
    result: dict[str, Any] = {"preset": PRESET, "seed": seed, "planners": {}}
    for name, settings in PLANNERS.items():
        played = run.evaluate_policy(run.policy(**settings), episodes=EPISODES, seed=STARTS)
        result["planners"][name] = {"returns": played.returns.tolist(), "cpu_seconds": played.cpu_seconds}
        print(f"seed {seed}, {name}: {played.returns.mean():.0f}", flush=True)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """A planner in a row, a seed in a column: mean returns."""
    seeds = " | ".join(f"seed {one['seed']}" for one in results)
    lines = [f"| planner | {seeds} | mean | CPU ms an action |"]
    lines.append("| --- |" + " --- |" * (len(results) + 2))
    for name in PLANNERS:
        found = [one["planners"][name] for one in results]
        means = [statistics.mean(one["returns"]) for one in found]
        milliseconds = 1e3 * statistics.median(one["cpu_seconds"] for one in found)
        cells = " | ".join(f"{mean:.0f}" for mean in means)
        lines.append(f"| {name} | {cells} | {statistics.mean(means):.0f} | {milliseconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
