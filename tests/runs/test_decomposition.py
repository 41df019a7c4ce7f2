"""The gap and the rate of a real, tiny run, from the command line to the numbers on disk."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from run_folder import nothing_sharpened
from worldmodel.cli import main
from worldmodel.data.replay import Replay
from worldmodel.runs.decomposition import gap_decomposition, rate_decomposition
from worldmodel.runs.run import open_run
from worldmodel.runs.session import train
from worldmodel.training.progress import RunProgress
from worlds import TINY

SETTINGS = TINY | {
    "env.id": "worldmodel/LinearGaussian-v0",
    "env.time_limit": 12,
    "encoder.reward": True,
    "replay.burn_in": 0,
    "training.prefill": 200,
    "training.env_steps": 300,
    "training.train_ratio": 10.0,
    "evaluation.episodes": 6,
    "evaluation.context": 4,
    "evaluation.horizon": 4,
    "evaluation.samples": 2,
    "tracking": "none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        progress = RunProgress(300, Console(quiet=True))
        return train(None, SETTINGS | {"runs": str(tmp_path_factory.mktemp("runs"))}, progress=progress).folder


def test_the_command_writes_what_the_functions_return(folder, capsys, monkeypatch):
    nothing_sharpened(monkeypatch)
    options = ["--updates", "5", "--steps", "4", "--particles", "16", "--runs", "1", "--alternatives", "8"]
    main(["gap", str(folder), *options])
    shown = capsys.readouterr().out
    assert "filtering: the future not seen" in shown and "the environment's exact law" in shown
    numbers = json.loads((folder / "evidence" / "gap.json").read_text())
    run = open_run(folder)
    gap = gap_decomposition(run, updates=5, steps=4, particles=16, runs=1)
    assert numbers["gap"] == gap.as_json() and numbers["settings"]["run"] == folder.name
    assert gap.parts()["gap"].mean == pytest.approx(
        sum(gap.parts()[x].mean for x in ("filtering", "amortisation", "family"))
    )
    first, every, exact = rate_decomposition(run, alternatives=8)
    assert exact and numbers["rate"] == {"first_row": first.as_json(), "every_row": every.as_json(), "exact": True}
    assert first.alternatives == 5 and every.alternatives == 8
    assert every.valid.sum() == numbers["gap"]["steps"]


def test_mistakes_are_refused_before_anything_is_trained(folder):
    run = open_run(folder)
    for settings in ({"updates": 0}, {"steps": 0}, {"particles": 0}, {"runs": 0}):
        with pytest.raises(ValueError, match="expected at least 1, got 0"):
            gap_decomposition(run, **settings)
    with pytest.raises(ValueError, match="episodes: expected at least 2"):
        gap_decomposition(run, episodes=1)
    with pytest.raises(ValueError, match="alternatives: expected at least 1"):
        rate_decomposition(run, alternatives=0)
    with pytest.raises(ValueError, match="seed: expected zero or more, got -1"):
        rate_decomposition(run, seed=-1)


def test_the_command_refuses_what_comes_last_before_it_trains(folder, capsys):
    with pytest.raises(SystemExit):
        main(["gap", str(folder), "--alternatives", "0"])
    shown = capsys.readouterr()
    assert "alternatives: expected at least 1, got 0" in shown.err and "updates" not in shown.out


def test_posteriors_are_fitted_to_sequences_drawn_as_in_training(folder, monkeypatch):
    """Rows of a world that may begin anywhere teach another posterior where they are not taken for beginnings."""
    nothing_sharpened(monkeypatch)
    drawn = []
    sample = Replay.sample

    def recorded(*arguments, **settings):
        drawn.append(sample(*arguments, **settings))
        return drawn[-1]

    monkeypatch.setattr(Replay, "sample", recorded)
    run = open_run(folder)
    restarting = replace(run, config=replace(run.config, replay=replace(run.config.replay, restart=True)))
    for one, everywhere in ((run, False), (restarting, True)):
        drawn.clear()
        gap_decomposition(one, updates=1, steps=1, particles=2, runs=1, episodes=2)
        assert len(drawn) == 2 and all(bool(batch.is_first[:, 0].all()) == everywhere for batch in drawn)
