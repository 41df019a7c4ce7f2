"""Train on the environments whose evidence is known, measure the models, and write the table of docs/evidence.md.

    python scripts/evidence_runs.py --output runs/evidence                          # goes on where it was interrupted
    python scripts/evidence_runs.py --output runs/evidence --only hidden_markov --seeds 0
    python scripts/evidence_runs.py --output runs/evidence --write   # docs/evidence.md, and its numbers for a next time

Each run is a `worldmodel train` and a `worldmodel evidence`, in processes with one thread; their CPU seconds are those
that the operating system counts.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from docs_blocks import DOCS, add_result, kept_results, read_results, write_block
from matplotlib.figure import Figure

from worldmodel.build import build_law
from worldmodel.config_io import read_config
from worldmodel.oracles.filtering_gap import innovations, physical
from worldmodel.oracles.worlds import linear_gaussian_model
from worldmodel.report.vocabulary import BASELINE, OPTIMISED, RAW

PRESETS = ("linear_gaussian", "linear_gaussian_smoothing", "hidden_markov", "noisy_pendulum")
PARTICLES = (128, 256)
EPISODES = 128
MEASURED = ("bound_below", "smc_below", "width")
NUMBERS = "evidence_runs.jsonl"  # every run behind the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of results.jsonl")
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="write the table, train nothing")
    options = parser.parse_args()
    if not options.write:
        for seed in options.seeds:
            for preset in options.only:
                if not any((row["preset"], row["seed"]) == (preset, seed) for row in read_results(options.output)):
                    add_result(options.output, measure(preset, seed, options.output))
    results = kept_results(NUMBERS, read_results(options.output), which_run)
    write_block("evidence.md", "worlds", table(results))
    figure(results, DOCS / "evidence.png")


def which_run(result: Mapping[str, Any]) -> tuple[int, int]:
    """What tells the runs of this study apart, in the order of the table."""
    return PRESETS.index(result["preset"]), result["seed"]


def measure(preset: str, seed: int, output: Path) -> dict[str, Any]:
    """Train and measure one run: -> the numbers that the table needs."""
    output.mkdir(parents=True, exist_ok=True)
    folder = output / f"{preset}-{seed}"
    seconds = run("train", "--config", preset, "--seed", str(seed), "--tracking", "none", "--runs", str(folder))
    made = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)  # an interrupted run may lie beside it
    particles = ",".join(map(str, PARTICLES))
    options = ("--particles", particles, "--runs", "1", "--episodes", str(EPISODES), "--context", "0")
    run("evidence", str(made), *options)
    found = json.loads((made / "evidence" / "evidence.json").read_text())
    few, many = found["estimates"]
    return {
        "preset": preset, "seed": seed, "exact": found["exact"][0], "bound_below": many["below_exact"]["elbo"],
        "smc_below": many["below_exact"]["smc"], "width": few["width"], "kl": found["kl"],
        "cpu_seconds": round(seconds),
    }  # fmt: skip


def run(*words: str) -> float:
    """A command of the library: -> the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "worldmodel", *words], check=True, env=one_thread)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(results: list[dict[str, Any]]) -> str:
    """A row a run, and what the seeds of a preset have in common."""
    fewer, most = PARTICLES
    lines = [
        f"| preset | seed | exact | bound below exact | SMC ({most}) below exact | sandwich ({fewer}) | KL | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset in PRESETS:
        rows = [row for row in results if row["preset"] == preset]
        for row in rows:
            cells = [preset, str(row["seed"]), f"{row['exact']:.4f}", *(with_error(row[name]) for name in MEASURED)]
            lines.append(f"| {' | '.join(cells)} | {row['kl']:.2f} | {row['cpu_seconds']} |")
        if len(rows) > 1:
            spread = " | ".join(f"**{over_seeds([row[name][0] for row in rows])}**" for name in MEASURED)
            lines.append(f"| | **mean ± sd** | | {spread} | | |")
    return "\n".join(lines)


def over_seeds(numbers: list[float]) -> str:
    """Mean ± standard deviation between seeds."""
    return with_error([statistics.mean(numbers), statistics.stdev(numbers)])


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Draw what a filtering posterior must lose, in closed form, and the trained models beside it."""
    law = build_law(read_config("linear_gaussian"))
    assert law is not None, "the preset's environment has a law"
    model = linear_gaussian_model(law)
    forms = [innovations(model, share) for share in np.geomspace(1, 0.005, 30).tolist()] + [physical(model)]
    bounds = [form.bound(form.best_filter()) for form in forms]
    drawing = Figure(figsize=(7, 4.2), layout="constrained")
    axes = drawing.subplots()
    law_line = "best filtering posterior, z_t the observation with a share of its noise"
    axes.plot([b.rate for b in bounds[:-1]], [b.gap for b in bounds[:-1]], color=RAW, label=law_line)
    axes.plot(bounds[-1].rate, bounds[-1].gap, "s", color=RAW, label="the same, z_t the physical state")
    for preset, colour, label in (
        ("linear_gaussian", OPTIMISED, "trained, filtering"),
        ("linear_gaussian_smoothing", BASELINE, "trained, smoothing"),
    ):
        rows = [row for row in results if row["preset"] == preset]
        gaps = [row["bound_below"] for row in rows]
        rates = [row["kl"] for row in rows]
        means, errors = [gap[0] for gap in gaps], [gap[1] for gap in gaps]
        axes.errorbar(rates, means, errors, fmt="o", ms=4, color=colour, label=f"{label} ({len(rows)} seeds)")
    axes.set(yscale="log", xlabel="KL(q || p), nats per step", ylabel="bound below the evidence, nats per step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    drawing.savefig(path, dpi=110)


def with_error(estimate: list[float]) -> str:
    return "{:.4f} ± {:.4f}".format(*estimate)


if __name__ == "__main__":
    main()
