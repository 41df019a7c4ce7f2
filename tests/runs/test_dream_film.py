"""`worldmodel play RUN --dream` on tiny runs: of vectors that are drawn, of images, and of what nobody draws."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from brief_runs import train_briefly
from worldmodel import build
from worldmodel.cli import main
from worldmodel.data.renderers import draw
from worldmodel.runs import dream_film
from worldmodel.runs.dream_film import CONTEXT, write_dream_film
from worldmodel.runs.dream_gap import measure_dream_gap
from worldmodel.runs.run import open_run

SETTINGS = {"env.id": "CartPole-v1", "env.hide": {"obs": [1, 3]}, "evaluation.context": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_briefly(tmp_path_factory.mktemp("runs"), SETTINGS)


@pytest.fixture
def filmed(monkeypatch):
    """What is handed over to be drawn: halves and titles."""
    given = []
    monkeypatch.setattr("worldmodel.report.dream_film.dream_gif", lambda *both: given.extend(both) or b"GIF")
    return given


def changed(run, **settings):
    return dataclasses.replace(
        run, config=dataclasses.replace(run.config, env=dataclasses.replace(run.config.env, **settings))
    )


def test_it_writes_a_film_of_the_median_start_and_the_best(folder, capsys):
    main(["play", str(folder), "--dream", "--policy", "random", "--episodes", "3", "--rows", "8"])
    shown = capsys.readouterr().out
    assert "making CartPole-v1, which imports gymnasium.envs.classic_control.cartpole\n" in shown
    assert shown.splitlines()[-1] == f"film  {folder / 'play' / 'dream.gif'}"
    with Image.open(folder / "play" / "dream.gif") as film:
        assert film.n_frames == 2 * 8


def test_the_world_is_played_again_and_the_dream_drawn_from_what_was_dreamt(folder, filmed, tmp_path):
    run = open_run(folder)
    output = tmp_path / "film.gif"
    assert write_dream_film(run, policy="random", episodes=3, seed=4, output=output) == output
    films, titles = filmed
    assert output.read_bytes() == b"GIF"
    assert titles == [f"CartPole-v1, random: the {words} of 3 starts" for words in ("median", "best")]
    gap = measure_dream_gap(run, "random", episodes=3, context=CONTEXT, steps=200, seed=4)
    for film, i in zip(films, np.argsort(gap.world.returns, kind="stable")[1:], strict=True):
        assert film.context == CONTEXT and [*film.world.variables] == ["position", "angle"]
        for half, course in ((film.world, gap.world), (film.dream, gap.dream)):
            n = CONTEXT + course.lengths[i]
            assert len(half.frames) == len(half.reward) == len(half.variables["angle"]) == n
            obs = np.concatenate([gap.before.obs["obs"][i], course.obs["obs"][i, : course.lengths[i]]])
            np.testing.assert_array_equal(half.variables["angle"], obs[:, 1])
            expected = list(draw("CartPole-v1", obs, np.zeros((n, 2)), hide={"obs": [1, 3]}))
            small = [Image.fromarray(frame).resize((320, 213), Image.Resampling.BOX) for frame in expected]
            np.testing.assert_array_equal(half.frames, np.stack([np.asarray(frame) for frame in small]))


def test_a_single_start_stands_alone(folder, filmed):
    write_dream_film(open_run(folder), policy="random", episodes=1, rows=7)
    ((only,), titles) = filmed
    assert titles == ["CartPole-v1, random"] and len(only.world.frames) == 7


def test_of_images_the_decoded_one_is_shown_beside_the_one_that_was_seen(tmp_path, filmed):
    settings = {"env.id": "CartPole-v1", "env.pixels": "only", "env.image_size": 16, "encoder.depth": 2}
    run = open_run(train_briefly(tmp_path, {**settings, "decoder.depth": 2, "evaluation.context": 2}))
    write_dream_film(run, policy="random", episodes=2, seed=4)
    gap = measure_dream_gap(run, "random", episodes=2, context=CONTEXT, steps=200, seed=4)
    best = filmed[0][-1]
    i = int(np.argsort(gap.world.returns, kind="stable")[-1])
    world, dream = (course.obs["obs"][i, : course.lengths[i]] for course in (gap.world, gap.dream))
    assert world.shape[1:] == (16, 16, 3)
    np.testing.assert_array_equal(best.world.frames, np.concatenate([gap.before.obs["obs"][i], world]))
    np.testing.assert_array_equal(best.dream.frames, np.concatenate([gap.before.obs["obs"][i], dream]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "5"], "rows: expected more than the 5 that the model sees before it dreams, got 5"),
        (["--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["--output", "film.mp4"], "output: expected a file named .gif, got film.mp4"),
        (["--policy", "nobody"], "policy: expected"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_an_environment_is_made(folder, options, words, monkeypatch, capsys):
    monkeypatch.setattr(build, "make_environments", lambda *arguments, **others: pytest.fail("it was made"))
    with pytest.raises(SystemExit) as end:
        main(["play", str(folder), "--dream", *options])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"id": "stranger:World-v0"}, r"env\.id: expected a model of images, .* got stranger:World-v0"),
        ({"wrappers": ["stranger:Wrapper"]}, r"env\.id: expected a model of images, .* got CartPole-v1 with wrappers"),
        ({"hide": {"obs": [0]}}, r"env\.hide: expected what the picture .* got \['position'\] hidden"),
    ],
    ids=str,
)
def test_what_nobody_can_draw_is_refused_before_anything_is_made(folder, settings, words, monkeypatch):
    monkeypatch.setattr(dream_film, "measure_dream_gap", lambda *arguments, **others: pytest.fail("it was played"))
    with pytest.raises(ValueError, match=words):
        write_dream_film(changed(open_run(folder), **settings), policy="random")
