"""Where numbers go: the folder as a record that loses nothing, and several trackers as one."""

import io
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from worldmodel.report.figures import render
from worldmodel.training.tracking import FolderTracker, Trackers, WholeTracker


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


class Recorder:
    """A tracker that keeps its calls in order."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **options: self.calls.append((name, *arguments, options))


CALLS = [
    ("scalars", 1, {"a": 1.0}, {}),
    ("lines", 1, "curve", {"x": [0.0]}, {}),
    ("image", 2, "picture", b"png", {}),
    ("histogram", 2, "values", [1.0, 2.0], {}),
    ("file", 2, "film", Path("film.gif"), {}),
    ("finish", [Path("file")], {"failed": True}),
]


def call_all(tracker):
    for name, *arguments, options in CALLS:
        getattr(tracker, name)(*arguments, **options)


def test_several_trackers_get_the_same_calls_in_order():
    recorders = [Recorder(), Recorder()]
    call_all(Trackers(recorders))
    assert recorders[0].calls == recorders[1].calls == CALLS


def test_signals_wait_during_every_call():
    recorder = Recorder()

    @contextmanager
    def holding():
        recorder.calls.append("held")
        yield
        recorder.calls.append("let go")

    call_all(WholeTracker(recorder, holding))
    assert recorder.calls == [step for call in CALLS for step in ("held", call, "let go")]


def test_what_is_in_the_folder_already_is_not_written_again(tmp_path):
    tracker = FolderTracker(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    tracker.histogram(1, "values", [1.0])
    tracker.file(1, "film", tmp_path / "film.gif")
    tracker.finish([])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rendered_figure_is_a_png_of_its_size():
    picture = Image.open(io.BytesIO(render(Figure(figsize=(3, 2)))))
    assert (picture.format, picture.size) == ("PNG", (330, 220))


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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
