"""Runs side by side: the numbers of each, what differs, and what may not be compared."""

import dataclasses
import json

import numpy as np
import pytest

from run_folder import ROWS, SESSIONS, Page, add_acting, add_everything, add_squared_error, write_run
from worldmodel.config import Config
from worldmodel.report import charts
from worldmodel.report.comparison import comparison, doubts, labels, summary
from worldmodel.report.groups import mean_curve
from worldmodel.report.record import Curve, read_record


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


def test_runs_that_act_are_compared_by_their_returns(records, tmp_path):
    assert "return" not in summary(records)[0]
    acted = read_record(add_acting(write_run(tmp_path / "acted")))
    header, rows = summary([acted, records[0]])
    assert [dict(zip(header, row, strict=True))["return"] for row in rows] == ["-950.000", "–"]
    assert [dict(zip(header, row, strict=True))["best return"] for row in rows] == ["-900.000", "–"]


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
    assert {"KL per step over training", "KL by steps since the reset", "Open-loop error: obs", "obs: CRPS"} <= drawn
    assert not page.all("img")


def test_curves_over_other_axes_lie_where_that_many_steps_or_seconds_had_passed(records, monkeypatch):
    seen = {}
    draw = charts.draw_curves

    def spy(axis, curves, x_label, *rest, **options):
        seen.setdefault(x_label, []).append([(curve.x.tolist(), curve.y.tolist()) for curve in curves])
        draw(axis, curves, x_label, *rest, **options)

    monkeypatch.setattr(charts, "draw_curves", spy)
    comparison(records[1:])
    assert seen["updates"][0] == [([50, 100], [-1.75, 0.5625])]
    assert seen["env steps"][0] == [([6000, 7000], [-1.75, 0.5625])]
    assert seen["seconds"][0] == [([10, 25], [-1.75, 0.5625])]


def test_open_loop_errors_are_compared_only_where_not_every_run_has_scores(records, tmp_path):
    scored = [add_squared_error(add_everything(write_run(tmp_path / name))) for name in ("a", "b")]
    both = [read_record(folder) for folder in scored]
    text = comparison(both)
    assert "Open-loop error" not in text and "held-out variance" not in text
    assert "obs: squared error" in {svg["aria-label"] for svg in Page(text).all("svg")}
    header, rows = summary(both)
    assert "open-loop error, obs" not in header
    assert [row[header.index("squared error, obs")] for row in rows] == ["0.250"] * 2
    assert "obs: squared error" in {row[0] for table in Page(text).tables for row in table}
    some = [both[0], records[0]]
    page = Page(comparison(some))
    drawn = {svg["aria-label"] for svg in page.all("svg")}
    assert {"Open-loop error: obs", "obs: CRPS"} <= drawn and "obs: squared error" not in drawn
    assert "squared error" not in page.text  # neither among the scores as numbers
    header, rows = summary(some)
    assert [row[header.index("open-loop error, obs")] for row in rows] == ["0.062"] * 2


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
    assert "different data (data/one, data/two)" in said and "Pendulum" not in said
    (said,) = doubts([records[0], one])
    assert "different data (Pendulum-v1, data/one)" in said


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"env": {"pixels": "only", "num_envs": 2}}, "The runs differ in env.pixels: where"),
        ({"decoder": {"resolution": 0.1}}, "a finer floor earns more nats"),
        ({"decoder": {"standardise": False}}, "a finer floor earns more nats"),
        ({"evaluation": {"seed": 1}}, "not scored on the same held-out episodes"),
        ({"evaluation": {"horizon": 3}}, "differ in evaluation.horizon: their open-loop errors"),
        ({"evaluation": {"episodes": 3}}, "not scored on the same held-out episodes"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_makes_numbers_doubtful_is_said(sections, named, records, tmp_path):
    (said,) = doubts([records[0], read_record(write_run(tmp_path / "other", **sections))])
    assert named in said


def explaining(folder, **terms):
    """A run that noted which data its bound explains: the measure of each term, "at least" for a lower bound."""
    write_run(folder)
    noted = {
        name: {"measure": measure.removeprefix("at least "), "exact": not measure.startswith("at least ")}
        for name, measure in terms.items()
    }
    (folder / "versions.json").write_text(json.dumps({**SESSIONS, "explains": noted}))
    return read_record(folder)


@pytest.mark.parametrize("put_side_by_side", [comparison, summary])
def test_runs_whose_bounds_explain_different_data_are_not_put_side_by_side(put_side_by_side, records, tmp_path):
    density = explaining(tmp_path / "density", obs="density", reward="density")
    mass = explaining(tmp_path / "mass", obs="mass", reward="density")
    less = explaining(tmp_path / "less", obs="density")
    with pytest.raises(ValueError) as refusal:
        put_side_by_side([density, mass])
    assert str(refusal.value).startswith(
        "density and mass explain different data, so their nats cannot be put side by side (obs: density and mass); "
    )
    with pytest.raises(ValueError, match=r"density and less explain .* \(reward: density and nothing\)"):
        put_side_by_side([records[0], density, less])
    put_side_by_side([records[0], density])  # the first is of a version that noted nothing
    put_side_by_side([density, explaining(tmp_path / "same", reward="density", obs="density")])


def test_a_log_likelihood_that_is_a_lower_bound_in_one_run_alone_is_said(tmp_path):
    exact = explaining(tmp_path / "exact", obs="density", reward="density")
    bounded = explaining(tmp_path / "bounded", obs="at least density", reward="density")
    (said,) = doubts([exact, bounded])
    assert said.startswith("The log-likelihood of obs is a lower bound in some of the runs and exact in others")
    comparison([exact, bounded])


SEEDS = (1.125, 0.625, 1.625)  # the last held-out ELBO of three seeds: mean 1.125, standard deviation 0.5


def rows_of(elbo, update=100):
    changed = [{**row, "heldout/elbo": elbo} if row.get("heldout/elbo") == 1.125 else row for row in ROWS]
    return [{**row, "update": update} if row["update"] == 100 else row for row in changed]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three seeds of the same settings, filed differently, and a run of others between them."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed, elbo in enumerate(SEEDS):
        about = {"seed": seed, "device": f"cuda:{seed}", "name": f"s{seed}", "wandb": {"tags": [str(seed)]}}
        about["planner"] = {"horizon": 10 + seed}  # which no training reads
        write_run(folder / f"s{seed}", rows_of(elbo), **about)
    write_run(folder / "other", loss={"beta": 0.5})
    return [read_record(folder / name) for name in ("s0", "other", "s1", "s2")]


def test_seeds_of_the_same_settings_share_a_row_with_their_mean_and_standard_deviation(seeds):
    header, rows = summary(seeds)
    both, other = (dict(zip(header, row, strict=True)) for row in rows)
    assert (both["run"], other["run"]) == ("s0 (n = 3)", "other")
    assert (both["ELBO"], other["ELBO"]) == ("1.125 ± 0.500", "1.125")
    assert (both["best ELBO"], both["updates"], both["at update"]) == ("1.125 ± 0.500", "100", "100")
    assert (both["active groups"], other["active groups"]) == ("3.000 ± 0", "3")
    page = Page(comparison(seeds))
    assert page.table("run")["s0 (n = 3)"][1] == "1.125 ± 0.500"
    assert "s0 (n = 3): mean ± standard deviation over the seeds of s0 (seed 0), s1 (seed 1), s2 (seed 2)." in page.text
    assert "the band is one standard deviation over seeds to either side" in page.text
    assert page.table("setting")["seed"] == ["0, 1, 2", "0"]
    assert page.table("nats per step")["+ beta"] == ["-0.200 ± 0", "-0.200"]


def test_the_curves_of_seeds_are_thin_under_their_mean_and_its_band(seeds, monkeypatch):
    drawn = []
    draw = charts.draw_curves

    def spy(axis, curves, *rest, **options):
        drawn.append(curves)
        draw(axis, curves, *rest, **options)

    monkeypatch.setattr(charts, "draw_curves", spy)
    comparison(seeds)
    *thin, mean, other = drawn[0]
    assert [curve.y.tolist() for curve in thin] == [[-3.5, elbo] for elbo in SEEDS]
    assert {curve.look.colour for curve in (*thin, mean)} == {mean.look.colour} != {other.look.colour}
    assert all(curve.look.width < mean.look.width and curve.between is None for curve in thin)
    assert (mean.x.tolist(), mean.y.tolist()) == ([50, 100], [-3.5, 1.125])
    assert [edge.tolist() for edge in mean.between] == [[-3.5, 0.625], [-3.5, 1.625]]
    assert other.between is None and other.y.tolist() == [-3.5, 1.125]


def test_the_mean_of_curves_is_taken_where_all_of_them_are():
    short, long = Curve(np.array([0.0, 2.0]), np.array([0.0, 4.0])), Curve(np.array([1.0, 3.0]), np.array([0.0, 4.0]))
    mean, (low, high) = mean_curve([short, long])
    assert (mean.x.tolist(), mean.y.tolist()) == ([1.0, 2.0], [1.0, 3.0])
    np.testing.assert_allclose([low, high], [mean.y - 2**0.5, mean.y + 2**0.5])
    apart = Curve(np.array([5.0, 6.0]), np.array([0.0, 1.0]))
    assert len(mean_curve([short, apart])[0].x) == 0


def test_a_number_that_some_seeds_lack_says_how_many_have_it(seeds, tmp_path):
    lacking = read_record(write_run(tmp_path / "s3", ROWS[:3], seed=3))
    header, rows = summary([seeds[0], seeds[2], lacking])
    assert rows[0][header.index("active groups")] == "3.000 ± 0 (of 2)"
    assert rows[0][header.index("updates")] == "100, 50 of 100"
    header, rows = summary([seeds[0], lacking])
    assert rows[0][header.index("open-loop error, obs")] == "0.062"


def test_a_second_run_of_a_seed_or_of_other_settings_is_no_further_seed(seeds, tmp_path):
    again = read_record(write_run(tmp_path / "again"))
    assert [row[0] for row in summary([seeds[0], again])[1]] == ["s0", "again"]
    longer = read_record(write_run(tmp_path / "longer", seed=4, training={"env_steps": 7000}))
    assert [row[0] for row in summary([seeds[0], longer])[1]] == ["s0", "longer"]
    elsewhere = read_record(write_run(tmp_path / "elsewhere", seed=4, evaluation={"seed": 4}))
    assert [row[0] for row in summary([seeds[0], elsewhere])[1]] == ["s0", "elsewhere"]


def test_seeds_are_scored_on_the_same_rows_unless_an_earlier_version_collected_them(seeds, tmp_path):
    assert doubts([seeds[0], *seeds[2:]]) == []
    old = []
    for seed in range(2):
        config = dataclasses.asdict(Config(seed=seed))
        del config["evaluation"]["seed"]
        old.append(read_record(write_run(tmp_path / f"old{seed}", config=config)))
    (said,) = doubts(old)
    assert "not scored on the same held-out episodes" in said
    assert [row[0] for row in summary(old)[1]] == ["old0 (n = 2)"]
    assert doubts([old[0], seeds[0]]) == []  # both by seed 0
    assert "not scored on the same" in doubts([old[1], seeds[2]])[0]


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
