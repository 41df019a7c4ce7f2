"""Runs that are given something in Python: episodes, an environment. What their folders say, and how they go on."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from rich.console import Console

import worldmodel
from brief_runs import SETTINGS
from worldmodel.config_io import read_config
from worldmodel.data import suites
from worldmodel.data.arrays import from_episodes
from worldmodel.data.replay import read_episodes
from worldmodel.runs.messages import source_words
from worldmodel.runs.run import open_run
from worldmodel.runs.session import resume, train
from worldmodel.training.progress import RunProgress
from worlds import Counting

OF_DATA = {"training.updates": 6, "training.save_every": 3, "replay.sequence_length": 8, "evaluation.episodes": 2}
OF_COUNTING = {"env.time_limit": None, "evaluation.context": 1, "evaluation.horizon": 1}
RNG = np.random.default_rng(0)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)

    def quick_train(settings=(), **given):
        settings = SETTINGS | {"runs": str(tmp_path), "evaluation.max_length": 50} | dict(settings)
        return train(None, settings, progress=silent(), **given)

    yield quick_train
    for name in [name for name in gymnasium.registry if name.startswith("given/")]:
        del gymnasium.registry[name]


def silent():
    return RunProgress(240, Console(quiet=True))


def episodes(count=8, steps=9):
    return from_episodes(
        {"obs": RNG.normal(size=(steps + 1, 2)), "action": RNG.uniform(-1, 1, size=(steps, 1))} for _ in range(count)
    )


def test_a_run_learns_from_episodes_in_memory_and_keeps_them(quick):
    given = episodes()
    run = quick(OF_DATA, data=given)
    assert run.config.offline == "given:" and run.model.spec == given.spec
    stored = read_episodes(run.folder / "replay", 50), read_episodes(run.folder / "heldout", 50)
    assert [len(part.valid) for part in stored] == [6, 2]
    sums = sorted(float(x) for part in stored for x in part.obs["obs"].sum((1, 2)))
    np.testing.assert_allclose(sums, sorted(given.batch().obs["obs"].sum((1, 2)).tolist()), rtol=1e-5)
    assert source_words(run.config) == "the episodes that it was given"
    opened = open_run(run.folder)
    assert opened.latents(given.batch()).kl.shape == (8, 10)
    assert opened.evidence([2], batch=given.batch(), runs=1, context=0).episodes == 8


def test_it_is_resumed_without_them(quick):
    run = quick(OF_DATA, data=episodes())
    settings = run.folder / "config.yaml"
    settings.write_text(settings.read_text().replace("updates: 6", "updates: 9"))
    again = resume(run.folder, progress=silent())
    assert again.folder == run.folder and '"update": 9' in (run.folder / "metrics.jsonl").read_text()


def test_what_cannot_be_learned_from_is_refused_before_a_folder_is_made(quick, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.episodes: expected fewer than the 2 episodes given.*, got 2"):
        quick(OF_DATA, data=episodes(2))
    with pytest.raises(ValueError, match="data: expected none beside offline"):
        quick(OF_DATA | {"offline": "minari:a/b-v0"}, data=episodes())
    with pytest.raises(ValueError, match="env: expected none beside data"):
        quick(OF_DATA, data=episodes(), env=Counting)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="offline: expected given: only in a run's folder"):
        train(read_config((), {**SETTINGS, **OF_DATA, "offline": "given:", "runs": str(tmp_path)}), progress=silent())


def test_a_thing_of_another_kind_is_refused_in_a_sentence():
    """Where no check of types comes before."""
    code = """
from worldmodel import train
for given in ({"data": [{"obs": []}]}, {"auxiliary": [print]}, {"config": {"seed": 3}}):
    try:
        train(**{"config": None, **given})
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data, auxiliary, config = done.stdout.splitlines()
    assert data == "data: expected episodes as worldmodel.data.from_episodes makes them of arrays, got a list"
    assert auxiliary.startswith("auxiliary: expected functions by name, such as {'mine': Mine}, got [<built-in")
    assert config == "config: expected files or presets; settings come second, as in train(None, {'seed': 3})"


def test_an_environment_needs_no_registration(quick):
    made = []

    def my_world(instance=0):
        made.append(instance)
        return Counting(instance)

    settings = OF_COUNTING | {"env.kwargs.instance": 4, "acting.policy": "actor", "evaluation.acting_episodes": 1}
    run = quick(settings, env=my_world)
    assert run.config.env.id == "given/my_world-v0" and set(made) == {4}
    assert set(run.model.spec.observations) == {"count", "action"}
    opened = open_run(run.folder)
    assert opened.evaluate_policy(opened.policy("actor"), episodes=2).returns.shape == (2,)
    env = opened.filter()
    env.reset(seed=2)
    assert env.rows.obs["count"][0, 0] == 2


def test_another_process_has_to_be_given_the_environment_again(quick):
    run = quick(OF_COUNTING, env=Counting)
    del gymnasium.registry["given/Counting-v0"]
    opened = open_run(run.folder)
    assert opened.imagine().states.deter.shape[2] == 1
    for needs in (lambda: opened.evaluate_policy(opened.policy("random")), lambda: resume(run.folder)):
        with pytest.raises(ValueError, match=r"env: expected the class or function that makes given/Counting-v0"):
            needs()
    with pytest.raises(ValueError, match="env: expected the one that the run was begun with, given/Counting-v0"):
        open_run(run.folder, env=lambda: Counting())
    opened = open_run(run.folder, env=Counting)
    assert len(opened.evaluate_policy(opened.policy("random"), episodes=2).returns) == 2
    del gymnasium.registry["given/Counting-v0"]
    assert resume(run.folder, env=Counting, progress=silent()).folder == run.folder


def test_a_worker_process_makes_it_too(quick):
    assert quick(OF_COUNTING | {"env.asynchronous": True, "env.num_envs": 1}, env=lambda: Counting()).folder.exists()
    assert "given/lambda-v0" in gymnasium.registry


@pytest.mark.parametrize("made", [Counting(), 3])
def test_an_environment_that_is_made_already_is_refused(made):
    with pytest.raises(ValueError, match="env: expected a class or a function that makes an environment, got"):
        suites.register_given(made)


def test_the_data_room_is_found_from_the_root():
    assert worldmodel.data.from_episodes is from_episodes
