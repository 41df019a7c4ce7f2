"""The metrics so far: which of them become curves, and what stays of a record when a run goes back to a checkpoint."""

import math

import numpy as np
import pytest

from worldmodel.evaluation.held_out import Reconstruction
from worldmodel.training.history import CURVES, KL_OVER_TRAINING, History, read_kl, rewind_metrics
from worldmodel.training.tracking import FolderTracker

BAD = [b"[3]", b'{"a": 1}', b"\xff", b'{"update": "x"}', b'{"update": NaN}', b'{"update": 1, "kl": "much"}', b"["]


def test_metrics_go_to_the_table_that_they_are_named_after_and_to_no_other():
    history = History([{"update": 1, "train/elbo": -1.0, "kl/mean": None, "training_kl/mean": 5.0, "env_steps": 9.0}])
    history.add(2, {"train/elbo": -0.5, "heldout/elbo": -0.75, "heldout_kl/mean": 7.0})
    assert math.isnan(history.tables["kl"].pop("mean")[0])
    assert {name: columns for name, columns in history.tables.items() if columns} == {
        "kl": {"update": [1]},
        "train": {"update": [1, 2], "elbo": [-1.0, -0.5]},
        "heldout": {"update": [2], "elbo": [-0.75]},
    }


def test_evaluations_are_placed_where_that_many_steps_were_collected():
    rows = [{"update": 1, "env_steps": 100.0}, {"update": 3, "env_steps": 500.0}, {"update": 3, "acting/return": -7.0}]
    history = History(rows)
    history.add(2, {"acting/return": -5.0})
    np.testing.assert_array_equal(history.over_env_steps("acting/return"), [[500, 300], [-7, -5]])
    assert not len(history.over_env_steps("acting/predicted_return").x)
    assert not len(History([{"update": 3, "acting/return": -7.0}]).over_env_steps("acting/return").x)


def test_of_images_it_keeps_what_the_model_saw_by_update():
    truth, first, second = (np.full((1, 2, 2, 3), level) for level in (0, 1, 2))
    history = History()
    history.add_frames(3, {"camera": Reconstruction(truth, first)})
    history.add_frames(6, {"camera": Reconstruction(truth, second)})
    assert {update: frames.max() for update, frames in history.frames["camera"].items()} == {3: 1, 6: 2}


def test_the_kl_over_training_has_a_column_for_a_few_evaluations_spread_over_all_of_them():
    history = History()
    assert history.kl_over_training() == {}
    for update in range(100, 2600, 100):
        history.add_kl(update, np.full(4, float(update)))
    columns = history.kl_over_training()
    np.testing.assert_array_equal(columns.pop("row of the sequence"), np.arange(4))
    updates = [int(name.removeprefix("update ")) for name in columns]
    assert len(updates) == CURVES and updates == sorted(updates)
    assert (updates[0], updates[-1]) == (100, 2500)
    assert set(np.diff(updates)) == {200, 300}
    assert all((column == int(name.removeprefix("update "))).all() for name, column in columns.items())


def test_a_resumed_run_goes_on_with_the_kl_of_its_earlier_evaluations(tmp_path):
    first = History()
    for update in (5, 10, 15):
        first.add_kl(update, np.array([update, np.nan]))
    tracker = FolderTracker(tmp_path)
    tracker.lines(15, KL_OVER_TRAINING, first.kl_over_training())
    tracker.finish([])
    assert read_kl(tmp_path, 10).keys() == {5, 10}  # update 15 is made again
    resumed = History(kl=read_kl(tmp_path, 10))
    resumed.add_kl(15, np.array([1.0, 2.0]))
    columns = resumed.kl_over_training()
    assert [*columns] == ["row of the sequence", "update 5", "update 10", "update 15"]
    np.testing.assert_array_equal(columns["update 10"], [10, np.nan])
    np.testing.assert_array_equal(columns["update 15"], [1, 2])


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"update 5": 3}', '{"update x": [1]}', '{"update 5": ["y"]}', "[" * 9999]
)
def test_a_damaged_or_missing_record_of_it_is_an_empty_one(content, tmp_path):
    assert read_kl(tmp_path, 10) == {}
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "kl_over_training.json").write_text(content)
    assert read_kl(tmp_path, 10) == {}


def test_lines_that_are_no_rows_are_left_out_and_that_is_said_but_for_a_torn_last_one(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(b"\n".join([b'{"update": 1, "kl": null}', *BAD, b'{"update": 2}', b'{"upd']))
    (row,) = rewind_metrics(path, 1, said.append)
    assert row["update"] == 1 and np.isnan(row["kl"])
    assert path.read_bytes() == b'{"update": 1, "kl": null}\n'
    assert path.with_name("metrics-discarded.jsonl").read_bytes() == b'{"update": 2}\n'
    assert said == [f"{path}: line {2 + i} of 9 is damaged and was left out" for i in range(len(BAD))]


def test_a_record_that_is_whole_stays_as_it_is_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update": 1,  "kl": 1e-1}\n{"update":2, "kl": 0.30000000000000004}\n')
    before = path.read_bytes()
    assert len(rewind_metrics(path, 2, pytest.fail)) == 2
    assert path.read_bytes() == before
    assert not path.with_name("metrics-discarded.jsonl").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics-discarded.jsonl"])
def test_a_record_that_is_a_link_is_not_written_through(tmp_path, name):
    (tmp_path / "run").mkdir()
    path, elsewhere = tmp_path / "run" / "metrics.jsonl", tmp_path / "elsewhere"
    path.write_bytes(rows := b'{"update": 1}\n{"update": 2}\n')
    elsewhere.write_bytes(rows)
    path.with_name(name).unlink(missing_ok=True)
    path.with_name(name).symlink_to(elsewhere)
    if name == path.name:
        assert rewind_metrics(path, 1, pytest.fail) == [{"update": 1}]
        assert not path.is_symlink()  # replaced by a file
    else:
        with pytest.raises(
            ValueError, match=r"metrics-discarded.jsonl: expected a file .*, found a link to .*elsewhere"
        ):
            rewind_metrics(path, 1, pytest.fail)
        assert path.read_bytes() == rows
    assert elsewhere.read_bytes() == rows
