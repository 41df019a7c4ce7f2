import signal

import numpy as np
import pytest
import torch

from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.data.environment import make_environments
from worldmodel.data.offline import DataFolders, open_data
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.seeding import Stream, make_generator
from worldmodel.training import progress
from worlds import register

OPTIONS = ["--env.id", "Counting-v0", "--env.num_envs", "3", "--evaluation.episodes", "4", "--seed", "5"]


@pytest.fixture(autouse=True)
def _worlds(tmp_path, monkeypatch):
    register()
    monkeypatch.chdir(tmp_path)


def collect(*options):
    main(["collect", *OPTIONS, *options])


def test_what_is_written_is_what_a_training_would_begin_with(tmp_path, capsys):
    collect("--rows", "40", "--output", "data/counting")
    folder = tmp_path / "data" / "counting"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "replay", "heldout"}
    assert [path.name for path in folder.parent.iterdir()] == ["counting"]
    assert open_data(folder) == DataFolders(folder / "replay", folder / "heldout")
    config = read_config(folder / "config.yaml")
    assert (config.env.id, config.env.num_envs, config.seed) == ("Counting-v0", 3, 5)
    with make_environments("Counting-v0", count=3) as environments:
        policy = RandomPolicy(environments.spec.action, make_generator(5, stream=Stream.POLICY))
        rollout = Rollout(environments, policy, 5)
        steps = [rollout.step() for _ in range(14)]  # 42 rows: three environments write as many each
    ends = [(t, i) for i in range(3) for t in range(14) if steps[t].is_last[i]]
    with Replay.open(folder / "replay") as replay:
        assert (len(replay), replay.capacity) == (42, 42)
        episodes = list(replay.episodes())
        assert len(episodes) == len(ends)
        for episode, (end, i) in zip(episodes, ends, strict=True):
            length = episode.reward.shape[1]
            for t, rows in enumerate(steps[end + 1 - length : end + 1]):
                np.testing.assert_array_equal(episode.obs["count"][0, t], rows.obs["count"][i])
                np.testing.assert_array_equal(episode.prev_action[0, t], rows.prev_action[i])
    whole = sum(episode.reward.shape[1] for episode in episodes)
    said = capsys.readouterr().out
    assert f"42 rows, {len(ends)} whole episodes of {whole / len(ends):.1f} rows on average" in said
    with Replay.open(folder / "heldout") as heldout:
        lengths = [episode.reward.shape[1] for episode in heldout.episodes()]
    assert len(lengths) == 4
    assert f"{sum(lengths)} rows, 4 whole episodes of {np.mean(lengths):.1f} rows on average" in said


def test_progress_is_told_now_and_then(capsys, monkeypatch):
    at = progress.Watch.at

    def beating(self, detail):
        at(self, detail)
        self.beat()

    monkeypatch.setattr(progress.Watch, "at", beating)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    collect("--rows", "6", "--output", "data")
    lines = capsys.readouterr().err.splitlines()
    assert {"held-out episodes: 4 of 4 collected", "collecting: 3/6 rows", "collecting: 6/6 rows"} <= {
        line.split(",")[0] for line in lines
    }


@pytest.mark.parametrize(
    "options, named",
    [
        (["--rows", "0", "--output", "new"], "rows: expected at least 1, got 0"),
        (["--rows", "10", "--output", "there"], "output: expected a folder that does not exist yet, got there"),
        (["--rows", "10", "--output", "new", "--env.id", "Nothing-v0"], "env.id: expected an environment"),
        (["--rows", "10"], "output"),
        (["--output", "new"], "rows"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_mistake_ends_with_status_2_before_anything_is_written(tmp_path, capsys, options, named):
    (tmp_path / "there").mkdir()
    with pytest.raises(SystemExit) as end:
        collect(*options)
    assert end.value.code == 2
    assert named in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


def test_a_place_that_cannot_be_written_in_ends_with_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        collect("--rows", "6", "--output", "file/data")
    assert end.value.code == 1
    assert "worldmodel: collect stopped: " in capsys.readouterr().err


def test_an_environment_that_fails_ends_it_with_status_1_and_no_data_folder(tmp_path, capsys):
    faulty = ["--env.id", "Faulty-v0", "--env.kwargs", '{"fault": "raise"}', "--evaluation.episodes", "1"]
    with pytest.raises(SystemExit) as end:
        collect("--rows", "40", "--output", "data", *faulty)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "worldmodel: collecting stopped: " in said
    assert "the pole is on fire" in said
    assert [path.name for path in tmp_path.iterdir()] == ["data.partial"]
    collect("--rows", "6", "--output", "data")  # another attempt takes its place
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_status_and_no_data_folder(tmp_path, capsys, monkeypatch, number, status):
    step = Rollout.step

    def struck(self):
        if self.environments.count == 3:
            signal.raise_signal(number)
            pytest.fail("went on")
        return step(self)

    monkeypatch.setattr(Rollout, "step", struck)
    with pytest.raises(SystemExit) as end:
        collect("--rows", "40", "--output", "data")
    assert end.value.code == status
    assert f"collecting stopped by {signal.Signals(number).name}; what was collected stays in data.partial" in (
        capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data.partial"]


def test_a_seed_decides_the_rows_and_another_one_the_held_out_episodes(tmp_path):
    rows = {}
    for name, seed, heldout in (("a", "1", "7"), ("b", "1", "7"), ("c", "2", "7"), ("d", "1", "8")):
        collect("--rows", "12", "--output", name, "--seed", seed, "--evaluation.seed", heldout)
        for part in ("replay", "heldout"):
            with Replay.open(tmp_path / name / part) as replay:
                rows[name, part] = torch.cat([episode.prev_action for episode in replay.episodes()], 1)
    for part, other, same in (("replay", "c", "d"), ("heldout", "d", "c")):
        assert torch.equal(rows["a", part], rows["b", part])
        assert torch.equal(rows["a", part], rows[same, part])
        assert not torch.equal(rows["a", part], rows[other, part])
