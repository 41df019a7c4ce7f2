"""Minari datasets, written and read through Minari itself in a folder of the test's own."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from worldmodel.data import minari as ours
from worldmodel.data.environment import make_environments
from worldmodel.data.minari import Exported, MissingExtraError, export_minari, open_minari
from worldmodel.data.offline import divide, episode_rows, prepare_data
from worldmodel.data.policy import RandomPolicy, random_actions
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.data.spaces import UnsupportedSpaceError
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch, register

BINARY_SPEC = EnvSpec({"card": ObservationSpec("categorical", (1,), (4,))}, ActionSpec("binary", 3))
GROUPS_SPEC = EnvSpec(
    {"camera": ObservationSpec("image", (32, 32, 1)), "obs/reward": ObservationSpec("vector", (1,))},
    ActionSpec("categorical", 5, (2, 3)),
)
NAME = "worldmodel/test-v0"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Where Minari keeps its datasets during a test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def whole_episodes(spec, lengths=(4, 2, 6)):
    """Episodes of a policy's actions, the first truncated, the second terminated, and so on."""
    generator = torch.Generator().manual_seed(0)
    for i, length in enumerate(lengths):
        episode = make_batch(spec, batch=1, length=length, seed=i, first=())
        episode.prev_action[0, 1:] = random_actions(spec.action, (length - 1,), generator)
        episode.is_last[0, -1] = True
        episode.is_terminal[0, -1] = i % 2 == 1
        yield episode


def store(folder, spec, episodes):
    with Replay(folder, spec, capacity=100, streams=1) as replay:
        for episode in episodes:
            for rows in episode_rows(episode):
                replay.append(rows)
    return Replay.open(folder, read_only=True)


def assert_same(found, expected):
    for path, x in expected.obs.items():
        torch.testing.assert_close(found.obs[path], x, rtol=0, atol=0)
    for name in expected._fields[1:]:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    "spec", [VECTOR_SPEC, MIXED_SPEC, BINARY_SPEC, GROUPS_SPEC], ids=["vector", "mixed", "binary", "groups"]
)
def test_what_is_exported_is_read_back_row_for_row_and_bit_for_bit(tmp_path, spec):
    made = list(whole_episodes(spec))
    size = next((leaf.shape[0] for leaf in spec.observations.values() if leaf.kind == "image"), 64)
    with store(tmp_path / "replay", spec, made) as replay:
        assert export_minari(replay, NAME) == Exported(episodes=3, rows=12, left_behind=0)
    source = open_minari(NAME, image_size=size)
    assert source.spec == spec
    for _ in range(2):  # it can be walked through again
        for found, expected in zip(source.episodes(), made, strict=True):
            assert_same(found, expected)
    divide(source, tmp_path / "data", heldout=1, generator=torch.Generator().manual_seed(0))
    with Replay.open(tmp_path / "data" / "replay") as again, Replay.open(tmp_path / "data" / "heldout") as held_out:
        assert again.spec == held_out.spec == spec
        assert len(again) + len(held_out) == 12


@pytest.mark.parametrize("name", ["Counting-v0", "Bytes-v0"])
def test_episodes_of_an_environment_go_there_and_back_and_unfinished_ones_stay(tmp_path, name):
    register()
    with make_environments(name, count=2, image_size=32) as environments:
        policy = RandomPolicy(environments.spec.action, torch.Generator().manual_seed(0))
        rollout = Rollout(environments, policy, 0)
        with Replay(tmp_path / "replay", environments.spec, capacity=100, streams=2) as replay:
            for _ in range(14):
                replay.append(rollout.step())
            stored = list(replay.episodes())
            done = export_minari(replay, NAME)
    rows = sum(episode.reward.shape[1] for episode in stored)
    assert done == Exported(len(stored), rows, 28 - rows)
    assert done.left_behind > 0
    source = open_minari(NAME, image_size=32)
    assert not source.lossy
    for found, expected in zip(source.episodes(), stored, strict=True):
        assert_same(found, expected)


def test_a_source_is_a_dataset_a_replay_or_a_folder_of_both_parts(tmp_path):
    made = list(whole_episodes(VECTOR_SPEC))
    with store(tmp_path / "whole", VECTOR_SPEC, made) as replay:
        export_minari(replay, NAME)

    def prepare(source, into):
        chance = torch.Generator().manual_seed(0)
        return prepare_data(str(source), tmp_path / into, heldout=1, generator=chance, image_size=64)

    assert prepare(f"minari:{NAME}", "a") == (tmp_path / "a" / "replay", tmp_path / "a" / "heldout")
    assert prepare(tmp_path / "whole", "b") == (tmp_path / "b" / "replay", tmp_path / "b" / "heldout")
    assert prepare(tmp_path / "a", "c") == (tmp_path / "a" / "replay", tmp_path / "a" / "heldout")
    assert not (tmp_path / "c").exists()
    for part, count in (("replay", 2), ("heldout", 1)):
        with Replay.open(tmp_path / "a" / part) as a, Replay.open(tmp_path / "b" / part) as b:
            pairs = list(zip(a.episodes(), b.episodes(), strict=True))
        assert len(pairs) == count
        for found, expected in pairs:
            assert_same(found, expected)


def test_minari_itself_finds_canonical_spaces_and_every_step(tmp_path):
    made = list(whole_episodes(MIXED_SPEC))
    with store(tmp_path / "replay", MIXED_SPEC, made) as replay:
        export_minari(replay, NAME, author="A. Author", description="of a test")
    dataset = minari.load_dataset(NAME)
    assert dataset.observation_space == spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "cards": spaces.MultiDiscrete([3, 4], dtype=np.int32),
            "joints": spaces.Dict({"angle": spaces.Box(-np.inf, np.inf, (2,), np.float32)}),
            "lamps": spaces.MultiBinary(2),
        }
    )
    assert dataset.action_space == spaces.Discrete(3)
    assert dataset.storage.metadata["author"] == {"A. Author"}
    assert "author_email" not in dataset.storage.metadata
    assert (dataset.total_episodes, dataset.total_steps) == (3, 9)
    for episode, expected in zip(dataset, made, strict=True):
        np.testing.assert_array_equal(episode.actions, expected.prev_action[0, 1:].argmax(-1))
        np.testing.assert_array_equal(episode.rewards, expected.reward[0, 1:], strict=True)
        np.testing.assert_array_equal(episode.observations["joints"]["angle"], expected.obs["joints/angle"][0])
        assert not episode.terminations[:-1].any() and not episode.truncations[:-1].any()
        assert episode.terminations[-1] == expected.is_terminal[0, -1] != episode.truncations[-1]


def test_an_environment_can_be_filed_with_the_dataset(tmp_path):
    with store(tmp_path / "replay", VECTOR_SPEC, whole_episodes(VECTOR_SPEC)) as replay:
        export_minari(replay, NAME, environment=gymnasium.spec("Pendulum-v1"))
    environment = minari.load_dataset(NAME).recover_environment()
    assert environment.spec.id == "Pendulum-v1"
    environment.close()


def test_actions_go_out_as_the_environment_was_given_them(tmp_path):
    (episode,) = whole_episodes(VECTOR_SPEC, [3])
    episode.prev_action[0, 1:] = torch.tensor([[1e-30, -40.0], [0.3, 1.5]])
    with store(tmp_path / "replay", VECTOR_SPEC, [episode]) as replay:
        export_minari(replay, NAME)
    (found,) = open_minari(NAME).episodes()
    assert found.prev_action[0].tolist() == torch.tensor([[0, 0], [1e-30, -1], [0.3, 1]]).tolist()


def test_integers_and_their_bounds_come_back(tmp_path):
    observations = {
        "far": ObservationSpec("integer", (2,), low=(-(2**40), 0), high=(2**40, 7)),
        "grid": ObservationSpec("integer", (9,), low=(0,) * 9, high=(255,) * 9),
        "counter": ObservationSpec("integer", (1,), low=(-5,), high=(2**31 - 1,)),
    }
    spec = EnvSpec(observations, ActionSpec("categorical", 3, (3,)))
    made = list(whole_episodes(spec))
    assert {path: x.dtype for path, x in made[0].obs.items()} == {
        "far": torch.int64,
        "grid": torch.uint8,
        "counter": torch.int32,
    }
    with store(tmp_path / "replay", spec, made) as replay:
        export_minari(replay, NAME)
    source = open_minari(NAME)
    assert source.spec == spec
    for found, expected in zip(source.episodes(), made, strict=True):
        assert_same(found, expected)
    assert {leaf.kind for leaf in open_minari(NAME, integers="density").spec.observations.values()} == {"vector"}


# Data that others made: spaces as environments have them, and Minari's own defaults.
STEPS = 5
THEIRS = {
    "discrete from 3": (
        spaces.Discrete(4, start=3),
        np.array([3, 6, 4, 5, 3, 3]),
        "obs",
        [[0], [3], [1], [2], [0], [0]],
    ),
    "a number": (spaces.Box(0, 9, (), np.float64), np.arange(6.0), "obs", np.arange(6.0)[:, None]),
    "a tuple": (
        spaces.Tuple((spaces.Box(0, 9, (1,), np.float32), spaces.Discrete(6))),
        (np.arange(6, dtype=np.float32)[:, None], np.arange(6)),
        "1",
        np.arange(6)[:, None],
    ),
}
PENDULUM_ACTIONS = spaces.Box(-2, 2, (1,), np.float32)


def create(observation_space, observations, *, action_space=PENDULUM_ACTIONS, actions=None, ends=None, **others):
    """A dataset of one episode of five steps, as somebody else's program would write it."""
    terminations, truncations = ends or ([False] * STEPS, [False] * (STEPS - 1) + [True])
    buffer = EpisodeBuffer(
        observations=observations,
        actions=np.full((STEPS, 1), -0.5, np.float32) if actions is None else actions,
        rewards=others.pop("rewards", [1.0, 2.0, 3.0, 4.0, 5.0]),
        terminations=terminations,
        truncations=truncations,
        infos={},
    )
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            NAME, [buffer], observation_space=observation_space, action_space=action_space, **others
        )
    return open_minari(f"minari:{NAME}", image_size=16)


@pytest.mark.parametrize("space, observations, path, expected", THEIRS.values(), ids=THEIRS)
def test_a_dataset_of_others_becomes_rows(space, observations, path, expected):
    (episode,) = create(space, observations).episodes()
    np.testing.assert_array_equal(episode.obs[path][0], expected)
    assert episode.prev_action[0].tolist() == [[0]] + [[-0.25]] * STEPS
    assert episode.reward[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert episode.is_first[0].tolist() == [True] + [False] * STEPS
    assert episode.is_last[0].tolist() == [False] * STEPS + [True]
    assert not episode.is_terminal.any()
    assert episode.episode_step[0].tolist() == list(range(STEPS + 1))
    assert episode.valid.all()


@pytest.mark.parametrize("terminated, truncated", [(True, False), (False, True), (True, True), (False, False)])
def test_an_episode_ends_where_its_data_does_and_is_terminal_only_if_it_terminated(terminated, truncated):
    before = [False] * (STEPS - 1)
    source = create(spaces.Discrete(1), np.zeros(6, int), ends=([*before, terminated], [*before, truncated]))
    (episode,) = source.episodes()
    assert episode.is_last[0].tolist() == [False] * STEPS + [True]
    assert episode.is_terminal[0].tolist() == [False] * STEPS + [terminated]


def test_text_is_left_out_unless_it_is_to_be_refused():
    space = spaces.Dict({"words": spaces.Text(8), "x": spaces.Discrete(9)})
    source = create(space, {"words": ["go"] * 6, "x": np.arange(6)})
    with pytest.raises(UnsupportedSpaceError, match="'words'"):
        open_minari(NAME, drop_text=False)
    assert source.left_out == ("words",)
    assert list(source.spec.observations) == ["x"]
    assert next(source.episodes()).obs["x"][0, :, 0].tolist() == list(range(6))


def test_images_are_resized_and_lossy_ones_are_called_so():
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 32, 3), dtype=np.uint8)
    source = create(spaces.Box(0, 255, (48, 32, 3), np.uint8), images)
    assert source.lossy
    assert source.spec.observations == {"obs": ObservationSpec("image", (16, 16, 3))}
    (episode,) = source.episodes()
    jpeg = next(iter(minari.load_dataset(NAME))).observations
    assert not np.array_equal(jpeg, images)
    mean = jpeg.reshape(6, 16, 3, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(episode.obs["obs"][0], mean, atol=1)  # rounded to bytes, once a direction


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"ends": ([False, True, False, False, False], [False] * 5)}, "end at the last of its 5 steps"),
        ({"ends": ([False] * 5, [True, False, False, False, True])}, "end at the last of its 5 steps"),
        ({"observations": np.arange(5)}, "'obs': expected 6 for 5 steps, got 5"),
        ({"observations": np.arange(6) + 1}, "'obs': expected (classes from 0 to below|a member of)"),
        ({"actions": np.full((4, 1), 0.5, np.float32)}, "an action for each; got 5 and 4"),
        ({"actions": np.full((5, 1), np.nan, np.float32)}, "finite rewards and actions"),
        ({"rewards": [0.0, np.inf, 0.0, 0.0, 0.0]}, "finite rewards and actions"),
        ({"action_space": spaces.Discrete(2), "actions": np.array([0, 1, 2, 0, 0])}, "expected one of Discrete"),
        ({"observation_space": spaces.Box(0, 1, ()), "observations": np.array([0, 0, np.nan, 0, 0, 0])}, "finite numb"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_data_that_breaks_its_own_promise_is_refused_with_its_episode(changed, words):
    source = create(**{"observation_space": spaces.Discrete(6), "observations": np.arange(6), **changed})
    with pytest.raises(ValueError, match=f"episode 0 of the dataset: .*{words}"):
        list(source.episodes())


def test_an_id_must_be_new_and_well_formed_and_what_was_there_is_kept(tmp_path):
    with store(tmp_path / "replay", VECTOR_SPEC, whole_episodes(VECTOR_SPEC)) as replay:
        export_minari(replay, NAME)
        with pytest.raises(ValueError, match=f"dataset: expected a new id, got {NAME}"):
            export_minari(replay, NAME)
        for bad in ("noversion", "a/../b-v0", "", "minari:"):
            with pytest.raises(ValueError, match="dataset: expected an id such as namespace/name-v0"):
                export_minari(replay, bad)
    assert len(minari.load_dataset(NAME)) == 3


def test_a_dataset_that_is_not_there_is_named_with_the_way_to_it(root):
    with pytest.raises(FileNotFoundError, match=r"minari:some/thing-v3: .*`minari download some/thing-v3`") as failure:
        open_minari("minari:some/thing-v3")
    assert str(root) not in str(failure.value)


def test_an_export_that_fails_leaves_nothing_behind(tmp_path, root, monkeypatch):
    decode = ours._decode_actions

    def fail_at_the_third(space, vectors, seen=[]):  # noqa: B006
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return decode(space, vectors)

    with store(tmp_path / "replay", VECTOR_SPEC, whole_episodes(VECTOR_SPEC)) as replay:
        with monkeypatch.context() as patch:
            patch.setattr(ours, "_decode_actions", fail_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                export_minari(replay, NAME)
        assert not (root / NAME).exists()
        assert export_minari(replay, NAME).episodes == 3


def test_a_replay_without_a_whole_episode_is_not_exported(tmp_path, root):
    (episode,) = whole_episodes(VECTOR_SPEC, [4])
    episode.is_last[0, -1] = False
    replay = store(tmp_path / "replay", VECTOR_SPEC, [episode])
    with replay, pytest.raises(ValueError, match="at least one whole episode"):
        export_minari(replay, NAME)
    assert not (root / NAME).exists()


@pytest.mark.parametrize("paths", [("arm", "arm/angle"), ("arm/angle", "arm"), ("a", "a/b/c"), ("a//b",), ("./a",)])
def test_paths_that_hdf5_would_confuse_are_refused(tmp_path, root, paths):
    spec = EnvSpec({path: ObservationSpec("vector", (1,)) for path in paths}, ActionSpec("continuous", 1))
    replay = store(tmp_path / "replay", spec, whole_episodes(spec))
    with replay, pytest.raises(ValueError, match="expected a path that can be a Dict in a Dict"):
        export_minari(replay, NAME)
    assert not (root / NAME).exists()


@pytest.mark.parametrize("missing", ["minari", "h5py"])
def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[minari\]' -c constraints\.txt"):
        open_minari(NAME)


def test_minari_is_not_imported_before_it_is_needed():
    code = "import sys, worldmodel.data.minari; assert not {'minari', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ours.__file__).parents[2], timeout=60)
