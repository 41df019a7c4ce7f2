"""The command line: what it shows, and how it refuses. Training itself is tested in test_run.py."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import gymnasium
import pytest
import yaml

import worldmodel
from worldmodel.cli import COMMANDS, GROUPS, main
from worldmodel.config_io import read_config
from worldmodel.data.rollout import Rollout

ROOT = Path(worldmodel.__file__).parent.parent
WITH_PACKAGES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "envs")])}


def test_print_config_shows_every_setting_with_the_overridden_one_in_place(capsys, tmp_path):
    (tmp_path / "some.yaml").write_text("rssm: {deter: 32, stoch: 5}\n")
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", str(tmp_path / "some.yaml"), "--rssm.deter", "64", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert end.value.code == 0
    assert shown["rssm"]["deter"] == 64
    assert shown["rssm"]["stoch"] == 5
    assert shown["training"]["env_steps"] == 20_000
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(shown))
    assert read_config(tmp_path / "shown.yaml").rssm.deter == 64


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rssm.nothing", "3"], "rssm.nothing"),
        (["--rssm.dete", "64"], "rssm.dete"),
        (["--rssm.deter", "wide"], "rssm.deter"),
        (["--rssm.deter", "100", "--rssm.blocks", "3"], "rssm.deter: expected a multiple of rssm.blocks = 3, got 100"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", sys.executable], f"{sys.executable}: expected settings as YAML"),
        (["--seed", "1e20"], "seed: expected a whole number, got 1e+20"),
        (["--env.kwargs", "[1"], "env.kwargs: expected a mapping from text to plain data, got '[1': line 1"),
        (["--rssm.deter", str(10**12)], "encoder, rssm, decoder: expected sizes of a model that fits in memory"),
        (["--rssm.deter", str(10**7)], "parameters"),
        (["--training.env_steps", "10"], "training.env_steps: expected more than training.prefill = 5000, got 10"),
        (["--env.id", "Nothing-v0"], "env.id: expected an environment that Gymnasium can make, got 'Nothing-v0'"),
        (["--device", "abacus"], "device: expected auto or a torch device of this machine, got 'abacus'"),
        (["--tracking", "online"], "tracking: expected a W&B key"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_mistake_ends_with_status_2_and_names_the_key_before_a_run_folder_is_made(
    options, named, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Rollout, "step", lambda self: pytest.fail("training began"))
    with pytest.raises(SystemExit) as end:
        main(["train", *options])
    assert end.value.code == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "usage: worldmodel COMMAND"),
        (["fly"], "fly"),
        (["evaluate"], "worldmodel: expected the folder of a run\n"),
        (["compare"], "worldmodel: expected the folders of runs\n"),
        (["imagine", "EMPTY", "--policy", "actor"], "policy: expected one of recorded, random, got actor"),
        (["evaluate", "EMPTY"], "EMPTY: expected a run's folder"),
        (["evaluate", "nowhere"], "nowhere: expected a run's folder, there is no such folder\n"),
        (["evaluate", "EMPT"], "there is no such folder; did you mean EMPTY?"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_missing_command_or_run_ends_with_status_2_and_a_sentence(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert named in said
    assert "Traceback" not in said


def said_by(arguments, capsys, status=2) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == status
    out, err = capsys.readouterr()
    return err if status else out


def test_help_has_every_command_once_in_groups_and_fits_a_terminal(capsys):
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    lines = said_by(["--help"], capsys, status=0).splitlines()
    titles = [line.removesuffix(":") for line in lines if line.removesuffix(":") in GROUPS]
    assert titles == list(GROUPS)
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2].isalpha()]
    assert listed == [name for names in GROUPS.values() for name in names]
    assert max(map(len, lines)) < 80
    assert "--version" in "\n".join(lines) and "--print_completion" in "\n".join(lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["eval"], "there is no command eval; did you mean evaluate?"),
        (["zebra"], "there is no command zebra\n"),
        (["train", "--replay.batch_length", "3"], "did you mean replay.sequence_length?"),
        (["train", "--steps", "3"], "did you mean training.env_steps?"),
        (["train", "--batch-length", "3"], "did you mean replay.sequence_length?"),
        (["train", "--env", "Pendulum-v1"], "did you mean env.id Pendulum-v1?"),
        (["train", "pendulum"], "presets and files of settings come behind --config"),
        (["evaluate", "run", "--episode", "3"], "there is no option --episode; did you mean --episodes?"),
        (["train", "--seed", "{"], "seed: expected"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_misspelt_command_or_setting_gets_the_right_hint(arguments, expected, capsys):
    assert expected in said_by(arguments, capsys)


def test_recipes_that_contradict_each_other_are_said_and_the_later_one_wins(capsys):
    for stacked, contradict in ((["recipes/dreamer1", "recipes/dreamer3"], True), (["pendulum", "sizes/large"], False)):
        with pytest.raises(SystemExit) as end:
            main(["train", "--config", *stacked, "--print_config"])
        out, err = capsys.readouterr()
        assert end.value.code == 0
        assert ("recipes/dreamer1 and recipes/dreamer3 contradict each other" in err) is contradict
        assert (yaml.safe_load(out)["loss"]["free_nats"] == 1.0) is contradict


def test_completion_without_its_package_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("worldmodel.cli.find_spec", lambda name: None)
    assert "`pip install shtab`" in said_by(["--print_completion", "shtab-bash"], capsys)


def test_a_shell_completes_commands_and_their_settings(tmp_path):
    pytest.importorskip("shtab")
    command = [sys.executable, "-m", "worldmodel", "--print_completion", "shtab-bash"]
    script = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    (tmp_path / "complete").write_text(script)
    typed = {"ev": "evaluate evidence", "train --rssm.de": "--rssm.deter", "evidence --part": "--particles"}
    for words, expected in typed.items():
        ask = f"compopt() {{ :; }}; . {tmp_path}/complete; COMP_WORDS=(worldmodel {words}); "
        ask += "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_worldmodel worldmodel; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == expected


def test_the_version_is_the_installed_one_and_nothing_heavy_is_imported_for_it(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.split()[:2] == ["worldmodel", version("worldmodel")]
    code = "import sys; sys.argv = ['worldmodel', '--version']; from worldmodel.cli import main\n"
    code += "try: main()\nfinally: assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60).returncode == 0


ECHO = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("Mine-v0", CartPoleEnv, max_episode_steps=20)
open("imported", "a").close()
"""


@pytest.fixture
def my_world(tmp_path, monkeypatch) -> Path:
    """A current folder with a module that registers an environment, which Python would not search by itself."""
    (tmp_path / "my_cli_world.py").write_text(ECHO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_cli_world", None)
    gymnasium.registry.pop("Mine-v0", None)


def test_the_commands_that_make_environments_find_modules_in_the_current_folder(my_world, capsys):
    before = list(sys.path)
    settings = ["--env.id", "my_cli_world:Mine-v0", "--env.num_envs", "1", "--evaluation.episodes", "2"]
    main(["collect", *settings, "--rows", "30", "--output", "collected"])
    assert "collected/replay" in capsys.readouterr().out
    assert sys.path == before


def test_other_commands_do_not_look_for_modules_in_the_current_folder(my_world, monkeypatch):
    seen = []
    monkeypatch.setattr("worldmodel.commands.evaluate.run", lambda *_: seen.append(list(sys.path)))
    main(["evaluate", "somebody/elses/run"])
    assert str(my_world) not in seen[0] and "" not in seen[0]


def test_a_python_that_is_to_keep_the_current_folder_out_keeps_it_out(my_world):
    command = [sys.executable, "-P", "-c", "from worldmodel.cli import main; main()", "collect"]
    options = ["--env.id", "my_cli_world:Mine-v0", "--rows", "30", "--output", "collected"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=WITH_PACKAGES, timeout=120)
    assert done.returncode == 2 and "No module named 'my_cli_world'" in done.stderr
    assert not (my_world / "imported").exists()


def test_entries_of_a_mapping_and_of_a_list_may_be_given_one_by_one(capsys):
    kwargs = ["--env.kwargs", "{a: '007', b: 1}", "--env.kwargs.c", "1", "--env.kwargs.d='1'", "--env.kwargs.b=no"]
    with pytest.raises(SystemExit) as end:
        main(
            ["train", *kwargs, "--env.hide.obs", "[1]", "--wandb.tags+", "x", "--wandb.tags+=[y, z]", "--print_config"]
        )
    shown = yaml.safe_load(capsys.readouterr().out)
    assert end.value.code == 0
    assert shown["env"]["kwargs"] == {"a": "007", "b": False, "c": 1, "d": "1"}
    assert (shown["env"]["hide"], shown["wandb"]["tags"]) == ({"obs": [1]}, ["x", "y", "z"])


def test_an_allocation_that_fails_later_ends_with_a_sentence(monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("worldmodel.commands.report.run", fail)
    with pytest.raises(SystemExit) as end:
        main(["report", "anywhere"])
    assert end.value.code == 1
    assert "report stopped: there is not enough memory: " in capsys.readouterr().err


def test_the_command_and_the_module_are_the_same_program(capsys):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["worldmodel"] == "worldmodel.cli:main"
    arguments = ["train", "--seed", "5", "--print_config"]
    command = [sys.executable, "-m", "worldmodel", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    with pytest.raises(SystemExit):
        main(arguments)
    assert done.returncode == 0
    assert "seed: 5" in done.stdout
    assert done.stdout == capsys.readouterr().out


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ("0", "worldmodel: evaluate: expected one process, got 2; only train"),
        ("1", "worldmodel: rank 1: evaluate: expected"),
    ],
)
def test_several_processes_are_refused_by_every_command_but_train_in_one_sentence(monkeypatch, capsys, rank, said):
    variables = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "runs/nothing"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and said in err and len(err.splitlines()) == 1


def test_a_rank_that_is_no_number_is_one_sentence(monkeypatch, capsys):
    variables = {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "runs/nothing"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and "RANK, WORLD_SIZE, LOCAL_RANK: expected numbers" in err
    assert len(err.splitlines()) == 1
