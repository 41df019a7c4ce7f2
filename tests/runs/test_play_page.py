"""`worldmodel play RUN --html` on a tiny trained run."""

import dataclasses
import re
import sys

import pytest
import torch

from brief_runs import train_briefly
from worldmodel import build
from worldmodel.cli import main
from worldmodel.runs import play_page
from worldmodel.runs.play_page import subject, write_play_page
from worldmodel.runs.run import open_run

SETTINGS = {"env.id": "Pendulum-v1", "evaluation.context": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_briefly(tmp_path_factory.mktemp("runs"), SETTINGS)


def test_it_writes_one_page_and_makes_no_environment(folder, monkeypatch, capsys):
    monkeypatch.setattr(build, "make_environments", lambda *arguments, **others: pytest.fail("it was made"))
    main(["play", str(folder), "--html"])
    page = folder / "play" / "dream.html"
    size, where = capsys.readouterr().out.splitlines()
    assert where == f"page  {page}"
    assert re.fullmatch(r"page of 0\.\d MB, [\d,]+ weights in float32", size)
    html = page.read_text()
    assert folder.name in html and "Pendulum-v1" in html and '"name":"torque","low":-2.0,"high":2.0' in html
    assert '"kind":"pendulum"' in html and html.count('"rows":') == 3


def test_it_goes_where_it_is_wanted_with_the_episodes_and_rows_that_are_wanted(folder, tmp_path, capsys):
    output = tmp_path / "page.html"
    main(["play", str(folder), "--html", "--output", str(output), "--episodes", "2", "--rows", "5", "--seed", "3"])
    assert output.read_text().count('"rows":5') == 2
    again = tmp_path / "again.html"
    run = open_run(folder)
    written = write_play_page(run, episodes=2, rows=5, seed=3, output=again)
    assert again.read_text() == output.read_text() and written.size == len(output.read_bytes())
    assert write_play_page(run, episodes=2, rows=5, seed=4, output=again).weights == written.weights
    assert again.read_text() != output.read_text()


def test_a_page_that_would_be_too_large_has_weights_of_half_precision(folder, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(play_page, "LARGEST", 1000)
    written = write_play_page(open_run(folder), output=tmp_path / "page.html", log=said.append)
    assert written.precision == "float16" and said[0].endswith("weights in float16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["--rows", "1"], "rows: expected at least 2, one that is seen and one that is dreamt, got 1"),
        (["--output", "page.gif"], "output: expected a file named .html, got page.gif"),
        (["--output", "nowhere/page.html"], "output: expected a file in a folder that exists"),
        (["--policy", "random"], "html: expected no --policy beside it: the reader acts"),
        (["--dream"], "html: expected no --dream beside it: the reader acts"),
    ],
    ids=str,
)
def test_a_mistake_is_told(folder, options, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["play", str(folder), "--html", *options])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_model_that_the_page_cannot_run_is_refused_by_the_name_of_the_module(folder, tmp_path):
    run = open_run(folder)
    run.model.dynamics.prior_head[0][2] = torch.nn.GELU()
    with pytest.raises(ValueError, match=r"dynamics\.prior_head\.0\.2: expected .* which a page can run; got GELU"):
        write_play_page(run, output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_run_without_rewards_is_no_dream_to_act_in(folder, tmp_path):
    run = open_run(folder)
    loss = dataclasses.replace(run.config.loss, reward_scale=0.0)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, loss=loss))
    with pytest.raises(ValueError, match="expected a model of rewards and ends"):
        write_play_page(run, output=tmp_path / "page.html")


def test_nothing_that_settings_name_is_imported(folder, monkeypatch):
    run = open_run(folder)
    for changes in ({"id": "evil_module:X-v0"}, {"wrappers": ["evil_module:W"]}, {"kwargs": {"g": 1}}):
        env = dataclasses.replace(run.config.env, **changes)
        found = subject(dataclasses.replace(run, config=dataclasses.replace(run.config, env=env)))
        assert found.controls["entries"][0]["high"] == 1.0 and "evil_module" not in sys.modules
        assert bool(found.pictures) == ("kwargs" in changes)
