"""`worldmodel evidence` on a tiny trained run of a world with a law: what it writes, what it shows, how it refuses."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from run_folder import Page
from worldmodel.build import build_law
from worldmodel.cli import main
from worldmodel.evaluation.evidence import EvidenceReport
from worldmodel.oracles.worlds import exact_evidence
from worldmodel.report import tables
from worldmodel.report.formats import with_error
from worldmodel.runs.run import open_run
from worldmodel.runs.session import train
from worldmodel.training.progress import RunProgress
from worlds import TINY

SETTINGS = TINY | {
    "env.id": "worldmodel/LinearGaussian-v0",
    "env.kwargs": {"oscillators": 1},
    "env.time_limit": 13,
    "training.prefill": 200,
    "training.env_steps": 240,
    "training.train_ratio": 3.2,
    "training.evaluate_every": 1000,
    "evaluation.episodes": 3,
    "evaluation.context": 4,
    "evaluation.horizon": 8,
    "evaluation.samples": 3,
    "evaluation.particles": 3,
    "tracking": "none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        runs = str(tmp_path_factory.mktemp("runs"))
        progress = RunProgress(240, Console(quiet=True))
        return train(None, {**SETTINGS, "runs": runs}, progress=progress).folder


def test_the_command_writes_a_figure_and_the_numbers_that_it_shows(folder, capsys):
    main(["evidence", str(folder), "--particles", "4,8", "--runs", "2"])
    shown = capsys.readouterr().out
    report = EvidenceReport.from_json(json.loads((folder / "evidence" / "evidence.json").read_text()))
    assert [one.particles for one in report.estimates] == [4, 8]
    assert (report.episodes, report.runs, report.rows, report.chosen_on) == (3, 2, 42, 6)
    for one in report.estimates:
        for estimate in (one.elbo, one.iwae, one.smc, one.width, *one.below_exact.values()):
            assert with_error(estimate) in shown
        assert (with_error(one.gap) in shown) is not bool(one.doubts)
    assert all(doubt[:20] in shown for doubt in tables.doubts(report.best.certificate))
    assert ("more particles may remove the doubt" in shown) is bool(tables.remedy(report))
    assert [(part.first, part.last, part.particles) for part in report.parts] == [(1, 8, 8), (9, 14, 8)]
    for part in report.parts:
        assert with_error(part.width) in shown and with_error(part.smc) in shown
    assert "does not certify" in shown
    assert "choosing a proposal on 6 training episodes" in shown
    pixels = np.asarray(Image.open(io.BytesIO((folder / "evidence" / "evidence.png").read_bytes())))
    assert pixels.std() > 5
    main(["report", str(folder)])
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "evidence" in page.sections
    assert f"{report.best.smc.mean:,.4f}".replace("-", "−") in page.text.replace("-", "−")


def test_the_exact_evidence_is_that_of_the_oracle(folder):
    run = open_run(folder)
    report = run.evidence([4], runs=1, seed=5, context=0)
    batch = run.heldout()
    total = exact_evidence(build_law(run.config), batch)["total"]
    assert report.exact.mean == pytest.approx(total.sum().item() / int(batch.valid.sum()))
    assert report.best.below_exact["smc"].mean == pytest.approx(report.exact.mean - report.best.smc.mean)
    assert report.best.below_exact["smc"].mean > 0.1  # five updates do not make a model


def test_a_run_without_its_training_rows_is_measured_with_the_posterior(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "replay")
    report = open_run(copy).evidence([2], runs=1, episodes=2, context=0)
    assert (report.chosen_on, report.proposal, report.episodes) == (0, "the posterior", 2)


def test_a_training_logs_a_rough_gap_with_a_time_of_its_own(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rough = [row for row in rows if "heldout_evidence/gap" in row]
    assert rough and all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rough)
    assert rough[0]["heldout_evidence/gap"] == pytest.approx(
        rough[0]["heldout_evidence/smc"] - rough[0]["heldout_evidence/elbo"], abs=1e-5
    )
    assert max(row.get("seconds/evidence", 0) for row in rows) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--particles", "64;256"], "particles: expected numbers of at least 2 such as 64,256,1024, got '64;256'"),
        (["--particles", "1"], "particles: expected numbers of at least 2 such as 64,256,1024, got '1'"),
        (["--runs", "0"], "runs: expected at least 1, got 0"),
        (["--context", "-1"], "context: expected zero or more, got -1"),
        (["--episodes", "1"], "episodes: expected at least 2, which errors are taken over, got 1"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_writes_nothing(folder, options, words, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as end:
        main(["evidence", str(folder), *options])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
