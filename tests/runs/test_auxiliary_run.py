"""A run with an auxiliary loss: in its ledger and its page, resumed with it, opened without it."""

import json
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from brief_runs import SETTINGS
from worldmodel.report.vocabulary import departure
from worldmodel.runs.run import open_run
from worldmodel.runs.session import resume, train
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.progress import RunProgress

MODULE = """
from torch import nn

class Still(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(1, 1).weight[0, 0].detach())

    def forward(self, states, batch):
        return 0.1 * (self.scale - states.deter).square().sum(-1)
"""
LOGGED = {"training.log_every": 1, "acting.policy": "actor", "evaluation.acting_episodes": 1}


class Near(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.centre = nn.Parameter(torch.ones(model.decoder.widths[0]))

    def forward(self, states, batch):
        return (states.deter - self.centre).square().sum(-1)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)

    def quick_train(settings=(), **given):
        settings = SETTINGS | LOGGED | {"runs": str(tmp_path / "runs")} | dict(settings)
        return train(None, settings, progress=silent(), **given)

    return quick_train


def silent():
    return RunProgress(240, Console(quiet=True))


def ledger(folder) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss/value" in row]


def test_it_is_priced_trained_and_not_needed_to_open_the_run(quick):
    run = quick(auxiliary={"near": Near})
    assert run.config.loss.auxiliary == {"near": "given:"}
    rows = ledger(run.folder)
    for row in rows:
        entries = [value for name, value in row.items() if name.startswith("ledger/")]
        assert sum(entries) == pytest.approx(row["loss/value"], rel=1e-4)
    assert all(row["ledger/auxiliary_near"] > 0 and row["grad_norm/auxiliary"] > 0 for row in rows)
    assert departure("auxiliary_near").name == "+ auxiliary near"
    world = load_checkpoint(run.folder / "checkpoints" / "last.safetensors").part("world")
    assert not torch.equal(world["auxiliary/near.centre"], torch.ones(16))
    opened = open_run(run.folder, "last")
    assert all(torch.equal(x, run.model.state_dict()[name]) for name, x in opened.model.state_dict().items())


def test_a_run_goes_on_with_it_and_not_without(quick):
    run = quick(auxiliary={"near": Near})
    before = len(ledger(run.folder))
    settings = run.folder / "config.yaml"
    settings.write_text(settings.read_text().replace("env_steps: 240", "env_steps: 260"))
    for given in ({}, {"auxiliary": {"other": Near}}):
        with pytest.raises(ValueError, match=r"auxiliary: expected what makes \['near'\], as training was handed it"):
            resume(run.folder, progress=silent(), **given)
    resume(run.folder, auxiliary={"near": Near}, progress=silent())
    prices = [row["ledger/auxiliary_near"] for row in ledger(run.folder)]
    assert len(prices) > before


def test_one_that_settings_name_is_imported_to_train_and_not_to_open(quick, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    run = quick({"loss.auxiliary.still": "my_losses:Still"})
    assert "ledger/auxiliary_still" in ledger(run.folder)[-1]
    del sys.modules["my_losses"]
    open_run(run.folder).evaluate()
    assert "my_losses" not in sys.modules


@pytest.mark.parametrize(
    ("settings", "given", "words"),
    [
        ({"loss.auxiliary.still": "no_such:thing"}, {}, r"loss\.auxiliary\.still: expected a function that can be"),
        ({"loss.auxiliary": {"a b": "m:f"}}, {}, r"loss\.auxiliary: expected names of letters, digits"),
        ({"loss.auxiliary.still": "given:"}, {}, r"auxiliary: expected what makes \['still'\], as training was handed"),
        ({"loss.auxiliary.still": "nothing"}, {}, r"loss\.auxiliary\.still: expected null or module:name"),
        (
            {},
            {"auxiliary": {"three": lambda model: 3}},
            r"loss\.auxiliary\.three: expected what makes a module, got int",
        ),
    ],
)
def test_what_makes_no_loss_is_refused_and_leaves_nothing_behind(quick, tmp_path, settings, given, words):
    with pytest.raises(ValueError, match=words):
        quick(settings, **given)
    assert not (tmp_path / "runs").exists()
