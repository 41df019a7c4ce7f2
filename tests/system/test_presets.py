"""Presets: found by name or path, a file before a name, and listed with what they are for."""

import re
from pathlib import Path

import pytest

from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.system.presets import find_preset, presets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch) -> Path:
    """A current folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["pendulum", "pendulum.yaml", "sizes/medium", "recipes/dreamer3.yaml"])
def test_a_preset_is_found_by_name_with_and_without_its_suffix(name):
    assert find_preset(name) == CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    assert read_config(name) == read_config(CONFIGS / f"{name.removesuffix('.yaml')}.yaml")


def test_a_file_beats_a_preset_of_that_name(empty):
    (empty / "sizes").mkdir()
    for name in ("pendulum", "pendulum.yaml", "sizes/medium"):
        (empty / name).write_text("seed: 7\n")
        assert find_preset(name) == Path(name)
        assert read_config(name).seed == 7


def test_a_folder_is_no_file_and_hides_no_preset(empty):
    (empty / "pendulum").mkdir()
    assert find_preset("pendulum") == CONFIGS / "pendulum.yaml"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pendulm", "did you mean pendulum or noisy_pendulum or pendulum_random?"),
        ("dreamer3", "did you mean recipes/dreamer3?"),
        ("size/medium", "did you mean sizes/medium?"),
        ("configs/cartpole.yaml", "did you mean cartpole?"),
        ("xyzzy", "`worldmodel presets` lists them"),
    ],
)
def test_a_name_that_nothing_has_is_answered_with_near_ones(name, meant):
    with pytest.raises(ValueError, match=re.escape(f"got {name!r}; {meant}")):
        find_preset(name)
    with pytest.raises(ValueError, match=re.escape(meant)):
        read_config(name)


def printed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments, "--print_config"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_several_names_after_one_option_and_an_option_for_each_are_the_same(capsys):
    together = printed(capsys, "--config", "cartpole", "sizes/medium", "recipes/dreamer3", "--seed", "3")
    apart = printed(capsys, "--config=cartpole", "--config", "sizes/medium", "--config", "recipes/dreamer3", "--seed=3")
    assert together == apart
    got = read_config(["cartpole", "sizes/medium", "recipes/dreamer3"], {"seed": 3})
    assert (got.env.id, got.rssm.deter, got.loss.rep, got.rssm.stoch) == ("CartPole-v1", 1024, 0.1, 32)
    assert "deter: 1024" in together and "rep: 0.1" in together


def test_the_command_lists_every_preset_in_its_group_with_the_first_line_of_its_comment(capsys):
    main(["presets"])
    groups = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", capsys.readouterr().out, re.MULTILINE))
    assert list(groups) == ["tasks", "sizes", "recipes"]
    listed = {line.split()[0]: line for lines in groups.values() for line in lines.splitlines()}
    paths = [path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "sweeps"]
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in paths}
    assert listed.keys() == files.keys()
    for name, path in files.items():
        about = path.read_text().splitlines()[0]
        assert about.startswith("# ") and listed[name].endswith(f"  {about.removeprefix('# ')}")
    assert "sizes/large" in groups["sizes"] and "recipes/planet" in groups["recipes"] and "pendulum" in groups["tasks"]


def test_the_first_line_of_a_comment_is_a_whole_sentence():
    assert [preset.name for preset in presets() if preset.about[-1:] not in ".?"] == []
