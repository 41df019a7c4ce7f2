"""The dream of a run by its id: made of a folder, in the spaces of its environment, and of a stranger's run too."""

import dataclasses
import re
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import worldmodel_envs  # noqa: F401  registers the dream
from brief_runs import train_briefly
from worldmodel.data.replay import Replay
from worldmodel.runs.dream import make_dream, make_dreams
from worldmodel.runs.run import open_run
from worldmodel.training.checkpoint import load_checkpoint, save_checkpoint
from worldmodel.types import Rows

ROOT = Path(__file__).parents[2]
DREAM = "worldmodel/Dream-v0"


@pytest.fixture(scope="module")
def train_tiny(tmp_path_factory):
    def make(**settings):
        return train_briefly(tmp_path_factory.mktemp("runs"), {"env.id": "CartPole-v1"} | settings)

    return make


@pytest.fixture(scope="module")
def folder(train_tiny):
    return train_tiny()


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "acting.md").read_text(), re.DOTALL)


def test_the_page_about_dreams_works_as_written(folder, monkeypatch):
    names = {}
    exec(SNIPPETS[0].replace("runs/cartpole-...", str(folder)), names)
    assert names["obs"].shape == (1000, 4) and names["reward"].shape == (1000,)
    ppo = pytest.importorskip("stable_baselines3").PPO
    asked = []
    monkeypatch.setattr(ppo, "learn", lambda agent, steps: asked.append((agent.n_envs, steps)))
    exec(SNIPPETS[1], {"gymnasium": gymnasium, "run": folder})
    assert asked == [(32, 100_000)] and len(SNIPPETS) == 2


def stored_rows(folder):
    with Replay.open(folder, read_only=True) as replay:
        return torch.cat([replay.sample(1, len(replay), torch.Generator()).obs["obs"][0]]).numpy()


def test_gymnasium_makes_the_dream_in_the_spaces_of_the_real_environment(folder):
    env, real = gymnasium.make(DREAM, run=folder), gymnasium.make("CartPole-v1")
    assert (env.observation_space, env.action_space) == (real.observation_space, real.action_space)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*infinity. This is probably too")
        check_env(env.unwrapped)


def test_gymnasium_makes_many_and_they_are_those_of_the_same_seed(folder):
    envs, again = gymnasium.make_vec(DREAM, 5, run=str(folder)), gymnasium.make_vec(DREAM, 5, run=open_run(folder))
    assert envs.single_action_space == spaces.Discrete(2) and envs.num_envs == 5
    for one in (envs, again):
        first, _ = one.reset(seed=3)
        rows = stored_rows(folder / "replay")
        assert all((row == rows).all(-1).any() for row in first)  # rows that were seen, as they were
    action = np.array([0, 1, 1, 0, 1])
    for got, other in zip(envs.step(action)[:4], again.step(action)[:4], strict=True):
        np.testing.assert_array_equal(got, other)


def test_the_settings_of_a_dream_reach_it(folder):
    envs = make_dreams(folder, 300, horizon=1, ends="never", starts="heldout")
    first, _ = envs.reset(seed=0)
    with Replay.open(folder / "heldout", read_only=True) as heldout:
        beginnings = np.stack([episode.obs["obs"][0, 0].numpy() for episode in heldout.episodes()])
    assert {tuple(row) for row in first} == {tuple(row) for row in beginnings}
    assert envs.step(np.zeros(300, int))[3].all()
    anywhere, _ = make_dreams(folder, 300, starts="heldout", from_resets=False).reset(seed=0)
    assert len({tuple(row) for row in anywhere}) > len(beginnings)
    draws, means = (make_dreams(folder, 3, observed=observed, ends="never") for observed in ("sample", "mean"))
    for one in (draws, means):
        one.reset(seed=0)
    assert not np.isclose(draws.step(np.zeros(3, int))[0], means.step(np.zeros(3, int))[0]).any()


def test_a_dream_lasts_as_long_as_the_longest_episode_that_was_seen(folder):
    with Replay.open(folder / "replay", read_only=True) as replay:
        longest = max(episode.is_first.shape[1] - 1 for episode in replay.episodes())
    envs = make_dreams(folder, 2, ends="never")
    envs.reset(seed=0)
    truncated = [envs.step(np.zeros(2, int))[3].all() for _ in range(longest)]
    assert truncated == [False] * (longest - 1) + [True] and longest > 2


def test_rows_without_a_whole_episode_are_dreamt_from_when_asked(folder, tmp_path):
    run, spec = open_run(folder), open_run(folder).model.spec
    no, zero = np.zeros(1, bool), np.zeros(1, np.float32)
    with Replay(tmp_path / "replay", spec, capacity=10, streams=1) as fragment:
        for t in range(3):
            obs, step = {"obs": np.full((1, 4), 0.01 * t, np.float32)}, np.array([t], np.int32)
            fragment.append(Rows(obs, np.zeros((1, 2), np.float32), zero, np.array([t == 0]), no, no, step))
    unending = dataclasses.replace(run, folder=tmp_path)
    with pytest.raises(ValueError, match=r"^horizon, from_resets: expected a whole episode in .*, found none;"):
        make_dreams(unending, 2)
    first, _ = make_dreams(unending, 2, horizon=4, from_resets=False).reset(seed=0)
    assert first.shape == (2, 4)


def test_contexts_go_back_as_far_as_they_are_asked_to(folder):
    run, seen = open_run(folder), []
    run.model.encoder.register_forward_hook(lambda *_: seen.append(1))
    for context in (1, 5):
        make_dreams(run, 3, context=context, from_resets=False).reset(seed=0)
        assert len(seen) == context
        seen.clear()


def test_pixels_are_dreamt_and_rendered(train_tiny):
    pixels = {"env.pixels": "only", "env.image_size": 16, "encoder.depth": 2, "decoder.depth": 2}
    env = gymnasium.make(DREAM, run=train_tiny(**pixels), render_mode="rgb_array", ends="never")
    assert env.observation_space == spaces.Box(0, 255, (16, 16, 3), np.uint8)
    env.reset(seed=0)
    obs, *_ = env.step(0)
    np.testing.assert_array_equal(env.render(), obs)


def test_actions_of_another_range_and_hidden_entries(train_tiny):
    folder = train_tiny(**{"env.id": "Pendulum-v1", "env.hide": {"obs": [2]}})
    env = make_dream(folder)
    assert env.action_space == gymnasium.make("Pendulum-v1").action_space
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert make_dream(folder, spaces="rows").action_space == spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    "env",
    [
        {"id": "evil_module:World-v0"},
        {"id": "MiniGrid-evil_module:World-v0"},
        {"id": "ALE/evil_module:World-v0"},
        {"wrappers": ["evil_module:Wrapper"]},
        {"kwargs": {"sutton_barto_reward": {"class_path": "evil_module.Evil"}}},
    ],
    ids=["id", "as of a suite", "as of another suite", "wrapper", "argument"],
)
def test_the_dream_of_a_strangers_run_imports_nothing_that_it_names(folder, tmp_path, monkeypatch, env):
    (tmp_path / "evil_module.py").write_text("raise RuntimeError('the module was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(folder, copy := tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["env"] |= env
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    for path in (copy / "checkpoints").glob("*.safetensors"):
        found = load_checkpoint(path)
        found.settings["env"] |= env
        save_checkpoint(path, found.parts, found.counters, found.settings)
    monkeypatch.setattr("worldmodel.runs.dream.real_spaces", lambda *a, **b: pytest.fail("it was made"))
    dream = make_dream(copy)
    assert dream.action_space == spaces.Discrete(2)
    assert dream.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)
    dream.reset(seed=0), dream.step(1)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_envs": 0}, "num_envs: expected at least 1, got 0"),
        ({"horizon": 0}, "horizon: expected at least 1, got 0"),
        ({"horizon": "long"}, "horizon: expected a number of steps, longest or None, got 'long'"),
        ({"context": 0, "from_resets": False}, "context: expected at least 1, got 0"),
        ({"context": 3}, "context: expected none from resets, before which there are no rows, got 3"),
        ({"starts": "elsewhere"}, "starts: expected one of replay, heldout, got 'elsewhere'"),
        ({"spaces": "all"}, "spaces: expected one of world, rows, None, got 'all'"),
        ({"ends": "soon"}, "ends: expected one of"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_the_run_is_opened(options, words, monkeypatch):
    monkeypatch.setattr("worldmodel.runs.dream.open_run", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=words):
        make_dreams("nowhere", **options)


def test_an_environment_that_cannot_be_made_and_one_of_other_rows_are_told(folder):

    run = open_run(folder)
    gone, other = (
        dataclasses.replace(run, config=dataclasses.replace(run.config, env=dataclasses.replace(run.config.env, id=i)))
        for i in ("CartPole-v77", "Pendulum-v1")
    )
    with pytest.raises(ValueError, match=r"env\.id: expected an environment .* spaces='rows' does without the env"):
        make_dream(gone, spaces="world")
    with pytest.raises(ValueError, match="spaces: expected the spaces that the rows came from"):
        make_dream(other)


def test_a_model_that_learned_no_rewards_has_no_dream(folder):

    run = open_run(folder)
    loss = dataclasses.replace(run.config.loss, reward_scale=0.0)
    with pytest.raises(ValueError, match=r"run: expected a model of rewards and ends, .* loss\.reward_scale of 0"):
        make_dream(dataclasses.replace(run, config=dataclasses.replace(run.config, loss=loss)))
