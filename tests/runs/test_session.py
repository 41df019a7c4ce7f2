"""Runs that stop and go on: from their checkpoint, with their rows, one process at a time."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import older_checkpoints
import worldmodel
from brief_runs import TWELVE_UPDATES
from worldmodel import build
from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.records import DamagedReplayError
from worldmodel.data.replay import Replay, TornRowsWarning
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.held_out import evaluate
from worldmodel.report.formats import counted
from worldmodel.runs import assembly, session
from worldmodel.runs.folder import locked
from worldmodel.runs.run import open_run
from worldmodel.runs.session import finish_run, resume, train
from worldmodel.seeding import Stream, make_generator
from worldmodel.training import checkpoint
from worldmodel.training.checkpoint import CheckpointError, load_checkpoint, read_counters
from worldmodel.training.divergence import NonFiniteLossError
from worldmodel.training.learner import Learner
from worldmodel.training.processes import Processes
from worldmodel.training.progress import RunProgress
from worldmodel.training.tracking import FolderTracker
from worldmodel.training.trainer import Trainer
from worlds import Counting, register

FINISH_RUN = finish_run
ROOT = Path(worldmodel.__file__).parent.parent
SETTINGS = TWELVE_UPDATES


class CrashError(Exception):
    """Stands for whatever ends a process."""


class Progress(RunProgress):
    """Silent; remembers what it was told to say, and crashes after an update if asked to."""

    def __init__(self, crash_after=None):
        super().__init__(160, Console(quiet=True))
        self.said, self.crash_after = [], crash_after

    def log(self, text):
        self.said.append(text)

    def trained(self, env_steps, updates, elbo, kl):
        if updates == self.crash_after:
            raise CrashError


def without_pictures(patch):
    patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Pictures and pages are tested where they are made."""
    register()
    without_pictures(monkeypatch)


def start(folder, crash_after=None, **others):
    progress = Progress(crash_after)
    return train(None, {**SETTINGS, "runs": str(folder), **others}, progress=progress), progress


def crash(folder, after, **others):
    """A run that crashed after this update: -> its folder."""
    before = set(folder.glob("run-*"))
    with pytest.raises(CrashError):
        start(folder, crash_after=after, **others)
    (made,) = set(folder.glob("run-*")) - before
    return made


@pytest.fixture(scope="module")
def crashed_at_4(tmp_path_factory):
    """Copies of one run that crashed after update 4: called with where to, -> its folder there."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        original = crash(tmp_path_factory.mktemp("crashed"), after=4)
    return lambda folder: Path(shutil.copytree(original, folder / original.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing stopped; only looked at."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return start(tmp_path_factory.mktemp("whole"))[0]


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("rate/", "seconds/", "resources/"))} for row in rows]


def last(folder, name):
    """The newest value of a metric."""
    return [row[name] for row in metrics(folder) if name in row][-1]


def same_weights(run, other):
    return all(torch.equal(a, b) for a, b in zip(run.model.parameters(), other.model.parameters(), strict=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows and held-out episodes to learn from without an environment."""
    folder = tmp_path_factory.mktemp("data") / "pendulum"
    options = [f"--{key}={json.dumps(value)}" for key, value in SETTINGS.items() if key != "tracking"]
    main(["collect", *options, "--env.time_limit=25", "--rows", "150", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def whole_on_stored_rows(data, tmp_path_factory):
    """Nine updates on the stored rows that nothing stopped; only looked at."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        return start(tmp_path_factory.mktemp("whole"), offline=str(data), **{"training.updates": 9})[0]


@pytest.mark.parametrize("crash_after", [1, 5, 7], ids=lambda n: f"crash after update {n}")
def test_on_a_fixed_replay_two_halves_are_the_whole_bit_for_bit(data, whole_on_stored_rows, tmp_path, crash_after):
    offline, whole = {"offline": str(data), "training.updates": 9}, whole_on_stored_rows
    folder = crash(tmp_path, crash_after, **offline)
    halves = resume(folder, progress=Progress())
    assert same_weights(whole, halves)
    assert metrics(halves.folder) == metrics(whole.folder)
    assert [row["update"] for row in metrics(folder) if "train/elbo" in row] == list(range(1, 10))
    with (folder / "checkpoints" / "last.safetensors").open("rb") as a:
        assert len(a.read()) > 0
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 9
    assert not (folder / "replay").exists()  # the rows stay where they are


def test_learning_from_stored_rows_asks_for_no_environment(data, tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium, "make", lambda *a, **k: pytest.fail("an environment was made"))
    run, progress = start(tmp_path, offline=str(data), **{"training.updates": 3})
    assert any("without an environment" in text for text in progress.said)
    opened = open_run(run.folder)
    assert opened.evaluate().per_step["elbo"] == pytest.approx(last(run.folder, "heldout/elbo"), rel=1e-5)
    with Replay.open(data / "replay", read_only=True) as replay:
        assert replay.rows_written == 150


def test_a_resumed_run_keeps_rows_and_checkpoint_and_goes_on_with_new_episodes(tmp_path):
    folder = crash(tmp_path, after=7)
    with Replay.open(folder / "replay", read_only=True) as replay:
        before = replay.rows_written
        rows = replay._streams[0].read(0, len(replay._streams[0]))
    saved = read_counters(folder / "checkpoints" / "last.safetensors")
    assert saved["updates"] == 6 and saved["env_steps"] < before
    progress = Progress()
    run = resume(folder, progress=progress)
    assert f"going on after update 6, with {before} steps" in progress.said
    assert not any("of prefill" in text for text in progress.said)  # its first episodes are there
    with Replay.open(folder / "replay", read_only=True) as replay:
        stream = replay._streams[0]
        kept = stream.read(0, len(stream))
        assert replay.rows_written == 160
    np.testing.assert_array_equal(kept[: len(rows) - 1], rows[:-1])
    seam = kept[len(rows) - 1 : len(rows) + 1]
    assert seam["is_last"].tolist() == [True, False]  # the interrupted episode counts as truncated
    assert not seam["is_terminal"].any()
    assert seam["is_first"].tolist() == [False, True]
    updates = [row["update"] for row in metrics(folder) if "train/elbo" in row]
    assert updates == list(range(1, 13))
    sessions = json.loads((folder / "versions.json").read_text())["sessions"]
    assert [session["update"] for session in sessions] == [0, 6]
    assert run.folder == folder


def test_a_resume_reads_its_checkpoint_once(tmp_path, monkeypatch):
    folder, read = crash(tmp_path, after=7), []
    safe_open = checkpoint.safe_open

    def counted(path, framework):
        read.append(path.name)
        return safe_open(path, framework)

    monkeypatch.setattr(checkpoint, "safe_open", counted)
    resume(folder, progress=Progress())
    assert read.count("last.safetensors") == 1


def test_a_resume_takes_the_checkpoint_that_another_process_wrote_while_environments_were_made(tmp_path, monkeypatch):
    folder = crash(tmp_path, after=7)
    newer, build_environments = folder / "checkpoints" / "last.safetensors", build.build_environments
    newer.rename(folder / "newer")

    def meanwhile(*arguments, **settings):
        if (folder / "newer").exists():
            (folder / "newer").rename(newer)
        return build_environments(*arguments, **settings)

    monkeypatch.setattr(build, "build_environments", meanwhile)
    resume(folder, progress=(progress := Progress()))
    assert any(text.startswith("going on after update 6") for text in progress.said)


def test_metrics_after_the_checkpoint_are_set_aside(tmp_path):
    folder = crash(tmp_path, after=9, **{"training.save_every": 4})
    resume(folder, progress=Progress())
    updates = [row["update"] for row in metrics(folder) if "train/elbo" in row]
    assert updates == list(range(1, 13))
    discarded = [json.loads(line) for line in (folder / "metrics-discarded.jsonl").read_text().splitlines()]
    assert [row["update"] for row in discarded] == [9]


@pytest.mark.parametrize("rows", [30, 39], ids=lambda n: f"{n} rows of the prefill")
def test_a_run_that_stopped_in_its_prefill_finishes(tmp_path, rows, monkeypatch):
    appended = 0
    append = Replay.append

    def failing(self, new):
        nonlocal appended
        append(self, new)
        if self.folder.name == "replay":
            appended += 1
            if appended == rows // 2:
                raise CrashError

    monkeypatch.setattr(Replay, "append", failing)
    with pytest.raises(CrashError):
        start(tmp_path)
    (folder,) = tmp_path.glob("run-*")
    assert not (folder / "checkpoints").exists()
    monkeypatch.setattr(Replay, "append", append)
    resume(folder, progress=Progress())
    with Replay.open(folder / "replay", read_only=True) as replay:
        assert replay.rows_written == 160
        assert sum(int(episode.is_first.sum()) for episode in replay.episodes()) >= 1
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 12


def test_a_run_that_stopped_while_it_collected_held_out_episodes_finishes(whole, tmp_path, monkeypatch):
    append, calls = Replay.append, []

    def failing(self, new):
        append(self, new)
        calls.append(self.folder.name)
        if len(calls) == 15:
            raise CrashError

    monkeypatch.setattr(Replay, "append", failing)
    with pytest.raises(CrashError):
        start(tmp_path)
    monkeypatch.setattr(Replay, "append", append)
    (folder,) = tmp_path.glob("run-*")
    assert not (folder / "heldout").exists()
    resumed = resume(folder, progress=Progress())
    assert torch.equal(resumed.heldout().obs["obs"], whole.heldout().obs["obs"])
    assert same_weights(resumed, whole)  # nothing had been drawn yet


def test_runs_that_differ_in_their_seed_are_scored_on_the_same_rows_with_the_same_noise(tmp_path):
    few = {"training.env_steps": 60}
    one, other = (start(tmp_path, seed=seed, **few)[0] for seed in (0, 3))
    assert not same_weights(one, other)
    assert all(torch.equal(a, b) for a, b in zip(one.heldout()[1:], other.heldout()[1:], strict=True))
    swapped = dataclasses.replace(other, model=one.model)  # what is left is the noise
    assert swapped.evaluate().per_step == one.evaluate().per_step
    third, _ = start(tmp_path, **few, **{"evaluation.seed": 3})
    assert same_weights(one, third)
    assert not torch.equal(one.heldout().obs["obs"], third.heldout().obs["obs"])


def test_a_run_of_an_earlier_version_is_scored_with_its_own_seed(tmp_path):
    run, _ = start(tmp_path, seed=3, **{"training.env_steps": 60, "evaluation.seed": 3})
    path = run.folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["evaluation"]["seed"]
    path.write_text(yaml.safe_dump(settings))
    opened = open_run(run.folder, "last")
    assert opened.config == run.config
    assert opened.evaluate().per_step["elbo"] == pytest.approx(last(run.folder, "heldout/elbo"), rel=1e-5)


def test_a_finished_run_stays_finished(tmp_path):
    run, _ = start(tmp_path)
    path = run.folder / "metrics.jsonl"
    before = path.read_bytes()
    progress = Progress()
    again = resume(run.folder, progress=progress)
    assert same_weights(run, again)
    assert path.read_bytes() == before
    assert not path.with_name("metrics-discarded.jsonl").exists()
    assert "nothing was left to do" in progress.said
    assert read_counters(run.folder / "checkpoints" / "last.safetensors")["env_steps"] == 160


def test_a_run_that_was_killed_at_its_last_pictures_makes_them_when_it_goes_on(tmp_path, monkeypatch):
    made = []

    def or_stop(run, trainer):
        made.append(trainer.evaluation)
        if len(made) == 1:
            raise CrashError

    monkeypatch.setattr("worldmodel.runs.session.finish_run", or_stop)
    with pytest.raises(CrashError):
        start(tmp_path)
    (folder,) = tmp_path.glob("run-*")
    before = (folder / "metrics.jsonl").read_bytes()
    for _ in range(2):
        resume(folder, progress=Progress())
    assert len(made) == 2 and (folder / "metrics.jsonl").read_bytes() == before


def test_a_resume_without_the_header_of_the_rows_is_refused_and_leaves_them(crashed_at_4, tmp_path, capsys):
    folder = crashed_at_4(tmp_path)
    before = {path.name: path.read_bytes() for path in (folder / "replay").glob("*.rows")}
    (folder / "replay" / "replay.json").unlink()
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(folder)])
    assert end.value.code == 2
    assert "found no replay.json, but rows without it: stream-000.rows" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (folder / "replay").iterdir()} == before


@pytest.mark.parametrize("name", ["replay", "heldout"])
def test_a_resume_whose_rows_are_gone_is_refused_and_collects_nothing_anew(tmp_path, name):
    folder = crash(tmp_path, after=4)
    shutil.rmtree(folder / name)
    with pytest.raises(FileNotFoundError, match=f"{name}: expected the rows that this run's checkpoints belong to"):
        resume(folder, progress=Progress())
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", [".lock", "checkpoints", "lines", "replay", "metrics.jsonl", "versions.json"])
def test_a_link_in_a_run_is_replaced_or_refused_and_never_written_through(crashed_at_4, tmp_path, name):
    folder = crashed_at_4(tmp_path / "runs")
    path, elsewhere = folder / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)

    def contents():
        files = [elsewhere] if elsewhere.is_file() else sorted(elsewhere.iterdir())
        return {file.name: file.read_bytes() for file in files}

    before = contents()
    if name in ("metrics.jsonl", "versions.json"):
        resume(folder, progress=Progress())
        assert not path.is_symlink()
    else:
        with pytest.raises(ValueError, match=f"{name}: expected a file or a folder of its own, found a link to"):
            resume(folder, progress=Progress())
    assert contents() == before


def test_a_second_process_on_a_run_is_refused(crashed_at_4, tmp_path, capsys):
    folder = crashed_at_4(tmp_path)
    with locked(folder):
        done = subprocess.run(
            [sys.executable, "-m", "worldmodel", "train", "--resume", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert "another process is working on this run" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(folder), "--seed", "3"])
    assert end.value.code == 2
    assert "resume: expected no other settings, since the run has its own; got seed" in capsys.readouterr().err


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_that_is_said(tmp_path):
    folder = crash(tmp_path, after=8)
    last = folder / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    progress = Progress()
    resume(folder, progress=progress)
    assert any(f"{last}: damaged" in text and "previous.safetensors instead" in text for text in progress.said)
    assert "going on after update 3" in " ".join(progress.said)
    assert read_counters(last)["updates"] == 12
    best = folder / "checkpoints" / "best.safetensors"
    best.write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"best.safetensors: damaged .*; using .*last.safetensors instead"):
        open_run(folder)
    for name in ("last", "previous"):
        (folder / "checkpoints" / f"{name}.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="restore it from a copy, or begin a new run"):
        resume(folder, progress=Progress())


def test_a_run_whose_settings_were_changed_is_refused_by_key(crashed_at_4, tmp_path):
    folder = crashed_at_4(tmp_path)
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "seed": 9}))
    with pytest.raises(CheckpointError, match=r"was written with seed = 0, and config.yaml has 9"):
        resume(folder, progress=Progress())
    path.write_text(yaml.safe_dump({**settings, "training": {**settings["training"], "env_steps": 180}}))
    resume(folder, progress=Progress())  # how long it goes on may change
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 14


@pytest.mark.parametrize("now", ["envs:LinearGaussian-v0", "worldmodel/LinearGaussian-v0"])
def test_a_run_under_an_environment_s_older_id_goes_on_and_is_measured(tmp_path, now):
    folder = crash(tmp_path, after=4, **{"env.id": "envs:LinearGaussian-v0"})  # its header has that id, as old runs do
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings["env"]["id"] == "envs:LinearGaussian-v0"
    path.write_text(yaml.safe_dump({**settings, "env": {**settings["env"], "id": now}}))
    assert resume(folder, progress=Progress()).config.env.id == now
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 12
    opened = open_run(folder)
    assert np.isfinite(opened.evaluate().per_step["elbo"])
    assert build.build_law(opened.config)["kind"] == "linear_gaussian"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("env", "num_envs", 3, r"replay: was begun with env.num_envs = 2, and config.yaml now means 3"),
        ("env", "hide", {"obs": [0]}, r"replay: was begun with env = .*\(3,\).*now means .*\(2,\)"),
        ("replay", "capacity", 500, "replay: was begun with replay.capacity = 1000000, .*restore config.yaml"),
    ],
)
def test_rows_of_other_settings_are_refused_where_there_is_no_checkpoint_yet(tmp_path, section, key, value, words):
    folder = crash(tmp_path, after=1, **{"training.save_every": 100})
    shutil.rmtree(folder / "checkpoints")
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, section: {**settings[section], key: value}}))
    with pytest.raises(ValueError, match=words):
        resume(folder, progress=Progress())


def test_a_run_of_a_gpu_goes_on_without_one(crashed_at_4, tmp_path, monkeypatch):
    folder = crashed_at_4(tmp_path)

    def of_a_gpu(path):
        found = load_checkpoint(path)
        latents = torch.zeros(16, dtype=torch.uint8)  # CUDA's: a seed and an offset
        return found._replace(parts={**found.parts, "random": {**found.parts["random"], "latents": latents}})

    monkeypatch.setattr(checkpoint, "load_checkpoint", of_a_gpu)
    progress = Progress()
    resume(folder, progress=progress)
    assert any("the random state of latents is another kind of device's" in text for text in progress.said)
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 12


def test_a_run_whose_checkpoint_is_of_format_2_goes_on_as_one_of_today(tmp_path):
    today = crash(tmp_path, after=4, **{"rssm.posterior": "smoothing"})
    older = shutil.copytree(today, tmp_path / "older")
    for path in (older / "checkpoints").iterdir():
        names = older_checkpoints.in_format_2(path)
        assert {"random/policy", "model/hindsight.nothing"} <= names
    runs = [resume(folder, progress=Progress()) for folder in (today, older)]
    assert same_weights(*runs) and metrics(today) == metrics(older)
    stored = [older_checkpoints.read(folder / "checkpoints" / "last.safetensors")[0] for folder in (today, older)]
    assert stored[0].keys() == stored[1].keys() and "policy/generator" in stored[0]
    assert all(torch.equal(stored[0][name], stored[1][name]) for name in stored[0])


def test_too_few_stored_rows_are_refused_by_key(data, tmp_path):
    with pytest.raises(ValueError, match=r"replay.sequence_length: expected at most the 150 rows of .*, got 151"):
        start(
            tmp_path,
            offline=str(data),
            **{"replay.sequence_length": 151, "training.prefill": 151, "training.env_steps": 400},
        )


def test_a_division_that_was_cut_short_before_its_last_step_is_done_again(data, tmp_path, monkeypatch):
    rename = Path.rename

    def or_stop(self, target):
        if self.name == "replay":
            raise CrashError
        return rename(self, target)

    settings = {"offline": str(data / "replay"), "evaluation.episodes": 2}
    with monkeypatch.context() as patch, pytest.raises(CrashError):
        patch.setattr(Path, "rename", or_stop)
        start(tmp_path, **settings)
    (folder,) = (path.parent for path in tmp_path.glob("run-*/config.yaml"))
    assert (folder / "heldout").exists() and not (folder / "replay").exists()
    resumed = resume(folder, progress=Progress())
    whole, _ = start(tmp_path, **settings)
    assert same_weights(resumed, whole)
    shutil.rmtree(folder / "replay")  # to save room
    assert resumed.heldout().reward.shape == whole.heldout().reward.shape


def test_a_run_from_a_dataset_that_is_gone_goes_on_with_the_rows_it_was_divided_into(data, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    main(["export", str(data), "runs/pendulum-v0"])
    stored = {"offline": "minari:runs/pendulum-v0", "training.updates": 9, "evaluation.episodes": 2}
    whole, _ = start(tmp_path, **stored)
    folder = crash(tmp_path, 5, **stored)
    shutil.rmtree(tmp_path / "minari")
    assert same_weights(whole, resume(folder, progress=Progress()))


def test_rows_that_went_missing_are_an_error_and_torn_ones_a_warning(tmp_path):
    folder = crash(tmp_path, after=7)
    path = folder / "replay" / "stream-001.rows"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(DamagedReplayError, match=r"expected at least the .* rows that .* was made after"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", TornRowsWarning)
        resume(folder, progress=Progress())
    path.write_bytes(whole[:-3])
    with pytest.warns(TornRowsWarning, match=r"dropped 1 row\(s\)"):
        resume(folder, progress=Progress())
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 12


class Brittle(Counting):
    """Raises at its fortieth step, in every life."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 40:
            raise RuntimeError("a cog broke")
        return super().step(action)


def test_a_failing_environment_saves_and_stops_the_run_or_is_replaced_and_counted(tmp_path):
    if "Brittle-v0" not in gymnasium.registry:
        gymnasium.register("Brittle-v0", Brittle, disable_env_checker=True)
    brittle = {"env.id": "Brittle-v0", "training.prefill": 60, "evaluation.episodes": 1, "evaluation.context": 1}
    brittle |= {"evaluation.horizon": 1, "training.save_every": 100, "training.env_steps": 180}
    with pytest.raises(EnvironmentFailureError, match=r"environment 0 \(Brittle-v0\), .* RuntimeError: a cog broke"):
        train(None, {**SETTINGS, **brittle, "runs": str(tmp_path)}, progress=(told := Progress()))
    (folder,) = tmp_path.glob("run-*")
    assert any(f"`worldmodel train --resume {folder}` goes on" in text for text in told.said)
    saved = read_counters(folder / "checkpoints" / "last.safetensors")
    assert saved["updates"] > 0
    with Replay.open(folder / "replay", read_only=True) as replay:
        assert saved["env_steps"] == replay.rows_written
    run, progress = start(tmp_path, **brittle, **{"env.restarts": 10})
    assert sum("restarted: environment" in text and "a cog broke" in text for text in progress.said) >= 2
    assert last(run.folder, "env_restarts") >= 2
    assert read_counters(run.folder / "checkpoints" / "last.safetensors")["env_steps"] == 180


def test_settings_that_are_loaded_cannot_run_code(crashed_at_4, tmp_path):
    folder = crashed_at_4(tmp_path)
    ran = tmp_path / "ran"
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("name: run", f'name: !!python/object/apply:os.mkdir ["{ran}"]'))
    with pytest.raises(ValueError):
        open_run(folder)
    assert not ran.exists()


def test_a_folder_that_cannot_be_written_in_is_refused_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"runs: expected a folder that can be written in, got .*file"):
        start(tmp_path / "file" / "runs")


def test_a_graph_is_refused_where_there_are_none_before_work_starts(tmp_path):
    settings = {"training.cuda_graph": True, "device": "cpu", "runs": str(tmp_path / "runs")}
    with pytest.raises(ValueError, match=r"training\.cuda_graph: expected false on the device cpu"):
        train((), settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files, as a full disk would")
@pytest.mark.parametrize(
    ("limit", "prefill", "fails"),
    [(3_000, 120, "replay/stream-"), (3_000, 40, "checkpoints/last.safetensors")],
    ids=["the replay does not fit", "the checkpoint does not fit"],
)
def test_a_full_disk_stops_the_run_with_a_sentence_and_it_goes_on_when_there_is_room(tmp_path, limit, prefill, fails):
    settings = {**SETTINGS, "runs": str(tmp_path), "training.evaluate_every": 100}
    settings |= {"training.prefill": prefill, "training.env_steps": prefill + 120}
    config = tmp_path / "settings.json"
    config.write_text(json.dumps(settings))
    code = (
        "import json, resource, signal, sys\n"
        "from worldmodel.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "settings = json.load(open(sys.argv[1]))\n"
        "import worldmodel.runs.session, torch\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "main(['train', *(f'--{k}={v}' for k, v in settings.items())])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "the run stopped:" in done.stderr and "File too large" in done.stderr
    assert fails in done.stderr and "make room, then resume" in done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = tmp_path.glob("run-*")
    assert not list(folder.glob("checkpoints/*.partial"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornRowsWarning)
        resume(folder, progress=Progress())
    assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == 12
    assert read_config(folder / "config.yaml").training.env_steps == prefill + 120


ENDS = pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
OPTIONS = [f"--{key}={json.dumps(value)}" for key, value in SETTINGS.items() if key != "tracking"] + ["--tracking=none"]


def strike_at(monkeypatch, stage, number):
    """Have the signal come in the midst of a stage; the stage must not go on after a SIGTERM."""
    append, step, collected, update = Replay.append, Rollout.step, [], Learner.update

    def strike(*arguments, **settings):
        signal.raise_signal(number)
        if number == signal.SIGTERM or stage == "finish":
            pytest.fail("went on")

    def in_held_out(self, rows):
        if self.folder.name != "replay":
            strike()
        append(self, rows)

    def in_prefill(self):
        if self.environments.count == 2:
            collected.append(1)
            if len(collected) == 5:
                strike()
        return step(self)

    def in_update(self, batch, before):
        done = update(self, batch, before)
        if self.updates == 4:
            signal.raise_signal(number)
        return done

    def in_evaluation(*arguments, **settings):
        strike()
        return evaluate(*arguments, **settings)

    if stage == "held-out":
        monkeypatch.setattr(Replay, "append", in_held_out)
    elif stage == "prefill":
        monkeypatch.setattr(Rollout, "step", in_prefill)
    elif stage == "update":
        monkeypatch.setattr(Learner, "update", in_update)
    elif stage == "evaluation":
        monkeypatch.setattr("worldmodel.training.evaluators.evaluate", in_evaluation)
    else:
        monkeypatch.setattr("worldmodel.runs.session.finish_run", strike)


@ENDS
@pytest.mark.parametrize(
    ("stage", "updates"), [("held-out", None), ("prefill", None), ("update", 4), ("evaluation", 6), ("finish", 12)]
)
def test_a_signal_at_any_stage_ends_with_its_status_and_everything_saved(
    tmp_path, monkeypatch, capsys, number, status, stage, updates
):
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        strike_at(patch, stage, number)
        main(["train", *OPTIONS, "--runs", str(tmp_path)])
    assert end.value.code == status
    (folder,) = tmp_path.glob("run-*")
    drawing = stage == "finish" and number == signal.SIGINT
    words = "finished; drawing was stopped" if drawing else f"`worldmodel train --resume {folder}` goes on"
    assert words in capsys.readouterr().err
    last = folder / "checkpoints" / "last.safetensors"
    assert (read_counters(last)["updates"] if last.exists() else None) == updates
    with locked(folder):  # nobody holds it any more
        pass
    run = resume(folder, progress=Progress())
    assert run.ended_by is None
    assert read_counters(last)["updates"] == 12


def test_a_run_says_which_signal_ended_it(tmp_path, monkeypatch):
    strike_at(monkeypatch, "update", signal.SIGTERM)
    run, progress = start(tmp_path)
    assert run.ended_by == signal.SIGTERM
    assert any("stopped by SIGTERM after update 4; everything is saved" in text for text in progress.said)


@pytest.mark.skipif(sys.platform == "win32", reason="signals a process group")
def test_a_sigterm_to_the_whole_group_is_no_death_of_a_worker(tmp_path):
    """A step sends it, as a cluster does, and takes a minute then; so does the environment's close."""
    code = (
        "import gymnasium, os, signal, sys, time\n"
        "from worlds import Counting\n"
        "from worldmodel.cli import main\n"
        "class Long(Counting):\n"
        "    steps = 0\n"
        "    def step(self, action):\n"
        "        self.steps += 1\n"
        "        if self.steps == 45:\n"
        "            try:\n"
        "                open(sys.argv[1], 'x').close()\n"
        "                os.killpg(os.getpgid(0), signal.SIGTERM)\n"
        "            except FileExistsError:\n"  # the other one has sent it: a second one would end the run at once
        "                pass\n"
        "            time.sleep(60)\n"
        "        return super().step(action)\n"
        "gymnasium.register('Long-v0', Long, disable_env_checker=True)\n"
        "main(['train', '--env.id=Long-v0', '--env.asynchronous=true', *sys.argv[2:]])\n"
    )
    settings = ["--evaluation.episodes=1", "--evaluation.context=1", "--evaluation.horizon=1", f"--runs={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sent"), *OPTIONS, *settings],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )
    (folder,) = tmp_path.glob("run-*")
    assert done.returncode == 143, done.stderr
    assert "worker died" not in done.stderr and "Traceback" not in done.stderr
    assert "stopped by SIGTERM" in done.stderr
    saved = read_counters(folder / "checkpoints" / "last.safetensors")
    assert 0 < saved["updates"] < 12
    assert time.time() - (folder / "checkpoints" / "last.safetensors").stat().st_mtime < 45  # and not a minute


@pytest.mark.parametrize("rate", [1e3, 1e10])
def test_a_run_that_diverges_keeps_a_sound_checkpoint_and_says_what_to_change(tmp_path, capsys, rate):
    diverging = [*OPTIONS, f"--optimizer.learning_rate={rate}", "--training.save_every=1", f"--runs={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        main(["train", *diverging])
    assert end.value.code == 1
    (folder,) = tmp_path.glob("run-*")
    last = folder / "checkpoints" / "last.safetensors"
    counters = read_counters(last)
    said = capsys.readouterr().err
    assert f"the newest checkpoint whose loss was sound is {last}, of update {counters['updates']};" in said
    assert "begin a new run with a smaller optimizer.learning_rate" in said
    model = open_run(folder, "last").model
    assert max(float(p.detach().abs().max()) for p in model.parameters()) < 1e3
    progress = Progress()
    with pytest.raises(NonFiniteLossError):
        resume(folder, progress=progress)
    (told,) = [text for text in progress.said if text.startswith("this run diverged before (")]
    assert f"it goes on from {last}" in told and "smaller optimizer.learning_rate" in told
    assert read_counters(last)["updates"] == counters["updates"]


class Tally(gymnasium.Env):
    """Counts in whole numbers, in episodes of four rows; the reward is minus one, zero or one."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (2,), np.int32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.int32([0, 1000]), {}

    def step(self, action):
        self.t += 1
        return np.int32([self.t, 1000 + self.t]), self.t % 3 - 1, self.t == 3, False, {}


@pytest.fixture
def tally():
    gymnasium.register("Tally-v0", Tally)
    yield {"env.id": "Tally-v0", "evaluation.context": 16, "evaluation.horizon": 48, "evaluation.max_length": 100}
    del gymnasium.registry["Tally-v0"]


def test_a_run_from_before_whole_numbers_had_a_mass_goes_on_as_it_was(tmp_path, tally):
    folder = crash(tmp_path, 7, **tally, **{"env.integers": "density"})
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    del settings["env"]["integers"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    run = resume(folder, progress=Progress())
    assert run.config.env.integers == "density"
    assert run.model.spec.observations["obs"].kind == "vector"
    assert open_run(folder).model.spec == run.model.spec
    settings["env"]["integers"] = "mass"
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"written with env.integers = 'density', and config.yaml has 'mass'; restore"):
        resume(folder, progress=Progress())


def test_a_run_of_whole_numbers_and_few_rewards_goes_on_with_the_rewards_it_knew(tmp_path, tally):
    folder = crash(tmp_path, 7, **tally, **{"decoder.reward": "categorical"})
    run = resume(folder, progress=Progress())
    assert run.model.spec.observations["obs"].kind == "integer"
    atoms = open_run(folder).model.decoder.atoms
    assert atoms.atoms[atoms.is_atom].tolist() == [-1, 0, 1]
    assert last(folder, "heldout/reward") <= 0 and last(folder, "heldout/obs") <= 0


def test_too_many_rewards_for_a_mass_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"^decoder\.reward: expected gaussian, .* more than 32 diff"):
        start(tmp_path, **{"decoder.reward": "categorical"})


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1", "Tally-v0"])
def test_however_short_its_episodes_a_run_imagines(tmp_path, tally, env_id, monkeypatch):
    monkeypatch.setattr("worldmodel.runs.session.finish_run", FINISH_RUN)
    monkeypatch.setattr("worldmodel.runs.session.write_report", lambda folder: None)
    monkeypatch.setattr(
        "worldmodel.report.imagination.imagination_files",
        lambda scenes, scores: {"scores.json": json.dumps(scores.as_json()).encode()},
    )
    run, progress = start(tmp_path, **{**tally, "env.id": env_id, "training.env_steps": 80})
    longest = int(run.heldout().valid.sum(1).max())
    scores = json.loads((run.folder / "imagination" / "scores.json").read_text())
    assert scores["context"] == max(1, longest // 4) and scores["context"] + scores["horizon"] == longest < 64
    (told,) = [text for text in progress.said if text.startswith("imagined ") and "no held-out" in text]
    assert f"{counted(scores['horizon'], 'step')} after {scores['context']}" in told
    assert any(name.startswith("open_loop/") for row in metrics(run.folder) for name in row)
    assert set(run.evaluate().open_loop) == set(run.model.spec.observations)
    assert run.imagine(samples=2).states.deter.shape[2] == scores["horizon"]
    with pytest.raises(ValueError, match=rf"context \+ horizon: expected at most {longest}, .* got 64"):
        run.write_imagination(context=16, horizon=48)


def test_the_last_words_name_only_what_is_there(tmp_path, tally):
    run, progress = start(tmp_path, **tally)
    named = [Path(text.split()[1]) for text in progress.said if text.split()[1:] and str(run.folder) in text.split()[1]]
    assert named and all(path.exists() for path in named), named
    assert not any("imagination" in path.name or "report" in path.name for path in named)


def test_text_is_left_out_and_said_once(tmp_path):
    pytest.importorskip("minigrid")
    run, progress = start(tmp_path, **{"env.id": "minigrid:MiniGrid-Empty-5x5-v0", "training.env_steps": 60})
    assert [text for text in progress.said if "mission" in text] == ["text is left out: mission (env.drop_text)"]
    assert {path: leaf.kind for path, leaf in run.model.spec.observations.items()} == {
        "direction": "categorical",
        "image": "integer",
    }
    assert last(run.folder, "heldout/image") < 0  # a mass


@pytest.mark.parametrize("going_on", [False, True], ids=["train", "resume"])
@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_draws_rows_and_latents_of_its_own_and_the_first_alone_writes(
    tmp_path, monkeypatch, rank, going_on
):
    """Only as far as the trainer, since the other of the two processes is not there."""
    folder = crash(tmp_path, 1)  # which the second process goes on in, or finds just begun by the first
    me, made, locks = Processes(rank, 2), [], []

    class Made(Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append((self, *(one.get_state() for one in self.randomness.values())))
            raise CrashError

    @contextlib.contextmanager
    def noted(folder, processes):
        locks.append(processes)
        yield

    monkeypatch.setattr(session, "joined", lambda device, compiling: contextlib.nullcontext(me))
    monkeypatch.setattr(Processes, "exchange", lambda self, content: [content or str(folder).encode()])
    monkeypatch.setattr(assembly, "Trainer", Made)
    monkeypatch.setattr(session, "locked", noted)
    with pytest.raises(CrashError):
        resume(folder, progress=Progress()) if going_on else start(tmp_path, seed=3)
    [(trainer, *states)] = made
    seed = 0 if going_on else 3
    expected = [make_generator(seed, stream=stream, rank=rank) for stream in (Stream.SAMPLING, Stream.LATENTS)]
    for state, generator in zip(states, expected, strict=True):
        assert torch.equal(state, generator.get_state())
    assert trainer.schedule.processes == 2
    assert trainer.learner.processes is me and trainer.processes is me and locks == [me]
    assert isinstance(trainer.tracker, FolderTracker) == (rank == 0)
