"""Under which mode, names and id a run is kept at W&B: settings before variables before the run's own folder."""

import dataclasses
import re
from pathlib import Path

import pytest

from worldmodel.config import WandbConfig
from worldmodel.training.wandb_filing import Filing, file_run, run_id, wandb_mode

FOLDER = Path("runs/pendulum-1")
VARIABLES = {
    "WANDB_PROJECT": "their-project",
    "WANDB_NAME": "their-name",
    "WANDB_ENTITY": "their-team",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_TAGS": "one, two,,three",
    "WANDB_NOTES": "their notes",
    "WANDB_DIR": "/somewhere",
}
GIVEN = {
    **{"project": "own-project", "name": "own-name", "entity": "own-team", "group": "own-group"},
    **{"tags": ["own"], "notes": "own notes", "dir": "/elsewhere"},
}
KEY = {"WANDB_API_KEY": "0" * 40}
SERVER = {"WANDB_BASE_URL": "https://wandb.example.org"}


def netrc_for(tmp_path, host) -> dict[str, str]:
    path = tmp_path / "netrc"
    path.write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)
    return {"NETRC": str(path)}


@pytest.mark.parametrize(
    ("setting", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", KEY, "online"),
        ("auto", {"WANDB_API_KEY": ""}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {**KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {**KEY, "WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "offline"}, "offline"),
        ("offline", KEY, "offline"),
        ("offline", {**KEY, "WANDB_MODE": "online"}, "offline"),
        ("online", KEY, "online"),
    ],
)
def test_w_and_b_is_online_only_with_a_key_and_obeys_wandb_mode(setting, environment, mode, tmp_path):
    assert wandb_mode(setting, {"NETRC": str(tmp_path / "nothing"), **environment}) == mode


def test_a_key_in_netrc_counts_for_its_own_server_only(tmp_path):
    assert wandb_mode("auto", netrc_for(tmp_path, "api.wandb.ai")) == "online"
    assert wandb_mode("auto", netrc_for(tmp_path, "api.wandb.ai") | SERVER) == "offline"
    assert wandb_mode("auto", netrc_for(tmp_path, "wandb.example.org") | SERVER) == "online"
    assert wandb_mode("auto", netrc_for(tmp_path, "github.com")) == "offline"
    (tmp_path / "netrc").write_text("not a netrc file {")
    assert wandb_mode("auto", {"NETRC": str(tmp_path / "netrc")}) == "offline"


@pytest.mark.parametrize(
    ("setting", "environment", "named"),
    [
        ("online", {}, "tracking: expected a W&B key"),
        ("auto", {"WANDB_MODE": "online"}, "expected a W&B key"),
        ("auto", {"WANDB_MODE": "sideways"}, "WANDB_MODE: expected online, offline or disabled, got 'sideways'"),
    ],
)
def test_online_without_a_key_and_an_unknown_mode_are_refused(setting, environment, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        wandb_mode(setting, {"NETRC": str(tmp_path / "nothing"), **environment})


def test_without_settings_and_variables_a_run_is_filed_by_its_folder():
    assert file_run(FOLDER, {}) == Filing(dir="runs/pendulum-1", project="worldmodel", name="pendulum-1")


def test_variables_come_before_the_defaults():
    assert file_run(FOLDER, VARIABLES) == Filing(
        dir="/somewhere",
        project="their-project",
        name="their-name",
        entity="their-team",
        group="their-group",
        tags=("one", "two", "three"),
        notes="their notes",
    )
    assert file_run(FOLDER, dict.fromkeys(VARIABLES, "")) == file_run(FOLDER, {})


@pytest.mark.parametrize("name", GIVEN)
def test_each_explicit_setting_comes_before_its_variable_and_leaves_the_others(name):
    given = tuple(GIVEN[name]) if name == "tags" else GIVEN[name]
    assert file_run(FOLDER, VARIABLES, **{name: GIVEN[name]}) == file_run(FOLDER, VARIABLES)._replace(**{name: given})


def test_the_documentation_lists_every_setting_with_its_variable():
    page = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    listed = dict(re.findall(r"^\| `wandb\.(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    assert listed.keys() == {field.name for field in dataclasses.fields(WandbConfig)}
    for name, variable in listed.items():
        given = file_run(FOLDER, {variable: "given"})
        assert getattr(given, name) == (("given",) if name == "tags" else "given")


def test_a_run_keeps_its_id_unless_a_sweep_gives_it_one():
    sweep = {"WANDB_RUN_ID": "theirs", "WANDB_SWEEP_ID": "sweep"}
    assert run_id("own", {}) == "own"
    assert run_id("own", {"WANDB_RUN_ID": "theirs"}) == "own"
    assert run_id("own", sweep) == run_id(None, sweep) == "theirs"
    assert run_id(None, {"WANDB_RUN_ID": "theirs"}) == "theirs"
    assert run_id("own", {"WANDB_SWEEP_ID": "sweep"}) == "own"
    drawn = {run_id(None, {}) for _ in range(3)}
    assert len(drawn) == 3 and all(len(one) == 8 for one in drawn)
