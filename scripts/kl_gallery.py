"""Three short runs on Pendulum-v1 that teach how to read a KL plot: a healthy one, a collapse and an explosion.

    python scripts/kl_gallery.py [--updates 800]          about four minutes; draws docs/kl_gallery.png, prints a table

They differ in one setting, the factor beta of the KL in the loss. The ELBO in the table is the true bound of each.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import worldmodel

ROOT = Path(__file__).resolve().parents[1]
CASES = {"healthy (beta 1)": 1.0, "collapse (beta 100)": 100.0, "explosion (beta 0.001)": 0.001}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    options = parser.parse_args()
    folders = {case: train(case, beta, options.updates, options.runs) for case, beta in CASES.items()}
    draw(folders).savefig(ROOT / "docs" / "kl_gallery.png", dpi=100)
    print("| run | KL, nats per step | 95 % | active groups | ELBO, nats per step | open-loop error at 48 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case, folder in folders.items():
        last = [row for row in metrics(folder) if "heldout/elbo" in row][-1]
        error = json.loads((folder / "lines" / "open_loop_obs.json").read_text())["model"][-1]
        print(
            f"| {case} | {last['heldout/kl']:.3f} | {last['heldout_kl/q95']:.3f} | "
            f"{last['heldout_kl/active_units']:.0f} of 8 | {last['heldout/elbo']:.2f} | {error:.3f} |"
        )


def train(case: str, beta: float, updates: int, runs: Path) -> Path:
    config = worldmodel.read_config("pendulum_random")
    rows = config.replay.batch_size * config.replay.sequence_length
    overrides = {
        "name": "gallery-" + case.split()[0],
        "runs": str(runs),
        "tracking": "none",
        "loss.beta": beta,
        "training.env_steps": config.training.prefill + int(updates * rows / config.training.train_ratio),
        "training.evaluate_every": updates,
    }
    return worldmodel.train("pendulum_random", overrides).folder


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def draw(folders: dict[str, Path]) -> Figure:
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.subplots(2, 3, sharey="row")
    for (top, bottom), (case, folder) in zip(grid.T, folders.items(), strict=True):
        rows = [row for row in metrics(folder) if "kl/mean" in row]
        update = [row["update"] for row in rows]
        for name, style in (("mean", "-"), ("median", ":"), ("q95", "--")):
            top.plot(update, [row[f"kl/{name}"] for row in rows], style, color="#20558a", label=name)
        top.set(title=case, xlabel="updates", yscale="log")
        episode = json.loads((folder / "lines" / "kl_surprise.json").read_text())
        bottom.plot(np.maximum(episode["KL, raw"], 1e-4), color="#20558a", lw=0.9)
        bottom.set(xlabel="step of a held-out episode", yscale="log")
    grid[0, 0].set_ylabel("KL over training, nats per step")
    grid[1, 0].set_ylabel("KL at each step, nats")
    grid[0, 0].legend(frameon=False)
    for axis in grid.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
