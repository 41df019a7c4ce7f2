"""`worldmodel play` and `worldmodel evaluate --dream_gap` on a tiny trained run."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from brief_runs import train_briefly
from worldmodel import build
from worldmodel.cli import main
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.evaluation.episodes import summary
from worldmodel.runs.dream_gap import measure_dream_gap
from worldmodel.runs.environments import rendering
from worldmodel.runs.play import watch_play, write_play
from worldmodel.runs.run import open_run

SETTINGS = {"env.id": "CartPole-v1", "evaluation.context": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_briefly(tmp_path_factory.mktemp("runs"), SETTINGS)


def test_it_writes_a_film_of_the_best_and_the_median_episode(folder, capsys):
    main(["play", str(folder), "--policy", "random", "--episodes", "3"])
    shown = capsys.readouterr().out
    assert "making CartPole-v1, which imports gymnasium.envs.classic_control.cartpole\n" in shown
    assert shown.splitlines()[-1] == f"film  {folder / 'play' / 'random.gif'}"
    run = open_run(folder)
    titles, watched = watch_play(run, run.policy("random"), episodes=3, seed=0)
    assert titles == ("best of 3 episodes", "median of 3 episodes")
    played = run.evaluate_policy(run.policy("random"), episodes=3)
    assert [one.reward.sum() for one in watched] == [played.returns.max(), np.median(played.returns)]
    with Image.open(folder / "play" / "random.gif") as film:
        assert film.n_frames == sum(len(one.frames) for one in watched)


def test_the_film_goes_where_it_is_wanted(folder, tmp_path, capsys):
    output = tmp_path / "one.gif"
    main(["play", str(folder), "--episodes", "1", "--output", str(output), "--seed", "3"])  # by planning
    with Image.open(output) as film:
        assert film.n_frames > 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["--output", "film.mp4"], "output: expected a file named .gif, got film.mp4"),
        (["--policy", "nobody"], "policy: expected"),
        (["--seed", "-1"], "seed: expected zero or more, got -1"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_an_environment_is_made(folder, options, words, monkeypatch, capsys):
    monkeypatch.setattr(build, "make_environments", lambda *arguments, **others: pytest.fail("it was made"))
    with pytest.raises(SystemExit) as end:
        main(["play", str(folder), *options])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said


def test_an_environment_that_shows_nothing_is_refused_before_anything_is_played(folder, monkeypatch):
    run = open_run(folder)
    monkeypatch.setattr("worldmodel.runs.play.rendering", lambda config: config)
    monkeypatch.setattr("worldmodel.runs.play.choose", lambda *arguments, **others: pytest.fail("it was played"))
    with pytest.raises(ValueError, match="render: expected a frame"):
        write_play(run, policy="random", episodes=2)
    assert rendering(run.config).env.kwargs == {"render_mode": "rgb_array"}


@pytest.mark.parametrize(
    ("command", "words"), [(["play"], "playing"), (["evaluate", "--dream-gap", "--policy", "random"], "evaluating")]
)
def test_an_environment_that_fails_ends_it_with_status_one(folder, command, words, monkeypatch, capsys):
    def fail(*arguments):
        raise EnvironmentFailureError("the pole is on fire")

    monkeypatch.setattr(build, "build_evaluation_environments", fail)
    with pytest.raises(SystemExit) as end:
        main([command[0], str(folder), *command[1:]])
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith(f"worldmodel: {words} stopped: the pole is on fire\n")


def test_the_gap_is_shown_by_return_variable_and_step(folder, capsys):
    options = ["--policy", "random", "--episodes", "4", "--steps", "8", "--context", "3", "--seed", "5"]
    main(["evaluate", str(folder), "--dream-gap", *options])
    shown = capsys.readouterr().out
    gap = measure_dream_gap(open_run(folder), "random", episodes=4, steps=8, context=3, seed=5)
    assert shown.startswith("making CartPole-v1, which imports") and "3 rows in common, then 8 steps at most" in shown
    lines = {re.split(r"  +", line.strip())[0]: line for line in shown.splitlines()}
    off = gap.dream.returns - gap.world.returns
    for row, values in (
        ("return, world", gap.world.returns),
        ("return, dream", gap.dream.returns),
        ("return, dream - world", off),
        ("length, dream", gap.dream.lengths),
    ):
        found = summary(values)
        assert f"{found.mean:.2f}" in lines[row] and f"{found.low:.2f} to {found.high:.2f}" in lines[row]
    for name, one in gap.variables.items():
        assert f"{one.distance.mean[0]:.2g} [" in lines[name] and f"{one.bias.mean[0]:.2g} [" in lines[name]
    assert gap.context == 3 and len(gap.both) == 8


def test_the_gap_has_twenty_starts_behind_the_usual_context_unless_told_otherwise(folder, capsys):
    main(["evaluate", str(folder), "--dream_gap", "--policy", "random", "--steps", "2"])
    assert "20 starts in CartPole-v1 and in the dream, policy random, seed 0: 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "3"], "steps: expected --dream_gap beside it, got none"),
        (["--dream_gap", "--steps", "0"], "steps: expected at least 1, got 0"),
        (["--dream_gap", "--context", "0"], "context: expected at least 1, got 0"),
        (["--dream_gap", "--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["--dream_gap", "--horizon", "0"], "planner.horizon: expected a number greater than zero, got 0"),
    ],
    ids=str,
)
def test_a_mistake_about_the_gap_is_told_before_an_environment_is_made(folder, options, words, monkeypatch, capsys):
    monkeypatch.setattr(build, "make_environments", lambda *arguments, **others: pytest.fail("it was made"))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(folder), *options])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said


def test_the_gap_needs_the_environment_that_the_rows_are_of(folder):
    run = open_run(folder)
    other = dataclasses.replace(
        run, config=dataclasses.replace(run.config, env=dataclasses.replace(run.config.env, id="Pendulum-v1"))
    )
    for ask in (lambda: measure_dream_gap(other, "random"), lambda: write_play(other, policy="random")):
        with pytest.raises(ValueError, match=r"env\.id: expected an environment of the observations"):
            ask()


def test_ones_own_policy_dreams_too(folder):
    run = open_run(folder)
    mine = measure_dream_gap(run, lambda: run.policy("random", seed=0), episodes=2, steps=3)
    named = measure_dream_gap(run, "random", episodes=2, steps=3)
    np.testing.assert_array_equal(mine.dream.reward, named.dream.reward)


def test_of_long_episodes_the_beginning_is_filmed(folder, tmp_path):
    run = open_run(folder)
    whole = watch_play(run, run.policy("random"), episodes=3, seed=0)[1]
    (best, median) = watch_play(run, run.policy("random"), episodes=3, seed=0, rows=3)[1]
    for short, one in ((best, whole[0]), (median, whole[1])):
        assert len(short.frames) == 3
        np.testing.assert_array_equal(short.frames, one.frames[:3])
    with pytest.raises(ValueError, match="rows: expected at least 1, got 0"):
        write_play(run, policy="random", rows=0, output=tmp_path / "film.gif")


def test_a_film_of_the_first_rows_says_so_and_leaves_the_whole_one_alone(folder, monkeypatch):
    titles = []
    monkeypatch.setattr("worldmodel.report.play_film.play_gif", lambda watched, words: titles.extend(words) or b"GIF")
    run = open_run(folder)
    whole = write_play(run, policy="random", episodes=1)
    short = write_play(run, policy="random", episodes=1, rows=3)
    assert (whole.name, short.name) == ("random.gif", "random_first_3_rows.gif")
    assert re.fullmatch(r"one episode, random: return \d+\.0", titles[0])
    assert titles[1] == "one episode, random: return of the first 3 rows 2.0"  # nothing is earned on the first row
    write_play(run, policy="random", episodes=1, rows=1000)
    assert titles[2] == titles[0]  # the episode is over before
