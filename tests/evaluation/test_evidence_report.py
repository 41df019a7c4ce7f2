"""What is kept of a measurement: closed forms of the curves, and JSON that is read back as it was written."""

import json
import math

import numpy as np
import pytest

from evidence_reports import make_report
from worldmodel.evaluation.evidence_report import EvidenceReport, over_episodes


def test_curves_are_means_over_the_episodes_that_have_the_step():
    valid = np.array([[True, True, True], [True, True, False], [True, False, False]])
    rows = np.array([[1.0, 2.0, 3.0], [2.0, 6.0, 99.0], [6.0, 99.0, 99.0]])
    ((mean, error),) = over_episodes([rows], valid)
    np.testing.assert_allclose(mean, [3.0, 4.0, 3.0])
    # standard deviation over the square root of how many: sqrt((4 + 1 + 9) / 2 / 3), sqrt((4 + 4) / 1 / 2), none
    np.testing.assert_allclose(error, [math.sqrt(14 / 6), 2.0, np.nan])


def test_the_gap_of_the_first_rows_adds_up_evidence_minus_bound():
    steps = make_report().steps
    np.testing.assert_allclose(steps.bound, [-3.0, 1.0, 1.5])
    np.testing.assert_allclose(steps.gap_so_far, [1.0, 1.25, 1.25])


@pytest.mark.parametrize("exact", [True, False])
def test_json_is_read_back_as_it_was_written_nan_included(exact):
    report = make_report(exact=exact)
    text = json.dumps(report.as_json(), allow_nan=False)
    again = EvidenceReport.from_json(json.loads(text))
    assert json.dumps(again.as_json()) == text
    assert again.best.gap == report.best.gap
    assert again.exact == report.exact
    assert math.isnan(again.best.run_error["smc"])
    assert (again.steps.exact is None) is not exact
    assert again.terms == report.terms
    np.testing.assert_array_equal(again.steps.width_so_far, report.steps.width_so_far)


@pytest.mark.parametrize("damage", [{"estimates": []}, {"steps": {"evidence": [1.0], "kl": [1.0, 2.0]}}, {"best": 1}])
def test_something_else_is_refused(damage):
    with pytest.raises((KeyError, TypeError, ValueError)):
        EvidenceReport.from_json({**make_report().as_json(), **damage})
