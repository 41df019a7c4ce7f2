"""The studies of acting: what "reached" and "for good" mean, and what agents without a model see of a task."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("steps", "predicted", "happened")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("acting_study")


@pytest.fixture
def model_free(monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("model_free_study")


def evaluations(*returns):
    return [{"steps": 500 * (i + 1), "return": one, "cpu_seconds": 10.0 * (i + 1)} for i, one in enumerate(returns)]


@pytest.mark.parametrize(
    ("returns", "reached", "for_good"),
    [
        ((1.0, 2.0, 3.0), None, None),
        ((9.0, 5.0, 7.0), 500, 500),
        ((1.0, 5.0, 4.9, 5.0), 1000, 2000),  # lost once
        ((5.0, 5.0, 4.9), 500, None),  # lost at the end
    ],
)
def test_a_target_is_reached_once_and_for_good_from_where_it_is_never_lost(script, returns, reached, for_good):
    assert script.reached(evaluations(*returns), 5.0) == reached
    assert script.for_good(evaluations(*returns), 5.0) == for_good


def test_the_table_has_every_seed_with_its_means_and_the_least_of_the_last_half(script):
    about = {"preset": "task", "name": "preset", "env_steps": 2000, "target": 50.0, "settings": {}, "action_repeat": 1}
    seeds = [
        {**about, "seed": 1, "evaluations": evaluations(0.0, 60.0, 40.0, 70.0)},
        {**about, "seed": 0, "evaluations": evaluations(0.0, 10.0, 20.0, 30.0)},
    ]
    lines = script.table(seeds).splitlines()
    assert lines[2:] == [
        "| `task` | preset | 0 | 2,000 | 50 | never | never | 15 | 15 | 10 | 40 |",
        "| `task` | preset | 1 | 2,000 | 50 | 1,000 | 2,000 | 42 | 42 | 40 | 40 |",
    ]


@pytest.mark.parametrize(("study", "block"), [("acting_study", "study"), ("planning_study", "planning")])
def test_the_page_has_what_the_kept_results_say(study, block, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module(study)
    kept = [json.loads(line) for line in (ROOT / "docs" / script.NUMBERS).read_text().splitlines()]
    page = (ROOT / "docs" / script.PAGE).read_text()
    (shown,) = re.findall(rf"<!-- {block}: begin.*?-->\n(.*?)<!-- {block}: end -->", page, re.DOTALL)
    assert shown.strip() == script.table(kept)


@pytest.mark.parametrize(("steps", "stored"), [((500, 1000), True), ((500,), False), ((), False)])
def test_a_run_that_was_stopped_before_its_end_is_no_result(script, monkeypatch, tmp_path, steps, stored):
    env = SimpleNamespace(action_repeat=2)
    run = SimpleNamespace(folder=Path("run"), config=SimpleNamespace(env=env))
    monkeypatch.setattr(script, "train_timed", lambda *arguments: (run, evaluations(*(7.0 for _ in steps))))
    said = script.study("cartpole", 0, 1000, "preset", {}, tmp_path)
    assert [json.loads(path.read_text())["action_repeat"] for path in tmp_path.iterdir()] == [2] * stored
    assert ("nothing is stored" in said) is not stored


def test_steps_are_the_environments_where_a_row_is_of_several(script):
    about = {"preset": "cartpole", "name": "preset", "env_steps": 2000, "target": 50.0, "settings": {}, "seed": 0}
    held = {**about, "action_repeat": 4, "evaluations": evaluations(0.0, 60.0, 40.0, 70.0)}
    assert script.table([held]).splitlines()[2] == (
        "| `cartpole` | preset | 0 | 8,000 | 50 | 4,000 | 8,000 | 42 | 42 | 40 | 40 |"
    )
    (axis,) = script.draw([held]).axes
    assert axis.get_lines()[0].get_xdata().tolist() == [2000, 4000, 6000, 8000]


def test_an_agent_without_a_model_has_as_many_steps_of_the_environment(model_free):
    assert model_free.budget("lunar_lander") == 4 * model_free.TASKS["lunar_lander"].env_steps
    assert model_free.budget("cartpole") == model_free.TASKS["cartpole"].env_steps


def test_agents_without_a_model_see_the_task_as_its_preset_has_it(model_free):
    full, hidden = (model_free.make_task(preset, 2) for preset in ("cartpole", "cartpole_hidden"))
    x, y = (envs.reset(seed=3)[0] for envs in (full, hidden))
    np.testing.assert_array_equal(y, x[:, [0, 2]])
    assert hidden.single_observation_space.shape == (2,) and y in hidden.observation_space
    pytest.importorskip("minigrid")
    grid = model_free.make_task("minigrid", 2)
    assert grid.single_observation_space.shape == (18,)  # object and colour of 3 x 3 cells


def test_a_model_free_agent_is_evaluated_after_each_of_its_rollouts(model_free, monkeypatch):
    monkeypatch.setattr(model_free, "EPISODES", 2)
    monkeypatch.setattr(model_free, "budget", lambda preset: 1000)
    settings = model_free.CARTPOLE | {"envs": 2, "n_steps": 256, "n_epochs": 1, "scaled": True}
    found = model_free.study("cartpole", "PPO", 3, settings)
    assert [one["steps"] for one in found["evaluations"]] == [512, 1024]
    assert (found["env_steps"], found["action_repeat"]) == (1000, 1)
    assert all(8 <= one["return"] <= 500 for one in found["evaluations"])
    assert (found["preset"], found["name"], found["seed"], found["target"]) == ("cartpole", "PPO", 3, 475.0)


def test_ends_that_came_and_that_were_expected_are_summed_by_phase(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("nats_and_returns")
    bins = {"0": (100, 0.001, 0.0), "0.01": (50, 0.02, 0.04)}  # steps, predicted, happened
    row = {
        f"acting_ending/{least}/{name}": x for least, many in bins.items() for name, x in zip(NAMES, many, strict=True)
    }
    back, forecast = "acting/return", "acting/predicted_return"
    lines = [{"update": 1, "loss/value": 2.0}, {back: 3.0, forecast: 4.06, **row}, {back: 500.0, forecast: 90.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = script.ends(tmp_path)
    assert first == {"ends": 2, "ends_expected": 1.1, "forecast": 4.1}
    assert second == {"ends": 0, "ends_expected": 0, "forecast": 90.0}
    about = {"preset": "cartpole", "cell": ["learned", "bound", "Gaussian"]}
    steps = ((1500, 100.0), (2000, 474.0), (2500, 475.0))
    one = {**about, "evaluations": [{"steps": at, "return": back, **first} for at, back in steps]}
    other = {**one, "evaluations": one["evaluations"][1:2]}
    table = script.valley([one, other, {**one, "preset": "pendulum"}]).splitlines()
    assert table[2] == "| learned | bound | Gaussian | 1 | 2, 1 | 2 | 4, 2 | 1 | 2, 1 |"
    assert table[3] == "| learned | bound | classes | 0 |  | 0 |  | 0 |  |"


def test_what_tricks_buy_is_measured_on_the_actor_itself(script, tmp_path, monkeypatch):
    nats, seen = importlib.import_module("nats_and_returns"), []

    def train_timed(preset, seed, env_steps, name, settings, output):
        seen.append(settings)
        return SimpleNamespace(folder=tmp_path), evaluations(475.0)

    monkeypatch.setattr(nats, "train_timed", train_timed)
    monkeypatch.setattr(nats, "ends", lambda folder: [{"ends": 0}])
    monkeypatch.setattr(nats, "judged", lambda run: {"forecast": 1.0})
    nats.study("cartpole", ("fixed", "bound", "Gaussian"), 0, tmp_path)
    assert seen == [{"actor.slow_rate": None, "decoder.std": "fixed"}]
