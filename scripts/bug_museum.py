"""A museum of bugs: mistakes with fine losses, what exact evidence shows of each, and the tables of docs/bugs.md.

    python scripts/bug_museum.py --output runs/museum                      # goes on where it was interrupted
    python scripts/bug_museum.py --output runs/museum --bugs actions_late --seeds 0
    python scripts/bug_museum.py --output runs/museum --write              # docs/bugs.md from stored results

Each bug is a few lines (scripts/museum/bugs.py) over a world whose evidence is known. A sound run and one with the bug
learn from the same rows in the same order; both are scored on the same held-out episodes.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the parts are found when this file is run by its path

from scripts.docs_blocks import DOCS, add_result, kept_results, read_results, write_block  # noqa: E402
from scripts.museum import page  # noqa: E402
from scripts.museum.bugs import Bug  # noqa: E402
from scripts.museum.catalogue import EXHIBITS, Exhibit  # noqa: E402
from scripts.museum.measuring import compared, exact, reported, worth  # noqa: E402
from scripts.museum.training import WORLDS, Run, law_of, rows_of, settings, train  # noqa: E402
from worldmodel.build import build_objective  # noqa: E402
from worldmodel.evidence.estimate import per_step  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the rows and of results.jsonl")
    parser.add_argument("--bugs", nargs="+", choices=list(EXHIBITS), default=list(EXHIBITS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--write", action="store_true", help="write docs/bugs.md and its figure, train nothing")
    options = parser.parse_args()
    if options.write:
        found = [one for one in read_results(options.output) if one["updates"] == options.updates]
        if not found:
            parser.error(f"{options.output}: expected results.jsonl with runs of {options.updates} updates, found none")
        write_page(found)
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    for seed, world in itertools.product(options.seeds, WORLDS):
        done = {(one["bug"], one["seed"], one["updates"]) for one in read_results(options.output)}
        shown = [name for name in options.bugs if EXHIBITS[name].world == world]
        if missing := [name for name in shown if (name, seed, options.updates) not in done]:
            show(world, missing, seed, options.updates, options.output)


def show(world: str, names: list[str], seed: int, updates: int, folder: Path) -> None:
    """Train a world's sound run, then measure its exhibits one by one; each is stored when it is done."""
    began = time.process_time()
    config, law = settings(world, seed, updates), law_of(world)
    replay, heldout = rows_of(world, seed, folder)
    truth = exact(law, heldout)
    only_reported = {name: EXHIBITS[name].bug for name in names if not EXHIBITS[name].trained}
    sound = train(config, replay, heldout, Bug(), {"heldout": Bug(), **only_reported})
    objective = build_objective(config.loss, sound.model.spec).at(updates)
    sound_claims, sound_worth = (
        reported(sound.model, Bug(), heldout, objective, seed),
        worth(sound.model, heldout, seed),
    )
    of_sound = time.process_time() - began
    for name in names:
        began, exhibit = time.process_time(), EXHIBITS[name]
        run = sound if not exhibit.trained else _with_bug(exhibit, world, seed, updates, folder)
        claims = reported(run.model, exhibit.bug, heldout, objective, seed)
        own = worth(run.model, heldout, seed) if exhibit.trained else sound_worth
        found = compared(claims, own, sound_claims, sound_worth, truth, heldout.valid)
        result = {
            "bug": name, "seed": seed, "updates": updates, "episodes": len(heldout.valid),
            "cpu_seconds": round(of_sound + time.process_time() - began, 1),
            "exact": per_step(truth.sum(1), heldout.valid.sum(1)).mean, **found,
            "sound": _curves(sound, "heldout"), "curves": _curves(run, "heldout" if exhibit.trained else name),
        }  # fmt: skip
        add_result(folder, result)
        print(name, seed, result["cpu_seconds"], {key: [round(x, 4) for x in value] for key, value in found.items()})
    replay.close()


def _with_bug(exhibit: Exhibit, world: str, seed: int, updates: int, folder: Path) -> Run:
    replay, heldout = rows_of(world, seed, folder)
    with replay:
        config = settings(world, seed + exhibit.other_seed, updates)
        return train(config, replay, heldout, exhibit.bug, {"heldout": exhibit.bug})


def _curves(run: Run, heldout: str) -> dict[str, list[float]]:
    names = {"update": "update", "train": "train", "heldout": heldout}
    return {name: [round(x, 4) for x in run.curves[column]] for name, column in names.items()}


def write_page(results: list[dict[str, Any]]) -> None:
    """Put tables and figure into docs/bugs.md, and the results, a line an exhibit, into docs/bugs.jsonl."""
    found = kept_results("bugs.jsonl", exhibits_of(results), lambda one: one["bug"])
    ordered = sorted(found, key=lambda one: list(EXHIBITS).index(one["bug"]))
    page.figure(ordered, DOCS / "bugs.png")
    write_block("bugs.md", "museum", page.tables(ordered))
    write_block("bugs.md", "sources", page.sources())


def exhibits_of(results: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """A line for each exhibit: what was measured on every seed, and the curves of the first."""
    lines = []
    for name in EXHIBITS:
        runs = sorted((one for one in results if one["bug"] == name), key=lambda one: one["seed"])
        if runs:
            same = {key: runs[0][key] for key in ("bug", "updates", "episodes", "exact", "sound", "curves")}
            numbers = [{key: value for key, value in run.items() if key not in same} for run in runs]
            lines.append(same | {"runs": numbers})
    return lines


if __name__ == "__main__":
    main()
