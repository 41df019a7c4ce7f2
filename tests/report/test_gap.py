"""The decomposition of gap and rate on a run's page."""

import json

import pytest

from run_folder import write_run
from worldmodel.report.page import page
from worldmodel.report.record import read_record

LEVELS = {"trained": -2.25, "filtering": -2.125, "smoothing": -2.0625, "refined": -2.03125, "log_evidence": -2.0}
PARTS = {"filtering": 0.0625, "amortisation": 0.03125, "family": 0.0313, "gap": 0.125}
RATE = {"rate": 3.5, "information_low": 3.25, "misfit_high": 0.25, "information_high": 3.4375, "misfit_low": 0.0619}


def estimates(means):
    return {name: {"mean": mean, "error": 0.0125} for name, mean in means.items()}


def stored(width=0.001, *, every=True, saturated=False, certificate=True):
    gap = {"levels": estimates(LEVELS), "parts": estimates(PARTS), "sequences": 4, "steps": 1200, "doubts": []}
    gap["certificate"] = {"width": {"mean": width, "error": 0.0005}, "degenerate_rows": 0.0} if certificate else None
    rate = {"parts": estimates(RATE), "alternatives": 3, "saturated": saturated, "sequences": 4, "steps": 4}
    later = rate | {"alternatives": 64}
    return {"gap": gap, "rate": {"first_row": rate, "every_row": later if every else None, "exact": True}}


def page_of(tmp_path, data):
    folder = tmp_path / "run"
    write_run(folder)
    if data is not None:
        (folder / "evidence").mkdir()
        (folder / "evidence" / "gap.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return page(read_record(folder))


def test_every_number_of_the_decomposition_is_on_the_page(tmp_path):
    shown = page_of(tmp_path, stored())
    for mean in (*LEVELS.values(), *PARTS.values(), *RATE.values()):
        assert f"{mean:.4f} ± 0.0125".replace("-", "−") in shown or f"{mean:.4f} ± 0.0125" in shown, mean
    assert "on 4 held-out episodes of 1,200 steps" in shown and "amortisation: one network for all" in shown
    assert "First steps, 3 other episodes each" in shown
    assert "Every step, 64 draws from the environment&#39;s exact law" in shown
    assert "in doubt" not in shown and "near its ceiling" not in shown


def test_parts_in_doubt_have_no_number_and_the_page_says_why(tmp_path):
    shown = page_of(tmp_path, stored(width=0.5))
    assert "The gap is in doubt: the sandwich is 0.5 ± 0.0005 nats per step wide" in shown
    assert "0.0313 ±" not in shown and "0.0625 ±" in shown


def test_a_smoothing_run_has_no_rate_of_every_step(tmp_path):
    shown = page_of(tmp_path, stored(every=False, saturated=True, certificate=False))
    assert "Every step, " not in shown and "The lower bound on the information is near its ceiling" in shown


@pytest.mark.parametrize(("data", "note"), [(None, False), ("{}", True), ("[]", True)])
def test_without_a_decomposition_nothing_is_shown(tmp_path, data, note):
    shown = page_of(tmp_path, data)
    assert "The gap decomposed" not in shown
    assert ("evidence/gap.json is damaged and was left out" in shown) is note
