"""The study of PPO in the dream: whole budgets, evaluated in both at every checkpoint, and never done twice."""

import argparse
import importlib
import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("stable_baselines3")

from brief_runs import train_briefly
from worldmodel.runs.run import open_run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("dream_study")


DEFAULTS = {"horizon": "longest", "from_resets": True}


def result(learns="dream", seed=0, last=500.0, dream=None):
    returns = [{"mean": 9.0, "least": 8.0, "most": 11.0}, {"mean": last, "least": last - 1, "most": last}]
    points = [{"step": 1024 * i, "world": one, "dream": one} for i, one in enumerate(returns)]
    about = {"model": "m", "model_seed": 3, "rows": 10_000, "learns": learns, "seed": seed, "steps": 1024}
    return about | {"dream": dream or DEFAULTS, "checkpoints": points, "cpu_seconds": 7.0}


def test_ppo_is_evaluated_in_both_after_each_part_of_its_budget_and_not_again(script, tmp_path, monkeypatch):
    run = open_run(train_briefly(tmp_path, {"env.id": "CartPole-v1", "env.time_limit": None, "seed": 3}))
    options = {"output": tmp_path, "seeds": None, "steps": 2048, "every": 1024, "episodes": 2, "learns": ["dream"]}
    options["checkpoint"] = None
    monkeypatch.setitem(script.SETTINGS, "n_epochs", 1)  # for the time it takes
    asked, make = [], script.make_dreams
    monkeypatch.setattr(script, "make_dreams", lambda run, n, given: asked.append((n, given)) or make(run, n, given))
    options = argparse.Namespace(**options, dream={"horizon": 5})
    script.study(run, options)
    (found,) = script.read_results(tmp_path)
    assert found["seed"] == found["model_seed"] == run.config.seed
    assert [row["step"] for row in found["checkpoints"]] == [0, 1024, 2048]
    assert all(1 <= row["dream"]["mean"] <= 5.5 and row["world"]["mean"] >= 8 for row in found["checkpoints"])
    assert asked == [(32, {"horizon": 5})] + [(2, {"horizon": 5})] * 3
    script.study(run, options)
    assert len(script.read_results(tmp_path)) == 1
    options.episodes = 3
    with pytest.raises(ValueError, match=r'expected the stored effort, .*"episodes": 2.*, got .*"episodes": 3'):
        script.missing(run, options)


def test_the_table_has_a_line_for_every_ppo_and_the_least_return_of_its_last_checkpoint(script):
    lines = script.table([result(), result("world", seed=1, last=321.0, dream={"horizon": 200})]).splitlines()
    assert lines[2] == "| dream | m | 3 | 10,000 | defaults | 0 | 9 500 | 499 | 9 500 | 7 |"
    assert lines[3] == "| world | m | 3 | 10,000 | `horizon=200` | 1 | 9 321 | 320 | 9 321 | 7 |"
    assert len(lines) == 4


def test_the_figure_has_the_mean_of_all_in_bold_beside_every_one(script):
    longer = result(dream={"horizon": 500})
    figure = script.draw([result(last=500.0), result(seed=1, last=300.0), longer, result("world")])
    titles = [("dream", "defaults"), ("dream", "horizon=500"), ("world", "defaults")]
    expected = [f"PPO learns in the {where}\ndreams: {dreams}" for where, dreams in titles]
    assert [axis.get_title() for axis in figure.axes[:3]] == expected
    bold = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.2]
    assert [list(line.get_ydata()) for line in bold] == [[9.0, 400.0]]
    assert len(figure.axes[0].lines) == 4  # two, their mean, the target


def test_the_page_has_the_table_of_the_kept_results(script, monkeypatch, tmp_path):
    kept = (ROOT / "docs" / script.NUMBERS).read_text()
    now = (ROOT / "docs" / script.PAGE).read_text()
    (tmp_path / script.NUMBERS).write_text(kept)
    (tmp_path / script.PAGE).write_text(re.sub(r"\d{2,}", "?", now))
    for module in (script, importlib.import_module("docs_blocks")):
        monkeypatch.setattr(module, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["dream_study.py", "--output", str(tmp_path / "new"), "--write"])
    threads = torch.get_num_threads()
    try:
        script.main()  # with nothing in its output
    finally:
        torch.set_num_threads(threads)
    block = re.compile(rf"<!-- {script.BLOCK}: begin.*?<!-- {script.BLOCK}: end -->", re.DOTALL)
    assert block.findall((tmp_path / script.PAGE).read_text()) == block.findall(now) != []
    assert (tmp_path / script.NUMBERS).read_text() == kept


def test_the_page_has_the_returns_of_the_kept_trials_in_their_order(script):
    trials = [json.loads(line) for line in (ROOT / "docs" / "dream_trials.jsonl").read_text().splitlines()]
    page = (ROOT / "docs" / script.PAGE).read_text()
    table = page.split("**What was tried**")[1].split("| --- |\n")[1].split("\n\n")[0].splitlines()
    kept = [
        [f"{row['world']['mean']:.0f}" for row in trial["checkpoints"] if row["step"]]
        for trial in trials
        if trial["learns"] == script.DREAM
    ]
    assert [line.split("|")[-2].split(" (")[0].split() for line in table] == kept


def test_a_result_with_another_effort_does_not_take_the_place_of_a_kept_one(script, monkeypatch, tmp_path):
    blocks = importlib.import_module("docs_blocks")
    monkeypatch.setattr(blocks, "DOCS", tmp_path)
    kept, longer = result() | {"effort": {"episodes": 2}}, result(last=9.0) | {"effort": {"episodes": 3}}
    assert blocks.kept_results("kept.jsonl", [kept], script.which) == [kept]
    with pytest.raises(ValueError, match=r'stored effort, \{"episodes": 2\}, got \{"episodes": 3\}'):
        blocks.kept_results("kept.jsonl", [longer], script.which)
    assert json.loads((tmp_path / "kept.jsonl").read_text()) == kept
    again = longer | {"effort": kept["effort"]}
    assert blocks.kept_results("kept.jsonl", [again], script.which) == [again]
