"""The table of certificates in docs/evidence.md: what its rows are read from, and that the kept ones stand in it."""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import certificates

    return certificates


def test_a_row_is_of_the_most_particles_and_of_the_best_weights(script, tmp_path, monkeypatch):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "config.yaml").write_text("name: pendulum\nseed: 7\n")
    shared = {"width": [0.5, 0.25], "degenerate_rows": 0.0, "doubts": []}
    few, many = ({"particles": n, "gap": [1.0, n / 8], **shared} for n in (2, 4))
    part = {**many, "first": 1, "last": 8, "gap": [2.0, 0.5], "doubts": ["wide"], "elbo": [0.0, 0.0]}
    found = {"runs": 2, "episodes": 3, "rows": 60, "estimates": [few, many], "parts": [part]}
    (tmp_path / "evidence" / "evidence.json").write_text(json.dumps(found))
    counters = {"best.safetensors": {"env_steps": 1200, "updates": 34}}
    monkeypatch.setattr(script, "read_counters", lambda path: counters[path.name])
    row = script.read(tmp_path)
    assert script.which(row) == ("pendulum", 7, 4) and row["parts"][0].keys() == {"first", "last", *script.KEPT}
    assert script.table([row]).splitlines()[2] == (
        "| pendulum | 7 | 1,200 steps, 34 updates | 3 episodes, 60 steps | 4 | 0.500 ± 0.250 | in doubt "
        "| 0.500 ± 0.250 | 1.000 ± 0.500 |"
    )


def test_the_page_has_the_kept_rows(script):
    kept = [json.loads(line) for line in (DOCS / script.NUMBERS).read_text().splitlines()]
    assert len(kept) > 3 and script.table(kept) in (DOCS / "evidence.md").read_text()
