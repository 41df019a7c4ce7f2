"""The README's snippets run, and what it and the pages of docs/ point at exists."""

import re
import sys
import tomllib
import types
from pathlib import Path

import gymnasium
import pytest
import yaml

import worldmodel
from snippets import QUICK
from worldmodel.cli import COMMANDS, main
from worldmodel.config_io import read_config
from worldmodel.system.presets import TASKS, presets
from worlds import Counting

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """`worldmodel.train` with the snippet's own settings, but for seconds and in a folder that goes away."""
    from worldmodel.runs.session import train

    def quick_train(config=None, overrides=None):
        small = {**QUICK, "runs": str(tmp_path)}
        if config is None:  # the snippet's environment has episodes of a few rows
            small |= {"evaluation.context": 1, "evaluation.horizon": 1}
        return train(config, {**(overrides or {}), **small})

    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)  # the pictures and the page
    monkeypatch.setattr(worldmodel, "train", quick_train, raising=False)
    monkeypatch.chdir(ROOT)


def test_training_opening_and_imagining_work_as_written(quick, capsys):
    names: dict = {}
    exec(SNIPPETS[0], names)
    shape, *_, earned = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([16, 2, 48, 3])"
    assert -200 * 16.3 < float(earned) < 0  # 200 steps, each of which costs up to 16.3
    written = {path.name for path in (names["run"].folder / "imagination").iterdir()}
    assert {"scores.json", "scores.png", "fan_obs.png", "latents.png"} <= written
    assert len(SNIPPETS[0].strip().splitlines()) <= 10


def test_an_untrained_model_imagines_as_written(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(SNIPPETS[1], {})
    assert capsys.readouterr().out.strip() == "torch.Size([8, 4, 48, 3])"


def test_the_evidence_of_a_model_whose_evidence_is_known_works_as_written(capsys):
    names: dict = {}
    exec(SNIPPETS[3], names)
    exact, bound, estimate = (float(re.search(r"-\d+\.\d+", line)[0]) for line in capsys.readouterr().out.splitlines())
    assert bound < exact - 3 and abs(estimate - exact) < 1


def test_your_own_environment_works_as_written(quick, monkeypatch):
    module = types.ModuleType("my_package.my_module")
    module.MyWorld = Counting
    monkeypatch.setitem(sys.modules, "my_package", types.ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.my_module", module)
    names: dict = {}
    exec(SNIPPETS[2], names)
    gymnasium.registry.pop("MyWorld-v0")
    assert set(names["run"].model.spec.observations) == {"count", "action"}


def test_there_is_no_snippet_that_no_test_runs():
    assert len(SNIPPETS) == 4


def test_what_the_readme_points_at_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    paths = re.findall(r"`((?:worldmodel|configs|scripts)/[\w/.]+)`", README)
    assert [path for path in links + paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page])
    assert [link for link in links if not link.startswith("http") and not (ROOT / "docs" / link).exists()] == []


def test_every_command_has_its_row_and_the_options_that_are_shown(capsys):
    lines = re.findall(r"`worldmodel ([a-z]+)([^`]*)`", PAGES["commands.md"])
    assert {command for command, _ in lines} == set(COMMANDS)
    lines += re.findall(r"worldmodel ([a-z]+)([^`\n]*)", README)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        offered = re.findall(r"--\w+(?:\.\w+)?", capsys.readouterr().out)
        shown = [
            option for one, rest in lines if one == command for option in re.findall(r"--[\w.]+", rest.split("#")[0])
        ]
        assert [option for option in shown if option not in offered] == [], command


def test_every_script_has_its_row_and_every_page_is_in_the_readme_and_on_the_site():
    shared = {"docs_blocks.py", "imagination_tables.py", "pretended_gpu.py"}
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")} - shared
    assert scripts == set(re.findall(r"`python scripts/(\w+\.py)", PAGES["development.md"]))
    assert PAGES.keys() == set(re.findall(r"\(docs/([\w.]+\.md)\)", README))
    assert PAGES.keys() == set(re.findall(r": ([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))


def test_every_extra_is_in_the_readme():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tasks = README[README.index("## Tasks") : README.index("## The mathematics")]
    assert [name for name in extras if f"`{name}`" not in tasks] == []


def test_the_presets_that_the_readme_says_act_are_those_that_do():
    said = re.findall(r"`(\w+)`", re.search(r"Those that act are ([^;]+);", README)[1])
    acting = [path.stem for path in (ROOT / "configs").glob("*.yaml") if "acting" in yaml.safe_load(path.read_text())]
    assert sorted(said) == sorted(acting)


def test_the_presets_that_are_stacked_as_an_example_do_stack():
    stacked = re.search(r"Presets stack, recipes last: `(.*?)`", PAGES["commands.md"], re.DOTALL).group(1).split()
    assert stacked[0] == "--config" and len(stacked) == 4
    read_config(stacked[1:])


def test_the_tasks_of_the_readme_are_the_presets_that_there_are():
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`\w+`)? ?\|$", README, re.MULTILINE)
    assert sorted(listed) == [preset.name for preset in presets() if preset.group == TASKS]
