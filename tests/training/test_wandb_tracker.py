"""A run at W&B, read back from its file: what is filed, drawn, heard and kept; and no question to anyone."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

import wandb_reader
import worldmodel
from run_folder import png
from worldmodel.build import build_tracker
from worldmodel.config import Config, WandbConfig
from worldmodel.training.processes import Processes
from worldmodel.training.wandb_filing import Filing
from worldmodel.training.wandb_names import DEFINITIONS
from worldmodel.training.wandb_tracker import WandbTracker

ROOT = Path(worldmodel.__file__).parent.parent
HOW = {"mode": "offline", "run_id": "abcd1234", "may_go_offline": False}


def filing(folder, **others) -> Filing:
    return Filing(**{"dir": str(folder), "project": "some-project", "name": "some-run", **others})


def finished(tracker, files=(), **how) -> dict:
    """What W&B was told by a tracker that is finished here."""
    place = tracker.place
    tracker.finish([*files], **how)
    wandb.teardown()
    return wandb_reader.read_folder(Path(place.address).parent)


@pytest.mark.parametrize("failed", [False, True])
def test_an_offline_run_is_filed_with_its_settings_its_files_and_how_it_ended(failed, tmp_path):
    words = {"entity": "some-team", "group": "some-group", "tags": ("a", "b"), "notes": "some notes"}
    tracker = WandbTracker(tmp_path, {"rssm": {"deter": 8}}, filing(tmp_path, **words), **HOW)
    tracker.scalars(3, {"kl/mean": 0.5})
    tracker.lines(3, "curve", {"x": np.arange(2), "raw": np.array([0.5, np.nan])})
    assert tracker.place == (str(next((tmp_path / "wandb").glob("offline-run-*"))), "abcd1234", None)
    (tmp_path / "weights").write_bytes(b"x")
    run = finished(tracker, [tmp_path / "weights"], failed=failed)
    expected = {"id": "abcd1234", "project": "some-project", "name": "some-run", **words, "tags": ["a", "b"]}
    assert run["run"] == {**expected, "sweep": ""}
    assert run["config"]["rssm"] == {"deter": 8}
    assert run["history"][0]["_step"] == run["history"][0]["update"] == 3
    assert run["history"][0]["kl/batch/mean"] == 0.5
    models = [(paths, aliases) for _, kind, paths, aliases in run["artifacts"] if kind == "model"]
    assert models == [(["weights"], ["latest"])]
    assert run["exit"] == int(failed)


def test_pictures_and_films_of_the_folder_and_histograms_reach_w_and_b(tmp_path):
    tracker = WandbTracker(tmp_path, {}, filing(tmp_path), **HOW)
    (tmp_path / "film.gif").write_bytes(film := png("GIF"))
    (tmp_path / "fan.png").write_bytes(png())
    tracker.file(3, "play/actor", tmp_path / "film.gif")
    tracker.file(3, "imagination/fan", tmp_path / "fan.png")
    tracker.histogram(3, "acting/returns", np.array([1.0, np.nan, 2.0, 2.0, np.inf]))
    tracker.histogram(3, "kl/nothing", [np.nan])
    run = finished(tracker)
    (row,) = run["history"]
    video, image, counts = (row[name] for name in ("acting/film/actor", "imagination/fan", "acting/returns"))
    assert video["_type"] == "video-file" and (run["folder"] / "files" / video["path"]).read_bytes() == film
    assert {video["path"], image["path"]} <= set(run["files"])
    assert image["_type"] == "image-file"
    with Image.open(run["folder"] / "files" / image["path"]) as shown, Image.open(io.BytesIO(png())) as drawn:
        assert shown.tobytes() == drawn.convert(shown.mode).tobytes()
    assert counts["_type"] == "histogram" and sum(counts["values"]) == 3
    assert (counts["bins"][0], counts["bins"][-1]) == (1, 2)
    assert "kl/nothing" not in row


def test_metrics_have_their_step_axes_and_best_values(tmp_path):
    tracker = WandbTracker(tmp_path, {}, filing(tmp_path), **HOW)
    for update, bound in ((1, -3.0), (2, 5.0), (3, 4.0)):
        tracker.scalars(update, {"env_steps": 10 * update, "heldout/elbo": bound, "train/obs": bound})
        tracker.scalars(update, {"acting/return": -bound, "best/elbo": max(bound, 5.0)})
    run = finished(tracker)
    assert {"update", "env_steps"} <= run["metrics"].keys()
    for one in DEFINITIONS:
        axis, summary = run["metrics"][one.name]
        assert axis == one.axis
        assert one.summary is None or summary == set(one.summary.split(","))
    summary = run["summary"]
    assert summary["heldout/elbo"] == {"max": 5, "last": 4}
    assert summary["acting/return"] == {"max": 3, "last": -4}
    assert summary["train/log_likelihood/obs"] == 4
    assert summary["best/elbo"] == 5
    assert [row["env_steps"] for row in run["history"]] == [10, 20, 30]


def test_the_model_has_a_version_of_the_best_weights_and_one_of_the_latest(tmp_path):
    for name in ("config.yaml", "best.safetensors", "last.safetensors"):
        (tmp_path / name).write_text(name)
    tracker = WandbTracker(tmp_path, {}, filing(tmp_path), **HOW)
    run = finished(tracker, [tmp_path / name for name in ("config.yaml", "best.safetensors", "last.safetensors")])
    assert [(name, kind) for name, kind, *_ in run["artifacts"]] == [("model-abcd1234", "model")] * 2
    assert [(set(paths), sorted(aliases)) for *_, paths, aliases in run["artifacts"]] == [
        ({"config.yaml", "best.safetensors"}, ["best", "latest"]),  # the server moves `latest` on to the second
        ({"config.yaml", "last.safetensors"}, ["latest"]),
    ]


def test_the_files_of_w_and_b_lie_where_they_are_wanted(tmp_path):
    elsewhere = tmp_path / "made" / "for" / "it"
    tracker = WandbTracker(tmp_path / "run", {}, filing(elsewhere), **HOW)
    assert Path(tracker.place.address).parent == elsewhere / "wandb"
    tracker.finish([])
    assert not (tmp_path / "run").exists()


def test_a_run_is_filed_by_its_settings_and_then_by_the_variables(tmp_path, monkeypatch):
    variables = {"PROJECT": "their-project", "NAME": "their-name", "TAGS": "a,b", "DIR": str(tmp_path / "theirs")}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = Config(wandb=WandbConfig(project="own-project", notes="own notes"))
    tracker, place = build_tracker(config, tmp_path / "run-1", "abcd1234", resumed=False)
    tracker.finish([])
    wandb.teardown()
    assert Path(place.address).parent == tmp_path / "theirs" / "wandb"
    run = wandb_reader.read_folder(tmp_path / "theirs" / "wandb")
    shown = {name: run["run"][name] for name in ("project", "name", "tags", "notes")}
    assert shown == {"project": "own-project", "name": "their-name", "tags": ["a", "b"], "notes": "own notes"}
    assert set(run["config"]["started_by"]) >= {"command"}
    assert not (tmp_path / "run-1" / "wandb").exists()


HEARD = """
import sys, time, warnings
from pathlib import Path
from worldmodel.training.progress import RunProgress
from worldmodel.training.wandb_filing import Filing
from worldmodel.training.wandb_tracker import WandbTracker
folder = Path(sys.argv[1])
how = {"mode": "offline", "run_id": "abcd1234", "may_go_offline": False}
progress = RunProgress(100)
tracker = WandbTracker(folder, {}, Filing(str(folder), "p", "n"), **how)
progress.log("said before")
with progress, progress.training():
    progress.updated(1)
    for _ in range(4):
        progress.beat()
        time.sleep(0.11)  # a frame
    progress.log("said during")
    print("printed by an environment")
warnings.warn("a warning")
progress.log("said behind")
tracker.finish([])
progress.log("said when it was over")
"""


def run_heard(folder, **streams):
    variables = {name: value for name, value in os.environ.items() if name != "TERM"} | {"TERM": "xterm"}
    return subprocess.run([sys.executable, "-c", HEARD, str(folder)], cwd=ROOT, env=variables, timeout=120, **streams)


def test_w_and_b_hears_everything_where_there_is_no_terminal(tmp_path):
    done = run_heard(tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert [words for words in told if words.startswith("said")] == [
        *("said before", "said during", "said behind", "said when it was over")
    ]
    log = next((tmp_path / "wandb").glob("offline-run-*/files/output.log")).read_text().splitlines()
    heard = [words for words in log if words.startswith(("said", "printed")) or "UserWarning" in words]
    assert heard[:3] == ["said before", "said during", "printed by an environment"]
    assert "a warning" in heard[3] and heard[4:] == ["said behind"]


def test_in_a_terminal_w_and_b_hears_everything_and_of_the_bar_at_most_what_stays_on_the_screen(tmp_path):
    ours, theirs = pty.openpty()
    done = run_heard(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = read_all(ours).decode()
    assert done.returncode == 0, screen
    assert "\x1b[2K" in screen and "0/100 rows" in screen  # the bar was there, and drawn anew
    assert all(words in screen for words in ("said before", "said during", "printed by an environment", "said behind"))
    log = next((tmp_path / "wandb").glob("offline-run-*/files/output.log")).read_text()
    said = [words for words in map(str.strip, log.splitlines()) if words.startswith(("said", "printed"))]
    assert said == ["said before", "said during", "printed by an environment", "said behind"]
    assert "a warning" in log and "\x1b[2K" not in log
    assert log.count("0/100 rows") <= 1 < 3 <= screen.count("0/100 rows")


def test_automatic_tracking_without_a_key_asks_nobody_anything_in_a_terminal_and_says_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from worldmodel.build import build_tracker\n"
        "from worldmodel.config import Config\n"
        "tracker, at = build_tracker(Config(), Path(sys.argv[1]), 'abcd1234', resumed=False)\n"
        "assert 'offline-run' in at.address, at\n"
        "tracker.scalars(1, {'a': 1.0}); tracker.finish([])\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, timeout=120)
    os.close(theirs)
    assert (done.returncode, read_all(ours)) == (0, b"")


def test_a_process_that_does_not_write_tracks_nothing(tmp_path):
    tracker, at = build_tracker(Config(), tmp_path, "abcd1234", resumed=False, processes=Processes(1, 2))
    tracker.scalars(1, {"a": 1.0})
    tracker.finish([])
    assert at is None and list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_where_it_must_is_an_error_of_the_outside_world(tmp_path, monkeypatch):
    def init(**options):
        raise wandb.errors.CommError("no such host")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ConnectionError, match=r"tracking: expected W&B to answer.*no such host.*auto or offline"):
        WandbTracker(tmp_path, {}, filing(tmp_path), mode="online", may_go_offline=False, run_id="a")


def read_all(terminal: int) -> bytes:
    """What a terminal was told; reading from one whose other end is closed is an error once it is empty."""
    told = b""
    try:
        while part := os.read(terminal, 65536):
            told += part
    except OSError:
        pass
    finally:
        os.close(terminal)
    return told


def test_the_folder_of_wandb_is_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wandb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="wandb: expected a file or a folder of its own, found a link to"):
        WandbTracker(tmp_path, {}, filing(tmp_path), **HOW)
    assert list((tmp_path / "elsewhere").iterdir()) == []
