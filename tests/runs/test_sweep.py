"""Sweeps of W&B: `worldmodel train` driven by the arguments and variables that a sweep's agent gives it."""

import json
from pathlib import Path

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps import utils as agent
from wandb.sdk.lib import config_util

import wandb_reader
from brief_runs import TWELVE_UPDATES
from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.runs.session import resume
from worldmodel.system.presets import presets

SWEEPS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))
ACTING = {"acting.policy": "actor", "actor.units": 8, "critic.units": 8, "behaviour.starts": 6, "behaviour.horizon": 3}
QUICK = TWELVE_UPDATES | ACTING | {"tracking": "offline", "evaluation.acting_episodes": 1, "env.time_limit": 12}


def command_line(sweep: dict, chosen: dict) -> list[str]:
    """What an agent runs, put together by W&B's own functions: `${args}` becomes --KEY=VALUE of every parameter."""
    given = agent.create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    parts = agent.create_sweep_command(sweep["command"])
    return [word for part in parts for word in (given["args"] if part == "${args}" else [part])]


def ends(parameter: dict) -> tuple:
    """The least and the greatest value of a parameter."""
    values = parameter.get("values") or [parameter["min"], parameter["max"]]
    return min(values), max(values)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", [0, 1], ids=["least", "greatest"])
def test_the_values_of_a_sweep_are_settings_that_arrive(path, end, capsys):
    sweep = yaml.safe_load(path.read_text())
    chosen = {name: ends(parameter)[end] for name, parameter in sweep["parameters"].items()}
    program, *arguments = command_line(sweep, chosen)
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--print_config"])
    assert (program, done.value.code) == ("worldmodel", 0)
    shown = yaml.safe_load(capsys.readouterr().out)
    for name, value in chosen.items():
        section, _, key = name.rpartition(".")
        assert (shown[section] if section else shown)[key] == value, name


@pytest.mark.parametrize(("name", "metric"), [("bound", "best/elbo"), ("returns", "best/return")])
def test_a_sweep_optimises_a_metric_that_its_runs_have(name, metric):
    sweep = yaml.safe_load(next(path for path in SWEEPS if path.stem == name).read_text())
    assert sweep["metric"] == {"name": metric, "goal": "maximize"}
    preset = sweep["command"][sweep["command"].index("--config") + 1]
    acts = read_config(preset).acting.policy != "random"
    assert metric == ("best/return" if acts else "best/elbo")


def test_sweeps_are_no_presets():
    assert SWEEPS
    assert not {preset.path for preset in presets()} & set(SWEEPS)


@pytest.fixture
def swept(tmp_path, monkeypatch, capsys):
    """A run that an agent started, finished: -> its folder, and what it said."""
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
    sweep = yaml.safe_load(next(path for path in SWEEPS if path.stem == "returns").read_text())
    chosen = {**QUICK, "runs": str(tmp_path / "runs"), "optimizer.learning_rate": 0.0003, "seed": 2}
    parameters = tmp_path / "config-run45678.yaml"
    config_util.save_config_file_from_dict(str(parameters), {name: {"value": value} for name, value in chosen.items()})
    wandb.teardown()  # or W&B would keep to the variables of an earlier test
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_SWEEP_ID", "sweep123")
        patch.setenv("WANDB_RUN_ID", "run45678")
        patch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
        patch.setenv("WANDB_PROJECT", "their-project")
        main(command_line(sweep, chosen)[1:])
        wandb.teardown()
    (folder,) = (tmp_path / "runs").iterdir()
    return folder, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # W&B leaves the sweep's file open
def test_a_run_of_a_sweep_belongs_to_it_and_reports_its_id(swept, tmp_path):
    folder, said = swept
    run = wandb_reader.read_folder(folder / "wandb")
    assert {name: run["run"][name] for name in ("id", "sweep", "project")} == {
        **{"id": "run45678", "sweep": "sweep123", "project": "their-project"}
    }
    assert run["config"]["seed"] == 2 and run["config"]["optimizer"]["learning_rate"] == 0.0003
    returns = [row["acting/return"] for row in run["history"] if "acting/return" in row]
    assert len(returns) == 2
    assert run["summary"]["best/return"] == pytest.approx(max(returns))
    assert json.loads((folder / "versions.json").read_text())["wandb_id"] == "run45678"
    assert said.count("run45678, run run45678 of sweep sweep123") == 2  # when it starts and when it ends
    assert f"wandb sync {run['folder']}" in said

    best = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert "best/return" in best
    resume(folder)  # outside the sweep: the same run at W&B
    wandb.teardown()
    assert json.loads((folder / "versions.json").read_text())["wandb_id"] == "run45678"
