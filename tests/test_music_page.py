"""The tables of docs/music.md: every number in its column, every run in its block, and the page as its results say."""

import json
import re
from pathlib import Path

from scripts import docs_blocks, music
from scripts.polyphony import page, rolls
from scripts.polyphony.recipes import RECIPES

ROOT = Path(__file__).parents[1]


def exact_result(model, train_, valid, test, **rest):
    parts = {
        part: {"exact": value, "exact_per_piece": 10 * value}
        for part, value in zip(rolls.PARTS, (train_, valid, test), strict=True)
    }
    return {"music": "jsb", "model": model, "seed": 3, "epoch": None, "train_seconds": 4.4, "parts": parts, **rest}


def scored(elbo, iwae, smc):
    return {
        "elbo": [elbo, 0.11], "iwae": [iwae, 0.12], "smc": [smc, 0.13], "width": [0.0456, 0.0078], "particles": 64,
        "kl": 1.25, "information": 1.125, "gap": [0.375, 0.0625], "elbo_per_piece": -91.0, "smc_per_piece": -81.0,
    }  # fmt: skip


def scored_result(**rest):
    parts = {"train": scored(-1, -2, -3), "valid": scored(-4, -5, -6), "test": scored(-7, -8, -9)}
    effort = {"cut": None, "pieces": 16, "epochs": 24, "particles": 64, "runs": 2}
    given = {"music": "jsb", "model": "rssm", "seed": 1, "effort": effort, "epoch": 20, "train_seconds": 61.6}
    return given | {"parts": parts} | rest


def rows(table):
    """The rows of a table of Markdown by their cells; what stands around it is left out."""
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells_] for cells_ in lines]


def test_the_table_of_exact_models_has_the_best_last_and_every_number_in_its_column():
    better = exact_result("hmm-16", -1.1, -2.2, -3.3, epoch=7)
    table = rows(page.exact_table([better, exact_result("independent", -4.4, -5.5, -6.6)]))
    assert table[0] == ["model", "seed", "train", "valid", "test", "test, per piece", "EM iterations", "CPU s"]
    assert table[2] == ["independent notes", "3", "-4.400", "-5.500", "-6.600", "-66.0", "", "4"]
    assert table[3:] == [["HMM, 16 states", "3", "-1.100", "-2.200", "-3.300", "-33.0", "7", "4"]]


def test_the_tables_of_world_models_have_every_number_in_its_column():
    table = page.models_table([scored_result()], {"rssm": "a model"})
    (row,) = rows(table)[2:]
    head = ["a model", "1", "-1.000", "-3.000", "-4.000", "-6.000", "-7.000", "-8.000", "**-9.000** ± 0.130"]
    assert row == [*head, "0.0456 ± 0.0078", "20", "62"]
    assert "64 particles" in table
    (row,) = rows(page.gaps_table([scored_result()], {"rssm": "a model"}))[2:]
    assert row == ["a model", "1", "1.250", "1.125", "0.375 ± 0.062", "-91.0", "-81.0"]


def test_the_table_of_other_music_is_in_order_and_says_what_was_learned_from():
    results = [
        scored_result(music="muse", effort={"cut": 100, "pieces": 64, "epochs": 24}),
        exact_result("hmm-16", -1.1, -2.2, -3.3, music="muse", epoch=7),
        exact_result("independent", -4.4, -5.5, -6.6, music="nottingham"),
        scored_result(music="nottingham"),
    ]
    table = rows(page.others_table(results, {"rssm": "a model"}))[2:]
    assert [row[:6] for row in table] == [
        ["Nottingham", "independent notes", "3", "-4.400", "-5.500", "-6.600"],
        ["Nottingham", "a model", "1", "-3.000", "-6.000", "**-9.000** ± 0.130"],
        ["MuseData", "HMM, 16 states", "3", "-1.100", "-2.200", "-3.300"],
        ["MuseData", "a model", "1", "-3.000", "-6.000", "**-9.000** ± 0.130"],
    ]
    assert table[0][6:] == ["", "", "", "4"]
    assert table[1][8] == "20 of 24 passes, 16 whole pieces at once"
    assert [row[6:] for row in table[2:]] == [
        ["", "", "7 iterations of EM", "4"],
        ["-7.000", "0.0456 ± 0.0078", "20 of 24 passes, 64 cuts of 100 steps at once", "62"],
    ]


def test_the_page_puts_chorales_and_other_music_into_their_blocks(tmp_path, monkeypatch):
    blocks = ("exact", "models", "gaps", "others")
    (tmp_path / page.PAGE).write_text("".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in blocks))
    monkeypatch.setattr(docs_blocks, "DOCS", tmp_path)
    results = [exact_result("hmm-16", -1.1, -2.2, -3.3), scored_result(), scored_result(music="piano", seed=9)]
    page.write_tables(results, {"rssm": "a model"})
    written = (tmp_path / page.PAGE).read_text()
    found = {
        name: rows(text)[2:] for name, text in re.findall(r"<!-- (\w+): begin -->(.*?)<!-- \1: end", written, re.S)
    }
    assert {name: [row[:2] for row in table] for name, table in found.items()} == {
        "exact": [["HMM, 16 states", "3"]],
        "models": [["a model", "1"]],
        "gaps": [["a model", "1"]],
        "others": [["Piano-midi.de", "a model"]],
    }


def test_the_page_has_the_tables_of_the_kept_results(tmp_path, monkeypatch):
    kept = [json.loads(line) for line in (ROOT / "docs" / music.NUMBERS).read_text().splitlines()]
    now = (ROOT / "docs" / page.PAGE).read_text()
    (tmp_path / page.PAGE).write_text(re.sub(r"\d\.\d+", "?", now))
    monkeypatch.setattr(docs_blocks, "DOCS", tmp_path)
    page.write_tables(kept, {name: recipe.words for name, recipe in RECIPES.items()})
    tables = re.compile(r"<!-- (\w+): begin.*?<!-- \1: end -->", re.DOTALL)
    assert [found[0] for found in tables.finditer((tmp_path / page.PAGE).read_text())] == [
        found[0] for found in tables.finditer(now)
    ]
