"""The figure of a measurement: every curve is what was measured, and what is in doubt looks like it."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evidence_reports import make_report
from worldmodel.report import evidence as drawing
from worldmodel.report.figures import render


def curves(draw, *arguments) -> dict[str, np.ndarray]:
    """What is drawn, by its label."""
    axis = Figure().subplots()
    draw(axis, *arguments)
    handles, labels = axis.get_legend_handles_labels()
    lines = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]
    return {label: line.get_ydata(orig=False) for label, line in zip(labels, lines, strict=True)}


def test_estimates_are_drawn_by_particles_beside_the_exact_evidence():
    drawn = curves(drawing.draw_estimates, make_report())
    np.testing.assert_allclose(drawn["SMC"], [-1.9335, -1.9215])
    np.testing.assert_allclose(drawn["ELBO"], [-2.0625, -2.0625])
    np.testing.assert_allclose(drawn["exact"], [-1.875, -1.875])
    assert "exact" not in curves(drawing.draw_estimates, make_report(exact=False))


def test_a_gap_in_doubt_is_an_open_circle():
    axis = Figure().subplots()
    drawing.draw_gap(axis, make_report(doubts=("the sandwich is wide",)))
    (hollow,) = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert (hollow.get_xdata().tolist(), hollow.get_ydata().tolist()) == ([4], [pytest.approx(0.129)])


def test_curves_along_the_episode_are_those_of_the_steps():
    steps = make_report().steps
    drawn = curves(drawing.draw_rows, make_report())
    np.testing.assert_allclose(drawn["evidence, SMC"], steps.evidence)
    np.testing.assert_allclose(drawn["bound, their sum"], drawn["reconstruction"] + drawn["$-$KL"])
    so_far = curves(drawing.draw_gap_so_far, make_report())
    np.testing.assert_allclose(so_far["gap, SMC $-$ ELBO"], [1.0, 1.25, 1.25])
    np.testing.assert_allclose(so_far["exact $-$ SMC"], [0.25, 0.25, 0.25])


@pytest.mark.parametrize("exact", [True, False])
def test_the_whole_figure_is_rendered(exact):
    image = Image.open(io.BytesIO(render(drawing.evidence_figure(make_report(exact=exact)))))
    assert image.width > 1000 and np.asarray(image).std() > 5
