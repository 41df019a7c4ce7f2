"""The doubts about a gap in words, and how calibrated imagination is."""

from dataclasses import replace

import numpy as np
import pytest

from evidence_reports import make_measured, make_parts, make_report
from worldmodel.evaluation.scores import Scores
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.evidence.estimate import Certificate, Estimate
from worldmodel.report.tables import BEYOND_HELP, calibration, doubts, remedy, weights

FINE = {"gap": Estimate(0.1, 0.01), "width": Estimate(0.001, 0.0005), "degenerate_rows": 0.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"degenerate_rows": 0.3}, "fewer than 2 particles are effective after 30.0% of the steps (at most 2% may"),
        ({"width": Estimate(0.5, 0.25)}, "the sandwich is 0.5 ± 0.25 nats per step wide; beside a gap of 0.1 "),
        ({"width": Estimate(0.5, 0.25)}, "may be more than 0.025"),
        ({"gap": Estimate(-0.1, 0.01), "width": Estimate(0.0, 0.0)}, "SMC lies 0.1 nats per step below the ELBO"),
    ],
)
def test_every_doubt_says_what_was_found_and_what_was_allowed(change, words):
    (doubt,) = doubts(Certificate(**{**FINE, **change}))
    assert words in doubt


def test_doubts_are_given_together_and_in_order():
    every = Certificate(Estimate(-1.0, 0.1), Estimate(1.0, 0.1), 1.0)
    assert [doubt.split()[0] for doubt in doubts(every)] == ["fewer", "the", "SMC"]
    assert doubts(Certificate(**FINE)) == ()


def test_more_particles_are_advised_where_a_gap_is_in_doubt_and_they_may_be_enough():
    fine, wide = make_measured(16, exact=False), make_measured(16, exact=False, wide=True)
    lost = replace(wide, degenerate_rows=BEYOND_HELP + 0.01)
    for best, parts, advised in (
        (fine, make_parts(), False),
        (wide, make_parts(), True),
        (replace(wide, degenerate_rows=BEYOND_HELP), make_parts(), True),
        (fine, make_parts(wide=True), True),
        (lost, make_parts(wide=True), False),
    ):
        words = remedy(replace(make_report(exact=False, parts=parts), estimates=(best,)))
        assert words == ("more particles may remove the doubt: --particles 128" if advised else "")


def curve(*values):
    return Band(*[np.array(values, np.float64)] * 3)


def test_calibration_is_the_coverage_and_how_long_imagination_beats_the_marginal_without_a_break():
    marginal = curve(1, 1, 1, 1)
    leaves = {
        "obs": {
            "nll": {"model": curve(0, 1, 2, 0), "marginal": marginal},
            "coverage": {"model": curve(0.8, 0.9, 0.951, np.nan), "marginal": curve(0, 0, 0, 0)},
        },
        "camera": {"nll": {"model": curve(0, 0, 0, 0), "marginal": marginal}},
        "reward": {"nll": {"model": curve(2, 0, 0, 0)}, "coverage": {"model": curve(0.5, 0.5, 0.5, 0.5)}},
        "continue": {"squared_error": {"model": curve(0, 0, 0, 0)}},
    }
    scores = Scores(context=2, horizon=4, samples=8, episodes=3, futures=9, scores=leaves)
    assert calibration(scores).header == (
        *("inside 90 % intervals", "1 ahead", "2 ahead", "4 ahead"),
        "steps better than the marginal",
    )
    assert calibration(scores).rows == [
        ("obs", "0.8", "0.9", "", "2"),
        ("camera", "", "", "", "all 4"),
        ("reward", "0.5", "0.5", "0.5", ""),
    ]


def test_the_tails_of_the_weights_are_told_of_the_most_particles_where_they_are_known():
    words = weights(make_report())
    assert words.startswith("Pareto k of the weights of 16 particles: 0.38 after the median step, and more than 0.7")
    assert words.endswith("after 25.0% of the steps.")
    report = make_report()
    assert weights(replace(report, estimates=report.estimates[:1])) == ""
