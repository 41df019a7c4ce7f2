"""The doubts about a gap in words."""

import pytest

from worldmodel.evidence.estimate import Certificate, Estimate
from worldmodel.report.tables import doubts

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
