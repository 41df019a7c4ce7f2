"""The study of PPO in the dream: whole budgets, evaluated in both at every checkpoint, and never done twice."""

import argparse
import importlib
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")

from brief_runs import train_briefly
from worldmodel.runs.run import open_run


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("dream_study")


def result(learns="dream", seed=0, last=500.0, dream=None):
    returns = [{"mean": 9.0, "least": 8.0, "most": 11.0}, {"mean": last, "least": last - 1, "most": last}]
    points = [{"step": 1024 * i, "world": one, "dream": one} for i, one in enumerate(returns)]
    about = {"model": "m", "model_seed": 3, "rows": 10_000, "learns": learns, "seed": seed, "steps": 1024}
    return about | {"dream": dream or {}, "checkpoints": points, "cpu_seconds": 7.0}


def test_ppo_is_evaluated_in_both_after_each_part_of_its_budget_and_not_again(script, tmp_path, monkeypatch):
    run = open_run(train_briefly(tmp_path, {"env.id": "CartPole-v1", "env.time_limit": None, "seed": 3}))
    options = {"output": tmp_path, "seeds": None, "steps": 2048, "every": 1024, "episodes": 2, "learns": ["dream"]}
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


def test_the_table_has_a_line_for_every_ppo_and_the_least_return_of_its_last_checkpoint(script):
    lines = script.table([result(), result("world", seed=1, last=321.0, dream={"horizon": 200})]).splitlines()
    assert lines[2] == "| dream | m | 3 | 10,000 | defaults | 0 | 9 500 | 499 | 9 500 | 7 |"
    assert lines[3] == "| world | m | 3 | 10,000 | `horizon=200` | 1 | 9 321 | 320 | 9 321 | 7 |"
    assert len(lines) == 4


def test_the_figure_has_the_mean_of_all_in_bold_beside_every_one(script):
    longer = result(dream={"horizon": 500})
    figure = script.draw([result(last=500.0), result(seed=1, last=300.0), longer, result("world")])
    titles = ["PPO learns in the dream\ndefaults", "PPO learns in the dream\nhorizon=500", "PPO learns in the world"]
    assert [axis.get_title() for axis in figure.axes[:3]] == titles
    bold = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.2]
    assert [list(line.get_ydata()) for line in bold] == [[9.0, 400.0]]
    assert len(figure.axes[0].lines) == 4  # two, their mean, the target
