"""Where numbers go: which W&B mode is chosen, the folder as a record that loses nothing, and no question to anyone."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from matplotlib.figure import Figure
from PIL import Image

import wandb_reader
import worldmodel
from run_folder import png
from worldmodel.build import build_tracker
from worldmodel.config import Config
from worldmodel.report.figures import render
from worldmodel.training.processes import Processes
from worldmodel.training.tracking import FolderTracker, Trackers, WandbTracker, wandb_mode

KEY = {"WANDB_API_KEY": "0" * 40}
SERVER = {"WANDB_BASE_URL": "https://wandb.example.org"}


def netrc_for(tmp_path, host) -> dict[str, str]:
    path = tmp_path / "netrc"
    path.write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)
    return {"NETRC": str(path)}


@pytest.mark.parametrize(
    ("setting", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", KEY, "online"),
        ("auto", {"WANDB_API_KEY": ""}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {**KEY, "WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "offline"}, "offline"),
        ("offline", KEY, "offline"),
        ("offline", {**KEY, "WANDB_MODE": "online"}, "offline"),
        ("online", KEY, "online"),
    ],
)
def test_w_and_b_is_online_only_with_a_key_and_obeys_wandb_mode(setting, environment, mode, tmp_path):
    assert wandb_mode(setting, {"NETRC": str(tmp_path / "nothing"), **environment}) == mode


def test_a_key_in_netrc_counts_for_its_own_server_only(tmp_path):
    assert wandb_mode("auto", netrc_for(tmp_path, "api.wandb.ai")) == "online"
    assert wandb_mode("auto", netrc_for(tmp_path, "api.wandb.ai") | SERVER) == "offline"
    assert wandb_mode("auto", netrc_for(tmp_path, "wandb.example.org") | SERVER) == "online"
    assert wandb_mode("auto", netrc_for(tmp_path, "github.com")) == "offline"
    (tmp_path / "netrc").write_text("not a netrc file {")
    assert wandb_mode("auto", {"NETRC": str(tmp_path / "netrc")}) == "offline"


@pytest.mark.parametrize(
    ("setting", "environment", "named"),
    [
        ("online", {}, "tracking: expected a W&B key"),
        ("auto", {"WANDB_MODE": "online"}, "expected a W&B key"),
        ("auto", {"WANDB_MODE": "sideways"}, "WANDB_MODE: expected online, offline or disabled, got 'sideways'"),
    ],
)
def test_online_without_a_key_and_an_unknown_mode_are_refused(setting, environment, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        wandb_mode(setting, {"NETRC": str(tmp_path / "nothing"), **environment})


def test_metrics_are_on_disk_as_soon_as_they_are_tracked(tmp_path):
    tracker = FolderTracker(tmp_path)
    tracker.scalars(5, {"kl/mean": 0.5})
    assert read_lines(tmp_path) == [{"update": 5, "kl/mean": 0.5}]
    tracker.scalars(10, {"kl/mean": float("nan"), "loss": float("inf")})
    assert read_lines(tmp_path)[1] == {"update": 10, "kl/mean": None, "loss": None}
    tracker.finish([])


def test_a_later_line_or_picture_of_the_same_name_takes_the_place_of_the_earlier(tmp_path):
    tracker = FolderTracker(tmp_path)
    for update in (5, 10):
        tracker.lines(update, "kl/surprise", {"x": np.arange(2), "raw": np.array([update, np.nan])})
        tracker.image(update, "kl/overview", b"%d" % update)
    tracker.finish([])
    data = json.loads((tmp_path / "lines" / "kl_surprise.json").read_text())
    assert data == {"update": 10, "x": [0.0, 1.0], "raw": [10.0, None]}
    assert (tmp_path / "figures" / "kl_overview.png").read_bytes() == b"10"


def test_a_second_tracker_on_a_folder_goes_on_where_the_first_ended(tmp_path):
    for update in (1, 2):
        tracker = FolderTracker(tmp_path)
        tracker.scalars(update, {})
        tracker.finish([])
    assert [row["update"] for row in read_lines(tmp_path)] == [1, 2]


def test_several_trackers_get_the_same_calls_in_order():
    class Recorder:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *arguments, **options: self.calls.append((name, *arguments, options))

    recorders = [Recorder(), Recorder()]
    both = Trackers(recorders)
    both.scalars(1, {"a": 1.0})
    both.lines(1, "curve", {"x": [0.0]})
    both.image(2, "picture", b"png")
    both.video(2, "film", b"gif")
    both.finish([Path("file")], failed=True)
    expected = [
        ("scalars", 1, {"a": 1.0}, {}),
        ("lines", 1, "curve", {"x": [0.0]}, {}),
        ("image", 2, "picture", b"png", {}),
        ("video", 2, "film", b"gif", {}),
        ("finish", [Path("file")], {"failed": True}),
    ]
    assert recorders[0].calls == recorders[1].calls == expected


def test_a_rendered_figure_is_a_png_of_its_size():
    picture = Image.open(io.BytesIO(render(Figure(figsize=(3, 2)))))
    assert (picture.format, picture.size) == ("PNG", (330, 220))


@pytest.mark.parametrize("failed", [False, True])
def test_an_offline_run_is_filed_with_its_settings_its_files_and_how_it_ended(failed, tmp_path):
    where = {"name": "some-run", "project": "some-project", "tags": ["a", "b"]}
    how = {"mode": "offline", "run_id": "abcd1234", "may_go_offline": False}
    tracker = WandbTracker(tmp_path, {"rssm": {"deter": 8}}, **how, **where)
    tracker.scalars(3, {"kl/mean": 0.5})
    tracker.lines(3, "curve", {"x": np.arange(2), "raw": np.array([0.5, np.nan])})
    tracker.video(3, "play/actor", film := png("GIF"))
    location = Path(tracker.location)
    (tmp_path / "weights").write_bytes(b"x")
    tracker.finish([tmp_path / "weights"], failed=failed)
    wandb.teardown()
    assert location.parent == tmp_path / "wandb"
    (file,) = location.glob("*.wandb")
    run = wandb_reader.read(file)
    assert run["run"] == where
    assert run["config"]["rssm"] == {"deter": 8}
    assert run["history"][0]["_step"] == 3
    assert run["history"][0]["kl/mean"] == 0.5
    shown = run["history"][0]["play/actor"]
    assert shown["_type"] == "video-file" and (location / "files" / shown["path"]).read_bytes() == film
    assert shown["path"] in run["files"]
    assert [paths for _, kind, paths in run["artifacts"] if kind == "model"] == [["weights"]]
    assert run["exit"] == int(failed)


def test_automatic_tracking_without_a_key_asks_nobody_anything_in_a_terminal_and_says_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from worldmodel.build import build_tracker\n"
        "from worldmodel.config import Config\n"
        "tracker, at = build_tracker(Config(), Path(sys.argv[1]), 'abcd1234', resumed=False)\n"
        "assert 'offline-run' in at, at\n"
        "tracker.scalars(1, {'a': 1.0}); tracker.finish([])\n"
    )
    root = Path(worldmodel.__file__).parent.parent
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=root, stdin=theirs, stdout=theirs, stderr=theirs, timeout=120)
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
        WandbTracker(tmp_path, {}, mode="online", may_go_offline=False, run_id="a", name="a", project="p")


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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


def test_names_that_no_file_can_have_are_escaped_and_those_that_would_share_one_do_not(tmp_path):
    tracker = FolderTracker(tmp_path)
    for number, name in enumerate(["open_loop/a/b", "open_loop/a_b", "open_loop/a\0b", "x" * 300]):
        for _ in range(2):
            tracker.lines(number, name, {"x": [1.0], "y": [2.0]})
            tracker.image(number, name, b"picture")
    tracker.finish([])
    updates = [json.loads(path.read_text())["update"] for path in (tmp_path / "lines").iterdir()]
    assert sorted(updates) == [0, 1, 2, 3]
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_the_folder_of_wandb_is_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wandb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="wandb: expected a file or a folder of its own, found a link to"):
        WandbTracker(tmp_path, {}, mode="offline", may_go_offline=False, run_id="a", name="a", project="p")
    assert list((tmp_path / "elsewhere").iterdir()) == []
