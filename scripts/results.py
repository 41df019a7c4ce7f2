"""Write docs/results.md from finished runs: tables of what was measured, and the runs' own pictures.

    python scripts/results.py runs/pendulum-... runs/cartpole-...

Every number is read from the runs' folders; the pictures are copied to docs/, with fewer colours.
"""

import argparse
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from worldmodel.evaluation.evidence import EvidenceReport
from worldmodel.report.tables import doubts

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = {  # file in the run's folder -> what it shows
    "figures/kl_overview.png": "The KL over time, from every side",
    "figures/bound.png": "The bound and its terms",
    "figures/reconstruction_*.png": "Reconstruction over training",
    "evidence/evidence.png": "The bound beside the evidence",
    "imagination/fan_obs.png": "Imagined futures beside what happened",
    "imagination/film_*.png": "Imagined frames beside what happened",
    "imagination/film_*.gif": "The same as a film: truth, imagination, difference",
    "imagination/scores.png": "Scores of imagination by steps ahead",
}
COLOURS = 96  # of a copied picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    folders = parser.parse_args().runs
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "numpy"))
    parts = [
        "# Results",
        "Written by `scripts/results.py` from the folders of finished runs; one run each, so differences smaller than\n"
        "what another seed would give mean nothing. Held-out episodes are filtered whole from their reset.\n"
        f"Python {platform.python_version()}, {versions}, CPU, one thread.",
        *(section(folder) for folder in folders),
    ]
    (DOCS / "results.md").write_text("\n\n".join(parts) + "\n")


def section(folder: Path) -> str:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    heldout = [row for row in rows if "heldout/elbo" in row]
    name = config["name"]
    parts = [
        f"## {config['env']['id']} (`worldmodel train --config {name}`)",
        f"{heldout[-1]['update']} updates on {config['training']['env_steps']} rows of a random policy, seed "
        f"{config['seed']}; {times(rows)}. Scored on {config['evaluation']['episodes']} held-out episodes.",
        bound_table(heldout),
        bits_sentence(heldout),
        kl_sentence(heldout[-1], config["rssm"]["stoch"]),
        *(open_loop_table(path) for path in sorted((folder / "lines").glob("open_loop_*.json"))),
        evidence_table(folder / "evidence" / "evidence.json"),
        score_table(folder / "imagination" / "scores.json"),
        *(picture(path, name, title) for file, title in PICTURES.items() for path in sorted(folder.glob(file))),
    ]
    return "\n\n".join(part for part in parts if part)


def times(rows: list[dict]) -> str:
    """The wall-clock time of the longest stages, from the last metrics that have it."""
    last = [row for row in rows if "seconds/update" in row][-1]
    seconds = {key.split("/")[1]: value for key, value in last.items() if key.startswith("seconds/")}
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{stage} {value:.0f} s" for stage, value in longest)
    return f"{sum(seconds.values()):.0f} s on a shared machine ({listed})"


def bits_sentence(heldout: list[dict]) -> str:
    """Bits per dimension of every image at each evaluation."""
    keys = [key for key in heldout[0] if key.startswith("heldout_bits_per_dimension/")]
    sentences = [
        f"`{key.split('/', 1)[1]}` in bits per dimension: " + ", ".join(f"{row[key]:.3f}" for row in heldout) + "."
        for key in keys
    ]
    return " ".join(sentences)


def evidence_table(path: Path) -> str:
    """Bound, evidence, gap and sandwich by particles; empty if `worldmodel evidence` has not measured the run."""
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    lines = [
        "| particles | ELBO | IWAE | SMC | gap | sandwich | rows with under 2 effective particles |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["estimates"]:
        cells = [f"{one[name][0]:.3f} ± {one[name][1]:.3f}" for name in ("elbo", "iwae", "smc")]
        gap = "in doubt" if one["doubts"] else "{:.3f} ± {:.3f}".format(*one["gap"])
        width = "{:.3g} ± {:.2g}".format(*one["width"])
        lines.append(f"| {one['particles']} | {' | '.join(cells)} | {gap} | {width} | {one['degenerate_rows']:.1%} |")
    ess = np.array([x for x in found["steps"]["ess"] if x is not None])
    about = (
        f"Evidence of {found['episodes']} held-out episodes ({found['rows']} rows), nats per step, errors over "
        f"episodes; particles from {found['proposal']}. With the most particles {ess.mean():.0%} of them are effective "
        f"after a step in the mean, {ess.min():.0%} after the worst."
    )
    reasons = doubts(EvidenceReport.from_json(found).best.certificate)
    in_doubt = "".join(f"\n\nThe gap is in doubt: {reason}." for reason in reasons)
    return about + "\n\n" + "\n".join(lines) + in_doubt


def score_table(path: Path) -> str:
    """Scores of imagination and of both baselines at a few horizons; empty if there are none."""
    if not path.exists():
        return ""
    record = json.loads(path.read_text())
    horizon = record["horizon"]
    ahead = sorted({1, max(1, horizon // 4), max(1, horizon // 2), horizon})
    lines = [
        "| score | method | " + " | ".join(f"{h} ahead" for h in ahead) + " |",
        "| --- | --- |" + " --- |" * len(ahead),
    ]
    for leaf, metrics in record["scores"].items():
        for metric, methods in metrics.items():
            for method, curve in methods.items():
                cells = " | ".join(interval(curve, h - 1) for h in ahead)
                lines.append(f"| {leaf}: {metric.replace('_', ' ')} | {method.replace('_', ' ')} | {cells} |")
    about = (
        f"Imagination after {record['context']} rows, {record['samples']} samples, {record['futures']} futures of "
        f"{record['episodes']} episodes; 90 % intervals over episodes. NLL in nats per step, squared error in units of "
        "the training variance, CRPS in units of std, coverage of the central 90 %."
    )
    folded = "\n".join(lines)
    return f"<details><summary>Scores of imagination by steps ahead</summary>\n\n{about}\n\n{folded}\n\n</details>"


def interval(curve: dict, at: int) -> str:
    low, high = curve["low"][at], curve["high"][at]
    around = "" if low is None else f" [{low:.3g}, {high:.3g}]"
    return f"{curve['mean'][at]:.3g}{around}"


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
        f"Open-loop squared error of `{leaf}` in units of its held-out variance, under the recorded actions:\n\n"
        + "\n".join(lines)
        + f"\n\nBetter at every horizon {verdicts}."
    )


def picture(source: Path, name: str, title: str) -> str:
    """Copy a picture to docs/: -> the Markdown that shows it."""
    target = DOCS / f"{name}_{source.name}"
    if source.suffix == ".png":
        with Image.open(source) as image:
            image.convert("RGB").quantize(COLOURS).save(target, optimize=True)
    else:
        shutil.copyfile(source, target)
    return f"![{title}]({target.name})"


if __name__ == "__main__":
    main()
