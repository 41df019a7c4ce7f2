"""Runs of two processes that torchrun starts: equal weights, one record, signals, losses, and other numbers of them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worldmodel
from brief_runs import TWELVE_UPDATES
from worldmodel.data.replay import Replay
from worldmodel.training.checkpoint import load_checkpoint

ROOT = Path(worldmodel.__file__).parent.parent
SETTINGS = TWELVE_UPDATES | {
    "replay.batch_size": 6,
    "training.train_ratio": 4.8,  # for as many updates
    "evaluation.acting_episodes": 1,
    "acting.policy": "actor",
    "behaviour.starts": 6,
    "behaviour.horizon": 3,
}
OPTIONS = [f"--{key}={value}" for key, value in SETTINGS.items()]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SCRIPT = str(ROOT / "tests" / "ranks_script.py")
pytestmark = pytest.mark.slow


def launch(processes, arguments, happening=None):
    """Start processes that run the command; see `ranks_script`."""
    command = [SCRIPT, json.dumps(happening or {"rank": 0}), *arguments]
    torchrun = [*TORCHRUN, "--nproc-per-node", str(processes), *command]
    return subprocess.Popen(torchrun, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(running, timeout=300):
    """Wait for them: -> the status, updates, weights' checksum and steps of each by rank; their errors."""
    out, err = running.communicate(timeout=timeout)
    found = re.findall(r"END (\d) (\d+) (\d+) (\d+) (\d+)", out)
    return {int(rank): tuple(map(int, rest)) for rank, *rest in found}, err


def started(folder, **happening):
    """A run of two processes, until its end or until something happens: -> its folder, ends and errors."""
    ends, err = ended(launch(2, ["train", *OPTIONS, "--runs", str(folder)], happening))
    made = list(folder.glob("run-*"))
    assert len(made) == 1, err
    return made[0], ends, err


def resumed(folder, processes):
    """Go on with so many processes: -> their ends and errors."""
    return ended(launch(processes, ["train", "--resume", str(folder)]))


def counters(folder):
    return load_checkpoint(folder / "checkpoints" / "last.safetensors").counters


def rows_in(folder):
    with Replay.open(folder, read_only=True) as replay:
        return replay.rows_written


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Copies of a run that SIGTERM to its second process stopped after update 4: called with where to."""
    folder, ends, err = started(tmp_path_factory.mktemp("stopped"), rank=1, update=4, signal=signal.SIGTERM)
    return lambda to: (Path(shutil.copytree(folder, to / folder.name)), ends, err)


def test_a_sigterm_to_one_of_two_stops_both_at_the_same_update_with_everything_saved(stopped, tmp_path):
    folder, ends, err = stopped(tmp_path)
    assert {rank: end[:2] for rank, end in ends.items()} == {0: (143, 4), 1: (143, 4)}, err
    assert ends[0] == ends[1]  # the weights and the steps too
    assert err.count("stopped by SIGTERM after update 4; everything is saved") == 1
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.safetensors")
    assert checkpoint.counters["updates"] == 4
    steps = [rows_in(folder / "replay"), rows_in(folder / "replay" / "rank-1")]
    assert steps[0] == checkpoint.counters["env_steps"] == 2 * steps[1] == ends[0][3]
    first, second = checkpoint.parts["random"], checkpoint.of_rank(1).parts["random"]
    assert first.keys() == second.keys() == {"sampling", "latents", "behaviour"}
    assert all((first[name] != second[name]).any() for name in first)
    assert len(json.loads((folder / "versions.json").read_text())["sessions"]) == 1
    assert [row["update"] for row in metrics(folder) if "train/elbo" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_run_of_two_goes_on_with_one_as_many_and_three_and_then_with_another_number(stopped, tmp_path, processes):
    folder, *_ = stopped(tmp_path)
    ends, err = resumed(folder, processes)
    assert {rank: end[:2] for rank, end in ends.items()} == {rank: (0, 12) for rank in range(processes)}, err
    assert len({end[2:] for end in ends.values()}) == 1
    assert 160 <= rows_in(folder / "replay") == counters(folder)["env_steps"] == ends[0][3] < 160 + 2 * processes
    assert [row["update"] for row in metrics(folder) if "train/elbo" in row] == list(range(1, 13))
    path, other = folder / "config.yaml", 3 - min(processes, 2)  # rows of ranks that are gone, or a rank without state
    path.write_text(path.read_text().replace("env_steps: 160", "env_steps: 200"))
    ends, err = resumed(folder, other)
    assert {rank: end[:2] for rank, end in ends.items()} == {rank: (0, 16) for rank in range(other)}, err
    assert len(set(ends.values())) == 1 and ends[0][3] >= 200


def test_a_process_that_is_killed_takes_the_other_down_with_a_sentence_and_the_run_goes_on(tmp_path):
    folder, ends, err = started(tmp_path, rank=1, update=5, signal=signal.SIGKILL)
    took = time.time() - (folder / "metrics.jsonl").stat().st_mtime  # since the update before
    assert ends.keys() == {0} and ends[0][0] == 1, err
    assert "the run stopped: rank 1 of 2 has ended" in err and f"--resume {folder}` goes on" in err
    assert took < 60
    assert counters(folder)["updates"] == 3
    ends, err = resumed(folder, 2)
    assert {rank: end[:2] for rank, end in ends.items()} == {0: (0, 12), 1: (0, 12)}, err


def test_a_failing_environment_of_one_stops_both_with_a_checkpoint(tmp_path):
    folder, ends, err = started(tmp_path, rank=1, update=4, fail=True)
    assert {rank: end[0] for rank, end in ends.items()} == {0: 1, 1: 1}, err
    assert "rank 1: the run stopped: a cog broke" in err
    assert "the run stopped: an environment of another process failed" in err
    assert counters(folder)["updates"] == ends[0][1] == ends[1][1] >= 4
    with Replay.open(folder / "replay", read_only=True) as rows:  # the other process had one more than this one
        assert counters(folder)["env_steps"] == rows.rows_written
    again, err = resumed(folder, 2)
    assert {rank: end[0] for rank, end in again.items()} == {0: 0, 1: 0}, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_torchrun_stops_both_at_the_same_update(tmp_path, number, status):
    running = launch(2, ["train", *OPTIONS, f"--runs={tmp_path}", "--training.env_steps=100000"])
    while not any((path.read_text().count("train/elbo") > 3) for path in tmp_path.glob("run-*/metrics.jsonl")):
        assert running.poll() is None
        time.sleep(0.5)
    running.send_signal(number)
    ends, err = ended(running)
    assert {rank: end[0] for rank, end in ends.items()} == {0: status, 1: status}, err
    assert ends[0] == ends[1]
    (folder,) = tmp_path.glob("run-*")
    assert counters(folder)["updates"] == ends[0][1]


def test_commands_other_than_train_refuse_to_be_several(tmp_path):
    ends, err = ended(launch(2, ["evaluate", str(tmp_path)]))
    assert "evaluate: expected one process, got 2; only train shares its work" in err and not ends
