"""The evidence in a figure and on a run's page: every number of the measurement, and no gap where it is in doubt."""

import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evidence_reports import make_measured, make_parts, make_report
from run_folder import ROWS, Page, write_run
from worldmodel.report import evidence as drawing
from worldmodel.report.comparison import summary
from worldmodel.report.figures import render
from worldmodel.report.page import page
from worldmodel.report.record import read_record

ROUGH = [
    {"update": update, "heldout_evidence/gap": 0.5, "heldout_evidence/ess": 0.25, "heldout_evidence/smc": -1.0}
    for update in (50, 100)
]


def write(folder, report=None, rows=ROWS):
    write_run(folder, rows=rows)
    if report is not None:
        (folder / "evidence").mkdir()
        (folder / "evidence" / "evidence.json").write_text(json.dumps(report.as_json()))
    return folder


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
    drawing.draw_gap(axis, make_report(wide=True))
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


def test_a_measurement_is_shown_with_its_errors_and_the_exact_evidence(tmp_path):
    read = Page(page(read_record(write(tmp_path / "run", make_report()))))
    assert "evidence" in read.sections
    estimates, exact, terms = [t for t in read.tables if t[0][0] == "particles" or "bound" in t[0]]
    assert estimates[2] == [
        *("16", "-2.0625 ± 0.0100", "-1.9840 ± 0.0200", "-1.9215 ± 0.0300"),
        *("0.1410 ± 0.0040", "0.0078 ± 0.0009", "0.4%"),
    ]
    assert exact[2] == ["16", *["0.0465 ± 0.0050"] * 3]
    assert "exactly -1.8750 ± 0.2500 nats per step" in read.text
    assert terms[1] == ["log p(obs)", "-1.500", "-1.250", "3", "-0.417"]
    assert "the bound is at least 0.1410 ± 0.0040 nats per step below the evidence" in read.text
    assert len(read.all("svg")) >= 5


def test_a_gap_in_doubt_is_not_given_and_the_reason_is(tmp_path):
    report = make_report(exact=False, wide=True)
    read = Page(page(read_record(write(tmp_path / "one", report))))
    (estimates,) = [t for t in read.tables if t[0][0] == "particles"]
    assert [row[4] for row in estimates[1:]] == ["in doubt", "0.1410 ± 0.0040"]
    assert "The sandwich is" not in read.text  # with more particles there is no doubt
    worse = report.as_json() | {"estimates": report.as_json()["estimates"][:1]}
    (tmp_path / "one" / "evidence" / "evidence.json").write_text(json.dumps(worse))
    read = Page(page(read_record(tmp_path / "one")))
    assert "The sandwich is 0.75 ± 0.0009 nats per step wide; beside a gap of 0.13" in read.text
    assert "With 4 particles the gap is in doubt, so none is given." in read.text
    assert f"{make_measured(4, exact=False).gap.mean:.4f}" not in read.text


def test_parts_have_their_gaps_and_certificates_and_what_these_certify(tmp_path):
    report = make_report(parts=make_parts(wide=True))
    read = Page(page(read_record(write(tmp_path / "run", report))))
    (parts,) = [table for table in read.tables if table[0][0] == "steps" and "gap" in table[0]]
    assert parts[1] == ["1 to 2", "-2.0625 ± 0.0100", "-1.7500 ± 0.0300", "in doubt", "0.7500 ± 0.0009", "0.4%", "2"]
    assert parts[2][3:5] == ["0.2500 ± 0.0060", "0.0156 ± 0.0008"]
    assert "Steps 1 to 2: the sandwich is 0.75 ± 0.0009 nats per step wide" in read.text
    assert "16 particles: steps 1 to 2 from far ahead; steps 3 to 3 from nearby." in read.text
    assert "does not certify other states after those steps" in read.text
    alone = make_report(parts=make_parts()[:1])
    read = Page(page(read_record(write(tmp_path / "alone", alone))))
    assert "does not certify recorded steps that are unlike the model's own" in read.text


def test_the_rough_gap_alone_is_shown_with_how_to_measure_it(tmp_path):
    read = Page(page(read_record(write(tmp_path / "run", rows=[*ROWS, *ROUGH]))))
    assert "Rough gap over training" in read.text
    assert "worldmodel evidence RUN" in read.text


def test_runs_are_compared_by_evidence_and_gap_where_they_were_measured(tmp_path):
    measured = read_record(write(tmp_path / "one", make_report()))
    rough = read_record(write(tmp_path / "two", rows=[*ROWS, *ROUGH]))
    header, rows = summary([measured, rough])
    table = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    assert table["evidence, SMC"] == ["-1.9215 ± 0.0300", "–"]
    assert table["gap"] == ["0.1410 ± 0.0040", "–"]
    assert table["rough gap"] == ["–", "0.500"]
    assert not {"gap", "rough gap"} & set(summary([read_record(write(tmp_path / "three"))])[0])


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"steps": {"episodes": null}, "estimates": [1]}'])
def test_a_damaged_measurement_is_noted_and_left_out(text, tmp_path):
    folder = write(tmp_path / "run", make_report())
    (folder / "evidence" / "evidence.json").write_text(text)
    record = read_record(folder)
    assert record.notes == ("evidence/evidence.json is damaged and was left out",)
    assert drawing.evidence(record) == []
