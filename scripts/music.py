"""Polyphonic music, the table that sequential latent-variable models have been compared on since 2012.

    python scripts/music.py --data FOLDER --output runs/music                    # goes on where it was interrupted
    python scripts/music.py --data FOLDER --output runs/music --models hmm-64    # some models; --list names them
    python scripts/music.py --data FOLDER --output runs/music --music muse --cut 100 --pieces 64 --epochs 8   # cheaper
    python scripts/music.py --data FOLDER --output runs/music --write            # docs/music.md, film strip, MIDI files

FOLDER holds the .mat files of piano rolls (see docs/music.md). Settings were chosen on the validation part; the test
part is scored once, at the end of a run. Every result is kept in docs/music.jsonl. Needs scipy (extra `bench`).
"""

import argparse
import itertools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file, save_file

from scripts.docs_blocks import DOCS, add_result, is_done, kept_results, read_results
from scripts.polyphony import baselines, page, scores
from scripts.polyphony.midi import draw_strip, write_midi
from scripts.polyphony.models import Recipe, train
from scripts.polyphony.recipes import HMM_STATES, INDEPENDENT, MAIN, RECIPES
from scripts.polyphony.rolls import FILES, PARTS, Music, Roll, as_episodes, cut, first, read_music, steps
from worldmodel import build_networks
from worldmodel.checks import require
from worldmodel.models.world_model import WorldModel

NUMBERS = "music.jsonl"
SCORED = {"train": 2_400, "valid": 5_000}  # steps of a part, at most: its first pieces; of the test part, all
SIMULATED = 5_000  # steps of the test part, at most: its first pieces have a simulated one each for the sandwich
LEAST = {"cut": 3}  # least values of an effort, 1 where none is here; the parts of shorter cuts could be single steps
IMAGINED = 4  # pieces in the film strip, and as MIDI files


@dataclass(frozen=True)
class Effort:
    """What a run may cost, where that is not the recipe's."""

    cut: int | None = None
    """Longest piece to learn from, and to choose the epoch with, in steps; longer ones are cut, and every cut begins
    without a past. The pieces that are scored are whole."""
    pieces: int | None = None
    """Pieces, or cuts, in a batch; null: the recipe's."""
    epochs: int | None = None
    """Passes over the training part; null: the recipe's."""
    iterations: int = 60
    """Iterations of EM, at most."""
    particles: int = 64
    """Particles, and samples of IWAE."""
    runs: int = 2
    """Independent repetitions of every estimate on the test part; the other parts have one."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            least, got = LEAST.get(name, 1), getattr(self, name)
            require(got is None or got >= least, f"--{name}", f"at least {least}", got)

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with this effort."""
        own = {name: getattr(self, name) for name in ("pieces", "epochs")}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})

    def of(self, name: str) -> dict[str, int | None]:
        """What a run of a model takes of it, with the recipe's numbers where it has none."""
        if name == INDEPENDENT:
            return {}
        if name not in RECIPES:
            return {"iterations": self.iterations}
        recipe = self.recipe(RECIPES[name])
        cost = {"cut": self.cut, "pieces": recipe.pieces, "epochs": recipe.epochs}
        return cost | {"particles": self.particles, "runs": self.runs}

    def learned_from(self, music: Music) -> Music:
        """The parts as they are in training."""
        if self.cut is None:
            return music
        return music._replace(train=cut(music.train, self.cut), valid=cut(music.valid, self.cut))


def main() -> None:
    options = parsed()
    if options.list:
        print("\n".join(f"{name}: {recipe.words}" for name, recipe in RECIPES.items()))
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.write:
        write(options.data, options.output)
        return
    try:
        effort = Effort(**{name: getattr(options, name) for name in Effort.__dataclass_fields__})
        wanted = missing(options, effort)
    except ValueError as error:
        sys.exit(f"music.py: {error}")
    for which, runs in wanted.items():
        music = read_music(options.data, which)
        for seed, name in runs:
            add_result(options.output, study(which, music, name, seed, options.output, effort))


def missing(options: argparse.Namespace, effort: Effort) -> dict[str, list[tuple[int, str]]]:
    """The runs that are asked for and have no result yet, seeds and models by data set.

    Raises:
        ValueError: if one has a result with another effort.
    """
    results, found = read_results(options.output), dict[str, list[tuple[int, str]]]()
    for which, seed, name in itertools.product(options.music, options.seeds, options.models):
        asked = {"music": which, "model": name, "seed": seed, "effort": effort.of(name)}
        if not is_done(results, asked, run_of):
            found.setdefault(which, []).append((seed, name))
    return found


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .mat files")
    parser.add_argument("--output", type=Path, required=True, help="folder of weights and of results.jsonl")
    parser.add_argument("--models", nargs="+", choices=sorted(names()), default=names(), metavar="MODEL")
    parser.add_argument("--music", nargs="+", choices=list(FILES), default=["jsb"], help="data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cut", type=int, help="longest piece to learn from, in steps; longer ones are cut")
    parser.add_argument("--pieces", type=int, help="pieces, or cuts, in a batch, instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="passes over the training part, instead of the recipe's")
    parser.add_argument("--iterations", type=int, default=Effort.iterations, help="of EM, at most")
    parser.add_argument("--particles", type=int, default=Effort.particles, help="of SMC, and samples of IWAE")
    parser.add_argument("--runs", type=int, default=Effort.runs, help="repetitions of the estimates on the test part")
    parser.add_argument("--list", action="store_true", help="name the models, and train nothing")
    parser.add_argument("--write", action="store_true", help="write docs/music.md from what is there, train nothing")
    return parser.parse_args()


def names() -> list[str]:
    """Every model that can be run."""
    return [INDEPENDENT, *(f"hmm-{states}" for states in HMM_STATES), *RECIPES]


def run_of(result: Mapping[str, Any]) -> tuple[str, str, int]:
    """Which run a result is of."""
    return result["music"], result["model"], result["seed"]


def study(which: str, music: Music, name: str, seed: int, output: Path, effort: Effort) -> dict[str, Any]:
    """Train and score one model: -> everything that is kept of it."""
    began = time.process_time()
    if name in RECIPES:
        found = _world_model(which, music, name, seed, output, effort)
    else:
        found = _exact(music, name, seed, effort.iterations)
    seconds = time.process_time() - began
    result = {"music": which, "model": name, "seed": seed, "effort": effort.of(name)}
    result |= {"cpu_seconds": round(seconds, 1), **found}
    print({key: value for key, value in result.items() if key != "curve"}, flush=True)
    return result


def _exact(music: Music, name: str, seed: int, iterations: int) -> dict[str, Any]:
    """A model whose evidence is exact, in nats per step and per piece."""
    began = time.process_time()
    epoch = None
    if name == INDEPENDENT:
        evidence = [baselines.independent_notes(music.train, rolls) for rolls in music]
    else:
        states = int(name.removeprefix("hmm-"))
        model, epoch = baselines.fit(music.train, music.valid, states, seed, iterations)
        evidence = [model.log_evidence(rolls) for rolls in music]
    parts = {
        part: {
            "exact": round(float(one.sum()) / steps(rolls), 5),
            "exact_per_piece": round(float(one.mean()), 3),
            "pieces": len(rolls),
            "steps": steps(rolls),
        }
        for part, one, rolls in zip(PARTS, evidence, music, strict=True)
    }
    return {"train_seconds": round(time.process_time() - began, 1), "epoch": epoch, "parts": parts}


def _world_model(which: str, music: Music, name: str, seed: int, output: Path, effort: Effort) -> dict[str, Any]:
    recipe = effort.recipe(RECIPES[name])
    began = time.process_time()
    trained = train(
        recipe,
        effort.learned_from(music),
        seed,
        log=lambda words: print(f"{which} {name} {seed}: {words}", flush=True),
    )
    train_seconds = time.process_time() - began
    save_file(trained.model.state_dict(), output / f"{which}-{name}-{seed}.safetensors")
    return {
        "train_seconds": round(train_seconds, 1),
        "epoch": trained.epoch,
        "curve": [[epoch, round(bound, 4), round(kl, 4)] for epoch, bound, kl in trained.curve],
        "parts": _scored(trained.model, recipe.reads_past, music, seed, effort),
    }


def _scored(model: WorldModel, reads_past: bool, music: Music, seed: int, effort: Effort) -> dict[str, Any]:
    """Bound and estimates on whole pieces of every part, and the sandwich."""
    settings: dict[str, Any] = {
        "reads_past": reads_past,
        "particles": effort.particles,
        "generator": torch.Generator().manual_seed(seed),
    }
    scored = {
        part: scores.score(model, first(rolls, SCORED[part]), runs=1, **settings)
        for part, rolls in zip(PARTS, music, strict=True)
        if part in SCORED
    }
    scored["test"] = scores.score(model, music.test, runs=effort.runs, **settings)
    scored["test"] |= scores.width(model, first(music.test, SIMULATED), **settings)
    return scored


def write(data: Path, output: Path) -> None:
    """Put tables, film strip and MIDI files into docs/, from what earlier runs left."""
    results = kept_results(NUMBERS, read_results(output), run_of)
    page.write_tables(results, {name: recipe.words for name, recipe in RECIPES.items()})
    weights = output / f"jsb-{MAIN}-0.safetensors"
    if weights.is_file():
        music = read_music(data, "jsb")
        imagined = imagine(weights, music.test)
        strip = {"Bach, from the test part": music.test[0]}
        strip |= {f"imagined, {k + 1}": roll for k, roll in enumerate(imagined)}
        draw_strip(DOCS / "music.png", strip)
        for k, roll in enumerate(imagined):
            write_midi(DOCS / f"music_{k + 1}.mid", roll)


def imagine(weights: Path, rolls: list[Roll]) -> list[Roll]:
    """Pieces of the main model's own, as long as the first of these."""
    recipe, template = RECIPES[MAIN], rolls[:IMAGINED]
    spec = as_episodes(template, reads_past=recipe.reads_past).spec
    model = build_networks.build_model(recipe.config(0, 1), spec)
    model.load_state_dict(load_file(weights))
    generator = torch.Generator().manual_seed(0)
    return scores.imagine(model.eval(), template, reads_past=recipe.reads_past, generator=generator)


if __name__ == "__main__":
    main()
