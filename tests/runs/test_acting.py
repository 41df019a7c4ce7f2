"""What a run that acts leaves at its end: its film and its dream, in its folder, on its page and in W&B."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image
from rich.console import Console

import wandb_reader
from worldmodel.report.formats import number
from worldmodel.runs.acting import EPISODES, acts, write_acting
from worldmodel.runs.run import open_run
from worldmodel.runs.session import train
from worldmodel.training.progress import RunProgress, Watch
from worlds import TINY

SETTINGS = TINY | {
    "env.time_limit": 12,
    "training.prefill": 60,
    "training.env_steps": 76,
    "training.train_ratio": 16.0,
    "training.evaluate_every": 4,
    "evaluation.episodes": 2,
    "evaluation.context": 2,
    "evaluation.horizon": 4,
    "evaluation.samples": 2,
    "evaluation.particles": 2,
    "evaluation.acting_episodes": 3,
    "acting.policy": "actor",
    "actor.units": 8,
    "critic.units": 8,
    "behaviour.starts": 6,
    "behaviour.horizon": 3,
    "planner.candidates": 4,
    "planner.horizon": 2,
    "tracking": "offline",
}


class Told(RunProgress):
    """Silent; keeps what it was told."""

    def __init__(self):
        super().__init__(76, Console(quiet=True))
        self.said = []

    def log(self, text):
        self.said.append(text)


class Taker:
    """A tracker that keeps films and pictures by name."""

    def __init__(self):
        self.taken = {}

    def scalars(self, update, values): ...

    def lines(self, update, name, columns): ...

    def image(self, update, name, png):
        self.taken[name] = png

    def histogram(self, update, name, values): ...

    def file(self, update, name, path):
        self.taken[name] = path.read_bytes()

    def finish(self, files): ...


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
    """A finished run, and what it said; only looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        progress = Told()
        run = train(None, {**SETTINGS, "runs": str(tmp_path_factory.mktemp("acted"))}, progress=progress)
    wandb.teardown()
    return run, progress.said


def test_the_film_is_in_the_folder_on_the_page_and_in_the_last_words(acted):
    run, said = acted
    film = run.folder / "play" / "actor.gif"
    with Image.open(film) as gif:
        assert gif.n_frames == 2 * 13  # the best and the median episode of 12 steps
    page = (run.folder / "report.html").read_text()
    assert page.index('id="acting"') < page.index('id="bound"')
    dream = run.folder / "play" / "dream.gif"
    with Image.open(dream) as gif:
        assert gif.n_frames == 2 * 13
    shown = re.findall('src="data:image/gif;base64,([^"]+)"', page)
    assert [base64.b64decode(one) for one in shown] == [dream.read_bytes(), film.read_bytes()]
    assert f"dream       {dream}: the world beside the policy's dream of it" in said
    assert f"film        {film}: the policy's best and its median episode" in said
    assert any(re.match(r"the actor earns \S+ on average over 3 episodes ", words) for words in said)


def test_w_and_b_has_the_film_the_dream_and_the_charts(acted):
    (offline,) = (acted[0].folder / "wandb").glob("offline-run-*")
    logged = wandb_reader.read(next(Path(offline).glob("*.wandb")))
    media = {name: row[name] for row in logged["history"] for name in row if name.split("/")[0] == "acting"}
    for name in ("actor", "dream"):
        film = offline / "files" / media[f"acting/film/{name}"]["path"]
        assert media[f"acting/film/{name}"]["_type"] == "video-file"
        assert film.read_bytes() == (acted[0].folder / "play" / f"{name}.gif").read_bytes()
    for name, file in (("acting/dream", "acting_dream"), ("acting/curves", "acting")):
        assert media[name]["_type"] == "image-file"
        with (
            Image.open(offline / "files" / media[name]["path"]) as theirs,
            Image.open(acted[0].folder / "figures" / f"{file}.png") as ours,
        ):
            assert theirs.tobytes() == ours.convert(theirs.mode).tobytes()
    assert media["acting/returns"]["_type"] == "histogram" and sum(media["acting/returns"]["values"]) == 3
    bests = [row["best/return"] for row in logged["history"] if "best/return" in row]
    returns = [row["acting/return"] for row in logged["history"] if "acting/return" in row]
    assert bests == pytest.approx(list(np.maximum.accumulate(returns)))
    assert logged["summary"]["acting/return"]["max"] == pytest.approx(max(returns))
    finals = {f"acting/final/{policy}/mean" for policy in ("actor", "mppi")}
    assert finals <= {name for row in logged["history"] for name in row}
    assert logged["summary"]["best/return"] == pytest.approx(max(returns))  # what a sweep looks at


def test_the_actor_and_a_planner_play_from_the_same_starts_with_the_best_weights(acted):
    run, said = acted
    (words,) = (line for line in said if line.startswith("the best weights earn, over the same 3 starts: "))
    page = (run.folder / "report.html").read_text()
    for policy in ("actor", "mppi"):
        best = open_run(run.folder)
        returns = best.evaluate_policy(best.policy(policy, seed=0), episodes=3, seed=0).returns
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        (reported,) = (row for row in rows if f"final_return/{policy}/mean" in row)
        assert reported["update"] == rows[-1]["update"]
        assert reported[f"final_return/{policy}/mean"] == pytest.approx(returns.mean())
        assert reported[f"final_return/{policy}/least"] == pytest.approx(returns.min())
        assert f"{policy} {returns.mean():.1f}" in words
        assert re.search(rf">{policy}</t[dh]>\s*<td[^>]*>{re.escape(number(float(returns.mean())))}</td>", page)


def test_what_cannot_be_filmed_is_left_out_with_a_sentence_and_the_rest_is_written(acted, monkeypatch):
    run, taker, progress = open_run(acted[0].folder), Taker(), Told()
    monkeypatch.setattr("worldmodel.runs.play.rendering", lambda config: config)
    monkeypatch.setattr("worldmodel.data.renderers.RENDERERS", {})
    write_acting(run, taker, 4, progress)
    assert list(taker.taken) == ["acting/dream"]
    policy, dream = progress.said
    assert policy.startswith("no film of the policy: render: expected a frame")
    assert dream.startswith("no film of the dream: env.id: expected a model of images, or of an environment whose")
    assert dream.endswith("got Pendulum-v1")


def test_an_environment_that_draws_badly_does_not_fail_the_run(acted, monkeypatch):
    def fail(environments):
        raise ZeroDivisionError

    monkeypatch.setattr("worldmodel.data.environment.Environments.frames", fail)
    progress = Told()
    write_acting(open_run(acted[0].folder), Taker(), 4, progress)
    assert progress.said == ["no film of the policy: ZeroDivisionError", "no film of the dream: ZeroDivisionError"]


def test_the_dream_starts_where_the_filmed_episodes_do(acted, monkeypatch):
    run, asked = open_run(acted[0].folder), {}

    def keep(name):
        def note(run, policy="", **options):
            asked[name] = (options["episodes"], options["seed"], policy or options["policy"])
            raise ValueError("enough")

        return note

    monkeypatch.setattr("worldmodel.runs.acting.film_play", keep("film"))
    monkeypatch.setattr("worldmodel.runs.acting.measure_dream_gap", keep("dream"))
    write_acting(run, Taker(), 4, Watch(Console(quiet=True)))
    assert asked["film"] == asked["dream"] == (3, run.config.evaluation.seed, "actor") and EPISODES > 3


def test_only_a_run_whose_policy_is_evaluated_in_an_environment_is_filmed(acted):
    config = acted[0].config
    assert acts(config)
    for section, change in (("acting", {"policy": "random"}), ("evaluation", {"acting_episodes": 0})):
        other = dataclasses.replace(getattr(config, section), **change)
        assert not acts(dataclasses.replace(config, **{section: other}))
    assert not acts(dataclasses.replace(config, offline="data"))
