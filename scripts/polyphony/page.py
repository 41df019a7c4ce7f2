"""The tables of docs/music.md, from the results that are kept in docs/music.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.docs_blocks import write_block
from scripts.polyphony.recipes import INDEPENDENT
from scripts.polyphony.rolls import PARTS

PAGE = "music.md"
Result = Mapping[str, Any]
TITLES = {"jsb": "JSB chorales", "nottingham": "Nottingham", "piano": "Piano-midi.de", "muse": "MuseData"}


def write_tables(results: Sequence[Result], words: Mapping[str, str]) -> None:
    """Replace the blocks of the page that are made of numbers."""
    chorales = [one for one in results if one["music"] == "jsb"]
    write_block(PAGE, "exact", exact_table([one for one in chorales if one["model"] not in words]))
    models = [one for name in words for one in chorales if one["model"] == name]
    write_block(PAGE, "models", models_table(models, words))
    write_block(PAGE, "gaps", gaps_table(models, words))
    others = [one for one in results if one["music"] != "jsb"]
    write_block(PAGE, "others", others_table(others, words) if others else "None was run yet.")


def exact_table(results: Sequence[Result]) -> str:
    """Models whose evidence is exact: a run in a row."""
    lines = ["| model | seed | train | valid | test | test, per piece | EM iterations | CPU s |", "|" + " --- |" * 8]
    for one in sorted(results, key=lambda one: one["parts"]["train"]["exact"]):
        parts = one["parts"]
        cells = " | ".join(f"{parts[part]['exact']:.3f}" for part in ("train", "valid", "test"))
        per_piece, seconds = parts["test"]["exact_per_piece"], one["train_seconds"]
        lines.append(
            f"| {_exact_words(one['model'])} | {one['seed']} | {cells} | {per_piece:.1f} | {one['epoch'] or ''} | "
            f"{seconds:.0f} |"
        )
    return "\n".join(lines)


def models_table(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """Evidence of world models on all parts: a run in a row."""
    lines = [
        "| model | seed | train: ELBO | SMC | valid: ELBO | SMC | test: ELBO | IWAE | **SMC** | sandwich | epoch | "
        "CPU s |",
        "|" + " --- |" * 12,
    ]
    for one in results:
        train, valid, test = (one["parts"][part] for part in ("train", "valid", "test"))
        lines.append(
            f"| {words[one['model']]} | {one['seed']} | {train['elbo'][0]:.3f} | {train['smc'][0]:.3f} | "
            f"{valid['elbo'][0]:.3f} | {valid['smc'][0]:.3f} | {test['elbo'][0]:.3f} | {test['iwae'][0]:.3f} | "
            f"**{test['smc'][0]:.3f}** ± {test['smc'][1]:.3f} | {test['width'][0]:.4f} ± {test['width'][1]:.4f} | "
            f"{one['epoch']} | {one['train_seconds']:.0f} |"
        )
    particles = sorted({one["parts"]["test"]["particles"] for one in results})
    lines += ["", f"{'/'.join(map(str, particles))} particles, or samples of IWAE."]
    return "\n".join(lines)


def gaps_table(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """What the latents carry, and what the bound loses, on the test part."""
    lines = [
        "| model | seed | KL of the bound | what a step tells | gap | ELBO, per piece | SMC, per piece |",
        "|" + " --- |" * 7,
    ]
    for one in results:
        test = one["parts"]["test"]
        lines.append(
            f"| {words[one['model']]} | {one['seed']} | {test['kl']:.3f} | {test['information']:.3f} | "
            f"{test['gap'][0]:.3f} ± {test['gap'][1]:.3f} | {test['elbo_per_piece']:.1f} | "
            f"{test['smc_per_piece']:.1f} |"
        )
    return "\n".join(lines)


def others_table(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """The other data sets: a run in a row; parts have the exact evidence, or SMC."""
    lines = [
        "| music | model | seed | train | valid | **test** | test: ELBO | sandwich | learned from | CPU s |",
        "|" + " --- |" * 10,
    ]
    order = list(TITLES)
    for one in sorted(results, key=lambda one: (order.index(one["music"]), one["model"] in words, _train(one))):
        name = words.get(one["model"]) or _exact_words(one["model"])
        numbers = _scored_cells(one) if "smc" in one["parts"]["test"] else _exact_cells(one)
        cells = " | ".join([TITLES[one["music"]], name, str(one["seed"]), *numbers])
        lines.append(f"| {cells} | {one['train_seconds']:.0f} |")
    return "\n".join(lines)


def _exact_cells(result: Result) -> list[str]:
    """Train, valid, test, and what a model with exact evidence was learned by; it has neither bound nor sandwich."""
    learned = "" if result["epoch"] is None else f"{result['epoch']} iterations of EM"
    return [*(f"{result['parts'][part]['exact']:.3f}" for part in PARTS), "", "", learned]


def _scored_cells(result: Result) -> list[str]:
    """The same of a world model, with its bound and its sandwich."""
    train, valid, test = (result["parts"][part] for part in PARTS)
    effort = result["effort"]
    batch = "whole pieces" if effort["cut"] is None else f"cuts of {effort['cut']} steps"
    return [
        f"{train['smc'][0]:.3f}",
        f"{valid['smc'][0]:.3f}",
        f"**{test['smc'][0]:.3f}** ± {test['smc'][1]:.3f}",
        f"{test['elbo'][0]:.3f}",
        f"{test['width'][0]:.4f} ± {test['width'][1]:.4f}",
        f"{result['epoch']} of {effort['epochs']} passes, {effort['pieces']} {batch} at once",
    ]


def _train(result: Result) -> float:
    """Exact evidence of the training part, or SMC's."""
    part = result["parts"]["train"]
    return part["exact"] if "exact" in part else part["smc"][0]


def _exact_words(model: str) -> str:
    return "independent notes" if model == INDEPENDENT else f"HMM, {model.removeprefix('hmm-')} states"
