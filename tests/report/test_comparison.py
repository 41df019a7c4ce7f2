"""Runs side by side: the numbers of each, what differs, and what may not be compared."""

import pytest

from run_folder import ROWS, Page, add_everything, write_run
from worldmodel.report import panels
from worldmodel.report.comparison import comparison, doubts, labels, summary
from worldmodel.report.record import read_record


def half_as_good(row):
    return {key: value / 2 if key == "heldout/elbo" else value for key, value in row.items()}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    add_everything(write_run(folder / "one"))
    write_run(folder / "two", [half_as_good(row) for row in ROWS[:-1]], loss={"beta": 0.25}, env={"num_envs": 8})
    return [read_record(folder / name) for name in ("one", "two")]


def test_the_summary_has_the_last_and_the_best_of_every_run(records):
    header, rows = summary(records)
    one, two = (dict(zip(header, row, strict=True)) for row in rows)
    assert (one["run"], one["best ELBO"], one["at update"], one["ELBO"]) == ("one", "1.125", "100", "1.125")
    assert (two["run"], two["best ELBO"], two["at update"], two["ELBO"]) == ("two", "0.562", "100", "0.562")
    assert (one["KL"], one["log p(obs)"], one["active groups"], one["updates"]) == ("0.875", "2.000", "3", "100")
    assert (one["open-loop error, obs"], two["open-loop error, obs"]) == ("0.062", "–")
    assert (one["pixels, bits per dimension"], two["pixels, bits per dimension"]) == ("0.438", "–")
    assert [run["time"].replace("\N{NO-BREAK SPACE}", " ") for run in (one, two)] == ["3 min 20 s", "25.0 s"]


def test_the_page_has_the_tables_the_curves_and_the_scores(records):
    page = Page(comparison(records))
    assert page.sections == ["numbers", "curves", "kl", "imagination", "ledger", "settings"]
    assert page.table("run")["two"] == list(summary(records)[1][1][1:])
    assert page.table("nats per step")["+ beta"] == ["-0.200", "-0.200"]
    assert page.table("setting") == {
        "setting": ["one", "two"],
        "env.num_envs": ["4", "8"],
        "loss.beta": ["1.0", "0.25"],
    }
    (scores,) = [table for table in page.tables if table[0][0] == "score"]
    assert scores[1] == ["obs: CRPS", "the model", "one", "0.110", "0.120", "0.140"]
    drawn = {svg["aria-label"] for svg in page.all("svg")}
    assert {"ELBO", "ELBO by env steps", "ELBO by seconds", "KL", "KL by env steps", "log p(obs)"} <= drawn
    assert {"Over training", "By steps since the reset", "Open-loop error: obs", "obs: CRPS"} <= drawn
    assert not page.all("img")


def test_curves_over_other_axes_lie_where_that_many_steps_or_seconds_had_passed(records, monkeypatch):
    seen = {}
    panel = panels.panel

    def spy(curves, x_label, *rest, **options):
        seen.setdefault(x_label, []).append([(curve.x.tolist(), curve.y.tolist()) for curve in curves])
        return panel(curves, x_label, *rest, **options)

    monkeypatch.setattr(panels, "panel", spy)
    comparison(records[1:])
    assert seen["updates"][0] == [([50, 100], [-1.75, 0.5625])]
    assert seen["env steps"][0] == [([6000, 7000], [-1.75, 0.5625])]
    assert seen["seconds"][0] == [([10, 25], [-1.75, 0.5625])]


def test_runs_of_different_environments_are_said_not_to_be_comparable(records, tmp_path):
    other = read_record(write_run(tmp_path / "other", env={"id": "CartPole-v1"}))
    (said,) = doubts([records[0], other])
    assert "different environments (Pendulum-v1, CartPole-v1)" in said and "cannot be compared" in said
    assert said in Page(comparison([records[0], other])).text


def test_a_run_under_an_environment_s_older_id_is_of_the_same_environment(tmp_path):
    ids = {"old": "envs:LinearGaussian-v0", "new": "worldmodel/LinearGaussian-v0"}
    old, new = (read_record(write_run(tmp_path / name, env={"id": env_id})) for name, env_id in ids.items())
    assert old.source == new.source == ids["new"]
    assert doubts([old, new]) == []


def test_runs_that_learn_from_different_stored_rows_are_named_by_them(records, tmp_path):
    one, two = (read_record(write_run(tmp_path / name, offline=f"data/{name}")) for name in ("one", "two"))
    (said,) = doubts([one, two])
    assert "different rows (data/one, data/two)" in said and "Pendulum" not in said
    (said,) = doubts([records[0], one])
    assert "different rows (Pendulum-v1, data/one)" in said


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"env": {"pixels": "only", "num_envs": 2}}, "The runs differ in env.pixels: where"),
        ({"decoder": {"resolution": 0.1}}, "a finer floor earns more nats"),
        ({"decoder": {"standardise": False}}, "a finer floor earns more nats"),
        ({"seed": 1}, "not scored on the same held-out episodes"),
        ({"evaluation": {"horizon": 3}}, "differ in evaluation.horizon: their open-loop errors"),
        ({"evaluation": {"episodes": 3}}, "not scored on the same held-out episodes"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_makes_numbers_doubtful_is_said(sections, named, records, tmp_path):
    (said,) = doubts([records[0], read_record(write_run(tmp_path / "other", **sections))])
    assert named in said


def test_a_damaged_record_is_named(tmp_path):
    with (write_run(tmp_path / "run") / "metrics.jsonl").open("a") as metrics:
        metrics.write("{")
    assert doubts([read_record(tmp_path / "run")]) == ["run: metrics.jsonl: the last line is damaged and was left out."]


def test_settings_that_leave_the_data_alone_raise_no_doubt(records):
    assert doubts(records) == []
    assert doubts(records[:1]) == []


def test_an_unfinished_run_says_how_far_it_was_to_go(tmp_path):
    header, rows = summary([read_record(write_run(tmp_path / "run", ROWS[:3]))])
    assert rows[0][header.index("updates")] == "50 of 100"


def test_runs_in_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [write_run(tmp_path / part / "run") for part in ("a", "b")]
    assert labels([read_record(folder) for folder in folders]) == [str(folder) for folder in folders]
    assert labels([read_record(folders[0])]) == ["run"]


def test_a_run_without_anything_to_draw_is_still_listed(tmp_path):
    page = Page(comparison([read_record(write_run(tmp_path / "<b>", [{"update": 3}]))]))
    assert page.sections == ["numbers", "settings"]
    assert page.table("run")["<b>"][0] == "3 of 100"
    assert not page.all("b")


def test_more_runs_than_colours_differ_in_their_dashes(tmp_path):
    record = read_record(write_run(tmp_path / "run"))
    page = Page(comparison([record] * 10))
    keys = [span["style"] for span in page.all("span") if span.get("class") == "swatch"][:10]
    assert len(set(keys)) == 10
