"""`worldmodel evaluate` on a tiny trained run: held-out scores by default, or a policy in the run's environment."""

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from brief_runs import train_briefly
from worldmodel import build
from worldmodel.cli import main
from worldmodel.commands import evaluate
from worldmodel.config import Config
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.policy import RandomPolicy
from worldmodel.evaluation.episodes import summary
from worldmodel.runs.run import open_run

SEARCH = ("--horizon", "3", "--candidates", "9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_briefly(tmp_path_factory.mktemp("runs"))


def test_without_episodes_it_scores_the_held_out_ones(folder, capsys):
    main(["evaluate", str(folder)])
    shown = capsys.readouterr().out
    assert "nats per step" in shown and "making" not in shown and "CPU" not in shown
    run = open_run(folder)
    found, floors = run.evaluate(), run.model.resolution().values()
    numbers = [*found.per_step.values(), *found.kl.summary.values()]
    numbers += [error[h] for error in found.open_loop["obs"] for h in (0, 1, 3)]
    assert all(f" {number:.4f}" in shown for number in numbers)
    rows = {re.split("  +", line.strip())[0] for line in shown.splitlines()}
    assert {"ELBO", "KL", "log p(obs)", "KL, 95 % quantile", "KL, active latent groups"} <= rows
    assert all(f" {value:.3g}" in shown for floor in floors for value in floor.tolist())
    scores = run.score()
    covered = scores.scores["obs"]["coverage"]["model"].mean
    assert "inside 90 % intervals" in shown and all(f" {covered[h]:.3g} " in shown for h in (0, 1, 3))
    assert f"{scores.futures} futures, {scores.samples} samples each" in shown


def test_without_stored_rows_there_is_no_marginal_to_compare_with_and_it_says_so(folder, tmp_path, capsys):
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    shutil.rmtree(alone / "replay")
    main(["evaluate", str(alone)])
    shown = capsys.readouterr().out
    assert "inside 90 %" not in shown and "not compared with the marginal of the training rows" in shown


@pytest.mark.parametrize("name", ["mppi", "cem"])
def test_it_shows_what_a_planner_earns_and_what_its_model_expected(folder, name, capsys):
    main(["evaluate", str(folder), "--episodes", "3", "--policy", name, "--seed", "2", *SEARCH])
    shown = capsys.readouterr().out
    assert shown.startswith("making Pendulum-v1, which imports gymnasium.envs.classic_control.pendulum\n3 episodes of ")
    run = open_run(folder)
    policy = run.policy(name, seed=2, horizon=3, candidates=9)
    assert policy.chooser.planner.iterations == {"mppi": 1, "cem": 3}[name]
    played = run.evaluate_policy(policy, episodes=3, seed=2)
    lines = {line.split("  ")[0].strip(): line for line in map(str.strip, shown.splitlines())}
    expected = played.calibration
    for row, values in (
        ("return", played.returns),
        ("length", played.lengths),
        ("predicted", expected.predicted),
        ("real", expected.real),
        ("real - predicted", expected.real - expected.predicted),
    ):
        found = summary(values)
        interval = f"{found.low:.2f} to {found.high:.2f}"
        for number in (f"{found.mean:.2f}", interval, f"{found.median:.2f}", f"{found.least:.2f}", f"{found.most:.2f}"):
            assert number in lines[row]
    assert played.lengths.tolist() == [12, 12, 12]


def test_a_random_policy_has_no_model_to_compare_with_and_the_same_starts(folder, capsys):
    main(["evaluate", str(folder), "--episodes", "2", "--policy", "random"])
    shown = capsys.readouterr().out
    assert "policy random" in shown and "return" in shown and "predicted" not in shown
    run, first = open_run(folder), []
    for policy in (run.policy("random"), run.policy("random", seed=4), run.policy("mppi", horizon=2, candidates=2)):

        def seeing(rows, policy=policy):
            if rows.is_first.all():
                first.append(rows.obs["obs"])
            return policy(rows)

        run.evaluate_policy(seeing, episodes=2)
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[0], first[2])
    assert isinstance(run.policy("random"), RandomPolicy)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["--policy", "mppi", "--horizon", "3"], "policy, horizon: expected --episodes beside it, got none"),
        (["--episodes", "2", "--horizon", "0"], "planner.horizon: expected a number greater than zero, got 0"),
        (["--episodes", "2", "--candidates", "1"], "planner.candidates: expected at least 2, got 1"),
        (["--episodes", "2", "--iterations", "0"], "planner.iterations: expected null or at least 1, got 0"),
        (["--episodes", "2", "--policy", "cem", "--candidates", "4"], "planner.elites: expected at most planner.cand"),
        (["--episodes", "2", "--policy", "random", *SEARCH], "horizon, candidates: expected a policy that plans, got"),
        (["--episodes", "2", "--policy", "actor"], "actor"),
        (["--episodes", "2", "--seed", "-1"], "seed: expected zero or more, got -1"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "",
)
def test_a_mistake_is_told_in_a_sentence_before_an_environment_is_made(folder, options, words, monkeypatch, capsys):
    monkeypatch.setattr(build, "make_environments", lambda *arguments, **others: pytest.fail("it was made"))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(folder), *options])
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and "Traceback" not in said


@pytest.mark.parametrize("scale", ["reward_scale", "continue_scale"])
def test_what_a_model_has_not_learned_is_not_planned_with(folder, scale):
    run = open_run(folder)
    untaught = replace(run, config=replace(run.config, loss=replace(run.config.loss, **{scale: 0.0})))
    with pytest.raises(
        ValueError, match=rf"run: expected a model of rewards and ends, .*, got one trained with loss\.{scale} of 0"
    ):
        untaught.policy("mppi")
    untaught.policy("random")


def test_another_policy_and_another_environment_are_refused_by_name(folder):
    run = open_run(folder)
    with pytest.raises(
        ValueError, match="policy: expected mppi, cem or random, since the run has learned no actor, got actor"
    ):
        run.policy("actor")
    other = replace(run, config=replace(run.config, env=replace(run.config.env, id="CartPole-v1")))
    with pytest.raises(ValueError, match=r"env\.id: expected an environment of the observations .*, got CartPole-v1"):
        other.evaluate_policy(run.policy("random"), episodes=1)


def test_an_environment_that_fails_ends_it_with_status_one(folder, monkeypatch, capsys):
    def fail(*arguments):
        raise EnvironmentFailureError("the pole is on fire")

    monkeypatch.setattr(build, "build_evaluation_environments", fail)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(folder), "--episodes", "1"])
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith("worldmodel: evaluating stopped: the pole is on fire\n")


def test_modules_of_the_current_folder_are_found_only_where_an_environment_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    monkeypatch.setattr(evaluate, "run", lambda parser, options: found.append(str(tmp_path) in sys.path))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    main(["evaluate", "run"])
    main(["evaluate", "run", "--episodes", "1"])
    assert found == [False, True]


def test_a_run_from_before_there_were_planners_has_the_usual_one_and_its_settings_may_change(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    written = settings.pop("planner")
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert written["horizon"] == 15 and open_run(copy).config.planner == Config().planner
    changed = yaml.safe_dump(settings | {"planner": written | {"method": "cem", "horizon": 4}})
    (copy / "config.yaml").write_text(changed)
    assert open_run(copy).policy("cem").chooser.planner.horizon == 4
