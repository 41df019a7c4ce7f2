"""A stored decomposition of gap and rate, read back."""

import json

import pytest
import torch

from worldmodel.evaluation.decomposed import Decomposed
from worldmodel.evidence.estimate import Certificate, Estimate
from worldmodel.evidence.gap import GapDecomposition
from worldmodel.evidence.rate import Misfit, Rate


def decomposition(certificate=None, trained=None):
    bounds = (torch.randn(3).double() for _ in range(4))
    return GapDecomposition(*bounds, steps=torch.tensor([4, 2, 3]), trained=trained, certificate=certificate)


def rate_of(alternatives):
    rows = [torch.rand(3, 4) for _ in range(3)]
    return Rate(rows[0], Misfit(*rows[1:]), torch.ones(3, 4, dtype=torch.bool), alternatives)


def written(gap, first, every=None):
    """What `worldmodel gap` writes, as it is read."""
    rate = {"first_row": first.as_json(), "every_row": every and every.as_json(), "exact": True}
    return json.loads(json.dumps({"gap": gap.as_json(), "rate": rate, "settings": {}}))


def test_what_was_written_is_read_back():
    certificate = Certificate(Estimate(0.1, 0.01), Estimate(0.02, 0.001), 0.5)
    gap, first, every = decomposition(certificate, torch.randn(3).double()), rate_of(2), rate_of(8)
    found = Decomposed.from_json(written(gap, first, every))
    assert found.levels == gap.levels() and found.parts == gap.parts() and "trained" in found.levels
    assert found.certificate == Certificate(gap.parts()["gap"], certificate.width, 0.5)
    assert (found.episodes, found.rows, found.exact) == (3, 9, True)
    assert found.first_row == (first.parts(), 2, first.saturated)
    assert found.every_row == (every.parts(), 8, every.saturated)


def test_what_there_was_none_of_is_none():
    found = Decomposed.from_json(written(decomposition(), rate_of(2)))
    assert found.certificate is None and found.every_row is None and "trained" not in found.levels


@pytest.mark.parametrize("missing", ["gap", "family", "log_evidence", "misfit_low"])
def test_something_else_is_refused(missing):
    data = written(decomposition(), rate_of(2))
    for part in (data, data["gap"]["parts"], data["gap"]["levels"], data["rate"]["first_row"]["parts"]):
        part.pop(missing, None)
    with pytest.raises(KeyError, match=missing):
        Decomposed.from_json(data)
