"""Figures draw the numbers they are given."""

import io

import numpy as np
from PIL import Image

from run_folder import add_acting, add_everything, write_run
from worldmodel.evaluation.scores import Scores
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.report import charts
from worldmodel.report import figures as report
from worldmodel.report.imagination import score_chart
from worldmodel.report.page import page
from worldmodel.report.record import Curve, read_record


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.get_lines()}


def overview(optimised_factor):
    raw = np.linspace(1.0, 2.0, 6)
    history = {"update": [1, 2], "mean": [1.0, 2.0], "median": [0.5, 1.0], "q95": [3.0, 4.0]}
    history["optimised_mean"] = [optimised_factor * x for x in history["mean"]]
    heat_map = np.arange(12.0).reshape(2, 6)
    figure = report.kl_overview(
        history, raw, optimised_factor * raw, raw[:4], heat_map, raw, optimised_factor * raw, -raw
    )
    return figure, raw, heat_map


def axis_titled(figure, words):
    return next(axis for axis in figure.axes if words in axis.get_title())


def test_the_raw_kl_is_drawn_alone_where_the_loss_sees_the_same():
    figure, raw, _ = overview(1.0)
    assert not any("optimised" in label for axis in figure.axes for label in lines(axis))
    np.testing.assert_array_equal(lines(axis_titled(figure, "place in the sequence"))["raw"], raw)
    np.testing.assert_array_equal(lines(axis_titled(figure, "over training"))["median"], [0.5, 1.0])


def test_the_optimised_kl_is_drawn_beside_the_raw_one_where_they_differ():
    figure, raw, _ = overview(2.0)
    position = lines(axis_titled(figure, "place in the sequence"))
    np.testing.assert_array_equal(position["raw"], raw)
    np.testing.assert_array_equal(position["as optimised"], 2 * raw)
    surprise = lines(axis_titled(figure, "Surprise"))
    np.testing.assert_array_equal(surprise["KL, as optimised"], 2 * surprise["KL, raw"])


def test_the_reward_stands_beside_the_surprise_and_the_heat_map_holds_the_groups():
    figure, raw, heat_map = overview(1.0)
    assert any(np.array_equal(y, -raw) for axis in figure.axes for y in lines(axis).values())
    np.testing.assert_array_equal(axis_titled(figure, "latent group").get_images()[0].get_array(), heat_map)


def test_open_loop_errors_are_drawn_from_one_step_ahead():
    model, repeat, mean = np.array([0.1, 0.2]), np.array([0.3, 0.4]), np.array([1.0, 1.0])
    (axis,) = report.open_loop_figure({"obs": (model, repeat, mean)}).axes
    for label, values in (("imagined", model), ("repeated", repeat), ("mean of the data", mean)):
        line = next(line for line in axis.get_lines() if label in line.get_label())
        np.testing.assert_array_equal(line.get_xydata(), np.stack([[1, 2], values], -1))


def test_acting_is_drawn_over_env_steps_as_far_as_it_was_measured():
    x = np.array([1500.0, 2000.0])
    curves = {
        "acting/return": Curve(x, np.array([-900.0, -150.0])),
        "acting/least_return": Curve(x, np.array([-1500.0, -400.0])),
        "acting_heldout/elbo": Curve(x, np.array([-7.0, 3.0])),
        "heldout/elbo": Curve(x, np.array([1.0, 2.0])),
        "heldout_evidence/smc": Curve(x, np.array([1.0, 2.0])),  # alone, it says nothing of acting
        "acting/discounted_return": Curve(np.empty(0), np.empty(0)),
    }
    returns, bound = report.acting_figure(curves).axes
    assert (returns.get_title(), bound.get_title()) == ("Returns", "Bound on its own episodes")
    assert returns.get_xlabel() == "env steps" and list(lines(returns)) == ["mean", "least"]
    np.testing.assert_array_equal(lines(returns)["least"], [-1500, -400])
    np.testing.assert_array_equal(returns.get_lines()[0].get_xdata(), x)
    assert [y.tolist() for y in lines(bound).values()] == [[-7, 3], [1, 2]]


def test_lengths_are_drawn_where_they_change():
    x = np.array([500.0, 1000.0])
    curves = {"acting/return": Curve(x, np.array([20.0, 500.0])), "acting/length": Curve(x, np.array([20.0, 500.0]))}
    assert report.acting_charts(curves) == ["returns", "lengths"]
    assert report.acting_charts(curves | {"acting/length": Curve(x, np.array([200.0, 200.0]))}) == ["returns"]


def test_many_leaves_make_a_grid_that_can_still_be_rendered():
    names = [f"leaf {i}" for i in range(23)]
    table = {"update": [1, 2], **{name: [float(i), i + 1.0] for i, name in enumerate(names)}}
    figure = report.bound_curves(table, {"update": [2], **{name: [0.0] for name in names}})
    assert [axis.get_title() for axis in figure.axes] == [f"log p({name})" for name in names]
    width, height = figure.get_size_inches()
    assert width < 20 and height > 10
    assert Image.open(io.BytesIO(report.render(figure))).size[0] > 1000


def test_a_picture_and_the_page_draw_their_charts_with_the_same_functions(tmp_path, monkeypatch):
    names = {name for name in vars(charts) if name.startswith("draw_")}
    called = set()

    def spy(name, draw):
        def spied(*arguments, **options):
            called.add(name)
            draw(*arguments, **options)

        return spied

    for name in names:
        monkeypatch.setattr(charts, name, spy(name, getattr(charts, name)))
    page(read_record(add_acting(add_everything(write_run(tmp_path / "run")))))
    assert called == names
    called.clear()
    overview(1.0)
    report.acting_figure({"acting/return": Curve(np.ones(1), np.ones(1))})
    report.bound_curves({"update": [1], "elbo": [0.0]}, {})
    report.open_loop_figure({"obs": [np.ones(2)] * 3})
    score_chart(Scores(1, 2, 2, 1, 1, {"obs": {"crps": {"model": Band(*[np.ones(2)] * 3)}}}))
    assert called == names - {"draw_resource"}  # what the run takes of its machine is on the page alone
