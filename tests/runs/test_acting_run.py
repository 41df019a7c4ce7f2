"""Runs that act: what they leave, that they go on as they would have, and that they can be asked to act again."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from worldmodel import build
from worldmodel.cli import main
from worldmodel.config import Config
from worldmodel.config_acting import ActingConfig
from worldmodel.config_io import read_config
from worldmodel.data.replay import Replay
from worldmodel.evaluation.own_episodes import collect_episodes
from worldmodel.runs.environments import evaluation_environments
from worldmodel.runs.run import open_run
from worldmodel.runs.session import resume, train
from worldmodel.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, require_settings
from worldmodel.training.progress import RunProgress
from worlds import TINY

# 40 rows after the prefill, a quarter of an update each.
SETTINGS = TINY | {
    "env.time_limit": 12,
    "training.prefill": 60,
    "training.env_steps": 100,
    "training.train_ratio": 16.0,
    "training.log_every": 1,
    "training.evaluate_every": 4,
    "training.save_every": 2,
    "evaluation.episodes": 2,
    "evaluation.max_length": 20,
    "evaluation.context": 4,
    "evaluation.horizon": 6,
    "evaluation.samples": 2,
    "evaluation.particles": 2,
    "evaluation.acting_episodes": 3,
    "evaluation.seed": 5,
    "acting.policy": "actor",
    "actor.units": 8,
    "actor.slow_rate": 0.1,
    "critic.units": 8,
    "behaviour.starts": 6,
    "behaviour.horizon": 3,
    "planner.horizon": 2,
    "planner.candidates": 4,
    "tracking": "none",
}


class CrashError(Exception):
    """Stands for whatever ends a process."""


class Progress(RunProgress):
    """Silent; crashes after an update if asked to, and keeps the last line of training."""

    def __init__(self, crash_after=None):
        super().__init__(100, Console(quiet=True))
        self.crash_after, self.shown, self.said = crash_after, "", []

    def log(self, text):
        self.said.append(text)

    def trained(self, env_steps, updates, elbo, kl):
        super().trained(env_steps, updates, elbo, kl)
        self.shown = self.line()
        if updates == self.crash_after:
            raise CrashError


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    without_pictures(monkeypatch)


def without_pictures(patch):
    patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    patch.setattr("worldmodel.training.acting_evaluator.show_acting", lambda *arguments: None)
    patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)


def start(folder, crash_after=None, **others):
    progress = Progress(crash_after)
    return train(None, {**SETTINGS, "runs": str(folder), **others}, progress=progress), progress


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
    """A run of an actor, and its progress; only looked at."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return start(tmp_path_factory.mktemp("acted"))


def column(run, name):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return {row["update"]: row[name] for row in rows if name in row}


def last_checkpoint(folder):
    return load_checkpoint(folder / "checkpoints" / "last.safetensors")


def test_an_acting_run_learns_an_actor_and_is_evaluated_on_what_it_earns(acted):
    run, progress = acted
    assert set(column(run, "behaviour/loss/value")) == set(range(1, 11))
    assert run.policy("actor").model is run.model and not run.agent.training
    assert run.policy("actor").chooser.act == run.agent.slow_actor.likeliest
    assert list(column(run, "behaviour/optimizer/learning_rate").values()) == [1e-3] * 10
    returns = column(run, "acting/return")
    assert set(returns) == {4, 8, 10}
    assert f"return {returns[10]:.0f}," in progress.shown
    assert set(column(run, "acting/length").values()) == {12.0}
    for name in ("acting_heldout/elbo", "acting_evidence/gap", "acting/predicted_return", "acting/median_return"):
        assert column(run, name).keys() == returns.keys()
    assert set(last_checkpoint(run.folder).parts) == {"world", "behaviour", "policy", "random"}


def test_the_slow_actor_is_played_and_changes_nothing_that_is_learned(acted, tmp_path):
    slow, (alone, _) = last_checkpoint(acted[0].folder).parts, start(tmp_path, **{"actor.slow_rate": None})
    others = last_checkpoint(alone.folder).parts
    kept = {name: x for name, x in slow["behaviour"].items() if not name.startswith("model/slow_actor.")}
    for one, other in ((slow["world"], others["world"]), (kept, others["behaviour"])):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert alone.policy("actor").chooser.act == alone.agent.actor.likeliest


def test_the_best_weights_of_an_acting_run_are_those_that_earned_most(acted):
    run, _ = acted
    returns = column(run, "acting/return")
    best = load_checkpoint(run.folder / "checkpoints" / "best.safetensors").counters
    assert best["updates"] == max(returns, key=returns.get)
    assert best["best_return"] == last_checkpoint(run.folder).counters["best_return"] == max(returns.values())


def test_the_actor_of_an_opened_run_earns_what_its_evaluation_said(acted):
    run, _ = acted
    opened = open_run(run.folder, checkpoint="last")
    with evaluation_environments(opened.config, opened.model.spec, 3) as environments:
        again = collect_episodes(environments, opened.policy("actor", seed=5), episodes=3, seed=5)
    assert again.reward.sum(1).mean().item() == pytest.approx(column(run, "acting/return")[10], rel=1e-5)
    others = opened.evaluate_policy(opened.policy("actor", seed=5), episodes=3, seed=5)
    assert not set(others.returns.round(2)) & set(again.reward.sum(1).numpy().round(2)), (
        "not those that chose the weights"
    )
    with pytest.raises(ValueError, match="horizon: expected a policy that plans, got actor"):
        opened.policy("actor", horizon=4)
    assert opened.policy("mppi").chooser.value == opened.agent.value
    assert opened.policy("mppi").chooser.discount == opened.config.behaviour.discount


def test_rows_are_random_in_the_prefill_and_the_actor_s_behind_it(acted, tmp_path):
    random, _ = start(tmp_path, **{"acting.policy": "random"})
    with Replay.open(acted[0].folder / "replay", read_only=True) as one:
        ours = torch.cat([episode.prev_action[0] for episode in one.episodes()])
    with Replay.open(random.folder / "replay", read_only=True) as other:
        theirs = torch.cat([episode.prev_action[0] for episode in other.episodes()])
    assert torch.equal(ours[:26], theirs[:26])  # two episodes of 13 rows of the first of two environments
    assert not torch.equal(ours, theirs)
    assert not column(random, "acting/return")
    assert "best_elbo" in last_checkpoint(random.folder).counters
    with pytest.raises(ValueError, match=r"^policy: expected mppi, cem or random, since the run has learned no actor"):
        random.policy("actor")


def test_an_interrupted_acting_run_goes_on_with_its_actor_and_what_its_policy_remembers(tmp_path):
    with pytest.raises(CrashError):
        start(tmp_path, crash_after=7)
    (folder,) = tmp_path.glob("run-*")
    kept = last_checkpoint(folder)
    assert kept.counters["updates"] == 6
    assert {"second/carry/0", "second/generator", "first/generator"} <= kept.part("policy").keys()
    resume(folder, progress=Progress())
    assert last_checkpoint(folder).counters["updates"] == 10
    agent = open_run(folder, checkpoint="last").agent.state_dict()
    assert any(not torch.equal(x, kept.part("behaviour")[f"model/{name}"]) for name, x in agent.items())


def test_on_stored_rows_two_halves_are_the_whole_bit_for_bit(acted, tmp_path):
    stored = {"offline": str(acted[0].folder), "training.updates": 5}
    whole, _ = start(tmp_path / "whole", **stored)
    with pytest.raises(CrashError):
        start(tmp_path / "halves", crash_after=3, **stored)
    (folder,) = (tmp_path / "halves").glob("run-*")
    resume(folder, progress=Progress())
    parts, expected = last_checkpoint(folder).parts, last_checkpoint(whole.folder).parts
    assert parts.keys() == expected.keys() >= {"behaviour"}
    for name, state in expected.items():
        assert all(torch.equal(x, parts[name][key]) for key, x in state.items()), name


def test_a_planner_may_collect_the_rows(tmp_path):
    run, _ = start(tmp_path, **{"acting.policy": "cem", "planner.elites": 2})
    assert run.ended_by is None
    assert set(column(run, "acting/return")) == {4, 8, 10}
    kept = last_checkpoint(run.folder)
    assert "behaviour" not in kept.parts and "second/chooser/plan" in kept.part("policy")
    assert set(column(run, "acting/predicted_return")) == set(column(run, "acting/discounted_return")) == {4, 8, 10}
    assert open_run(run.folder).agent is None


def test_a_run_from_before_there_were_actors_is_one_of_a_random_policy(tmp_path):
    sections = ("acting", "actor", "critic", "behaviour")
    settings = {key: value for key, value in build.lasting_settings(Config()).items() if key not in sections}
    checkpoint = Checkpoint(tmp_path / "last", {}, {}, settings)
    require_settings(checkpoint, build.lasting_settings(Config()), build.unnamed_settings())
    acting = replace(Config(), acting=ActingConfig("actor"))
    with pytest.raises(CheckpointError, match=r"acting.policy = 'random', and config.yaml has 'actor'"):
        require_settings(checkpoint, build.lasting_settings(acting), build.unnamed_settings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"acting.policy": "actor", "loss.reward_scale": 0.0}, "random where loss.reward_scale is 0"),
        ({"acting.policy": "mppi", "offline": "data"}, "random or actor where offline names stored data"),
    ],
)
def test_a_policy_that_cannot_act_is_refused_before_work_starts(settings, words):
    with pytest.raises(ValueError, match=rf"^acting.policy: expected {words}"):
        read_config((), settings)


def test_weights_of_an_actor_that_are_missing_are_named(acted, tmp_path):
    run, _ = acted
    folder = shutil.copytree(run.folder, tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("units: 8", "units: 9"))
    with pytest.raises(CheckpointError, match=r"actor.units = 8, and config.yaml has 9"):
        open_run(folder)


def test_the_command_plays_the_actor_unless_it_is_told_otherwise(acted, capsys):
    folder = str(acted[0].folder)
    main(["evaluate", folder, "--episodes", "2"])
    assert "2 episodes of Pendulum-v1, policy actor, starts of seed 0" in capsys.readouterr().out
    main(["evaluate", folder, "--episodes", "1", "--horizon", "2"])
    assert "1 episode of Pendulum-v1, policy mppi" in capsys.readouterr().out


def test_the_last_words_say_what_the_policy_earned(acted):
    run, progress = acted
    returns = column(run, "acting/return")
    words = f"the actor earns {returns[10]:.1f} on average over 3 episodes"
    assert f"{words} (best evaluation: {max(returns.values()):.1f})" in progress.said
