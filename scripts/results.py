"""Write docs/results.md from finished runs: what was measured, in tables, with the runs' own pictures beside them.

    python scripts/results.py runs/pendulum-... runs/cartpole-...

Every number is read from the runs' folders; the pictures are copied to docs/NAME_*.png.
"""

import argparse
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = {
    "kl_overview": "The KL over time, from every side",
    "bound": "The bound and its terms",
    "open_loop": "Prediction without looking",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    folders = parser.parse_args().runs
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "numpy"))
    parts = [
        "# Results",
        "Written by `scripts/results.py` from the folders of finished runs; one run each, so differences smaller than\n"
        "what another seed would give mean nothing. Held-out episodes are filtered whole from their reset.\n"
        f"Python {platform.python_version()}, {versions}, CPU.",
        *(section(folder) for folder in folders),
    ]
    (DOCS / "results.md").write_text("\n\n".join(parts) + "\n")


def section(folder: Path) -> str:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    heldout = [row for row in rows if "heldout/elbo" in row]
    seconds = [row["update"] / row["rate/updates_per_second"] for row in rows if "rate/updates_per_second" in row][-1]
    name = config["name"]
    parts = [
        f"## {config['env']['id']} (`worldmodel train --config configs/{name}.yaml`)",
        f"{heldout[-1]['update']} updates on {config['training']['env_steps']} rows of a random policy, seed "
        f"{config['seed']}, {seconds:.0f} s of updates and evaluations on one core of a shared machine. Scored on "
        f"{config['evaluation']['episodes']} held-out episodes.",
        bound_table(heldout),
        kl_sentence(heldout[-1], config["rssm"]["stoch"]),
        *(open_loop_table(path) for path in sorted((folder / "lines").glob("open_loop_*.json"))),
        *(picture(folder, name, file, title) for file, title in PICTURES.items()),
    ]
    return "\n\n".join(part for part in parts if part)


def bound_table(heldout: list[dict]) -> str:
    terms = [key for key in heldout[0] if key.startswith("heldout/")]
    lines = [
        "| update | " + " | ".join(term.split("/")[1] for term in terms) + " |",
        "| --- |" + " --- |" * len(terms),
        *(f"| {row['update']} | " + " | ".join(f"{row[term]:.3f}" for term in terms) + " |" for row in heldout),
    ]
    return "Held-out, nats per step:\n\n" + "\n".join(lines)


def kl_sentence(last: dict, groups: int) -> str:
    kl = {key.split("/")[1]: value for key, value in last.items() if key.startswith("heldout_kl/")}
    return (
        f"KL per held-out step: mean {kl['mean']:.3f}, median {kl['median']:.3f}, 95 % quantile {kl['q95']:.3f} nats; "
        f"{kl['share_under_1_nat']:.0%} of the steps are under 1 nat; {kl['active_units']:.0f} of {groups} latent "
        "groups are active."
    )


def open_loop_table(path: Path) -> str:
    errors = {key: np.array(value) for key, value in json.loads(path.read_text()).items()}
    model, repeat, mean = errors["model"], errors["repeat last"], errors["data mean"]
    ahead = sorted({1, len(model) // 4, len(model) // 2, len(model)})
    lines = [
        "| steps ahead | imagined | last row repeated | mean of the data |",
        "| --- | --- | --- | --- |",
        *(f"| {h} | {model[h - 1]:.5f} | {repeat[h - 1]:.4f} | {mean[h - 1]:.4f} |" for h in ahead),
    ]
    verdicts = "; ".join(
        f"than {name}: " + ("yes" if (model < other).all() else f"no, at {np.flatnonzero(model >= other) + 1}")
        for name, other in (("the last row repeated", repeat), ("the data's mean", mean))
    )
    leaf = path.stem.removeprefix("open_loop_")
    return (
        f"Open-loop squared error of `{leaf}` in units of its variance, under the recorded actions:\n\n"
        + "\n".join(lines)
        + f"\n\nBetter at every horizon {verdicts}."
    )


def picture(folder: Path, name: str, file: str, title: str) -> str:
    source = folder / "figures" / f"{file}.png"
    if not source.exists():
        return ""
    target = DOCS / f"{name}_{file}.png"
    shutil.copyfile(source, target)
    return f"![{title}]({target.name})"


if __name__ == "__main__":
    main()
