"""What is read from a run's folder, and what is said of what cannot be read."""

import json

import numpy as np
import pytest

from run_folder import ROWS, SESSIONS, add_everything, write_run
from worldmodel.evaluation.scores import COUNTS
from worldmodel.report.record import Explained, read_record, settings

UNEQUAL = json.dumps(
    {
        **{"x": [0, 1], "y": [0], "sessions": 1},
        "scores": {"obs": {"nll": {"model": {"mean": [0, 1], "low": [0], "high": [1]}}}},
    }
)


def test_calls_at_one_update_are_one_row_and_columns_follow_the_updates(tmp_path):
    record = read_record(write_run(tmp_path / "run"))
    assert [row["update"] for row in record.rows] == [50, 100]
    np.testing.assert_array_equal(record.column("heldout/elbo"), [[50, 100], [-3.5, 1.125]])
    np.testing.assert_array_equal(record.column("heldout_kl/mean"), [[100], [0.875]])
    assert record.column("nothing").x.shape == (0,)
    assert record.names("ledger/") == ["negative_elbo", "beta"]
    assert (record.first("ledger/beta"), record.last("ledger/beta"), record.last("nothing")) == (-0.75, -0.2, None)
    assert record.best["update"] == record.updates == record.planned == 100


def test_an_earlier_bound_may_be_the_best_and_a_bound_that_is_not_finite_never_is(tmp_path):
    rows = [{"update": u, "heldout/elbo": elbo} for u, elbo in ((1, None), (2, 3.0), (3, 1.0))]
    record = read_record(write_run(tmp_path / "run", rows))
    assert record.best["update"] == 2
    assert np.isnan(record.first("heldout/elbo"))
    assert read_record(write_run(tmp_path / "other", [{"update": 1, "heldout/elbo": None}])).best is None


def test_rows_beyond_the_checkpoint_that_a_run_was_resumed_from_are_left_out(tmp_path):
    rows = [{"update": u, "kl/mean": float(i)} for i, u in enumerate((10, 20, 30, 20, 30, 40))]
    record = read_record(write_run(tmp_path / "run", rows))
    np.testing.assert_array_equal(record.column("kl/mean"), [[10, 20, 30, 40], [0, 3, 4, 5]])


def test_a_last_line_cut_short_is_left_out_with_a_note(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"update": 150, "train/el')
    record = read_record(folder)
    assert record.updates == 100
    assert record.notes == ("metrics.jsonl: the last line is damaged and was left out",)


@pytest.mark.parametrize(
    "line", ["[1, 2]", '{"kl/mean": 1.0}', '{"update": "soon"}', '{"update": 1, "kl/mean": []}', ""]
)
def test_a_damaged_line_amid_the_metrics_is_named_by_its_place(line, tmp_path):
    folder = write_run(tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([text[0], line, *text[1:]]) + "\n")
    record = read_record(folder)
    assert record.notes == (f"metrics.jsonl: line 2 of {len(ROWS) + 1} is damaged and was left out",)
    assert record.rows == read_record(write_run(tmp_path / "whole")).rows


@pytest.mark.parametrize("file", ["lines/kl_surprise.json", "imagination/scores.json", "versions.json"])
@pytest.mark.parametrize(
    "text",
    ["{", "[]", UNEQUAL, '{"scores": {"obs": 1}, "sessions": [{}]}', "[" * 100_000],
    ids=["cut", "list", "unequal", "empty", "deep"],
)
def test_a_damaged_part_is_left_out_and_named(file, text, tmp_path):
    folder = add_everything(write_run(tmp_path / "run"))
    (folder / file).write_text(text)
    record = read_record(folder)
    (note,) = record.notes
    assert f"{file.split('/')[-1]} is damaged and was left out" in note
    kept = {"lines/kl_surprise.json": record.lines.get("kl_surprise"), "versions.json": record.sessions}
    assert not kept.get(file, record.scores)


def test_optional_parts_are_read_where_they_are(tmp_path):
    record = read_record(add_everything(write_run(tmp_path / "run")))
    np.testing.assert_array_equal(record.lines["kl_by_episode_step"]["raw"], [3.0, 0.5, np.nan])
    assert {name: getattr(record.scores, name) for name in COUNTS} == {
        **{"context": 8, "horizon": 4, "samples": 16, "episodes": 5, "futures": 40}
    }
    np.testing.assert_array_equal(record.scores.bands["obs", "crps", "repeat_last"].mean, [0.31, 0.32, 0.33, 0.34])
    assert [session.update for session in record.sessions] == [0, 50]
    assert record.sessions[1].about == {"device": "cuda", "torch": "2.7.0"}
    assert record.stages == {"evaluate": 120.0, "update": 60.0, "collect": 20.0}
    assert {"figures/bound.png", "imagination/film_obs.gif"} <= set(record.pictures)
    assert record.pictures["imagination/film_obs.gif"].startswith(b"GIF")


def test_which_data_the_bound_explains_is_read_where_it_was_noted(tmp_path):
    folder = add_everything(write_run(tmp_path / "run"))
    assert read_record(folder).explains is None
    noted = {**SESSIONS, "explains": {"obs": {"measure": "density", "exact": True}}}
    (folder / "versions.json").write_text(json.dumps(noted))
    record = read_record(folder)
    assert record.explains == {"obs": Explained("density", True)} and len(record.sessions) == 2
    (folder / "versions.json").write_text(json.dumps({**SESSIONS, "explains": {"obs": "density"}}))
    record = read_record(folder)
    assert record.explains is None and "versions.json is damaged and was left out" in record.notes[0]


def test_time_is_the_sum_of_the_stages_or_what_the_rate_amounts_to(tmp_path):
    np.testing.assert_array_equal(read_record(write_run(tmp_path / "a")).elapsed(), [[50, 100], [10, 25]])
    rows = [{"update": u, "rate/updates_per_second": rate} for u, rate in ((0, 0.0), (1, None), (2, 4.0))]
    np.testing.assert_array_equal(read_record(write_run(tmp_path / "c", rows)).elapsed(), [[2], [0.5]])
    np.testing.assert_array_equal(read_record(add_everything(write_run(tmp_path / "b"))).elapsed(), [[100], [200]])


def test_a_run_of_other_settings_has_no_planned_number_of_updates(tmp_path):
    record = read_record(write_run(tmp_path / "run", config={"env": {"id": "Foreign-v0"}}))
    assert record.planned is None
    assert record.setting("env.id") == "Foreign-v0"
    assert record.setting("seed") is None


def test_settings_are_named_by_dotted_keys():
    assert settings({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a run's folder, found no config"):
        read_record(tmp_path)
    for i, rows in enumerate(([], [{"no": "update"}])):
        with pytest.raises(ValueError, match="expected metrics, found no row"):
            read_record(write_run(tmp_path / f"empty {i}", rows))
    (write_run(tmp_path / "bare") / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="expected metrics"):
        read_record(tmp_path / "bare")


@pytest.mark.parametrize(
    ("text", "named"), [("a: [", "expected settings as YAML"), ("- 1", "settings by name, got list")]
)
def test_settings_that_cannot_be_read_are_refused(text, named, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=named):
        read_record(folder)


def test_numbers_that_were_not_finite_are_read_as_such(tmp_path):
    folder = write_run(tmp_path / "run", [{"update": 1, "kl/mean": None}])
    (folder / "lines").mkdir()
    (folder / "lines" / "curve.json").write_text(json.dumps({"update": 1, "x": [0, 1], "y": [None, 2.0]}))
    record = read_record(folder)
    np.testing.assert_array_equal(record.column("kl/mean").y, [np.nan])
    np.testing.assert_array_equal(record.lines["curve"]["y"], [np.nan, 2.0])
