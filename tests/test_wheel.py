"""The wheel, installed where there is no repository, in a folder with packages and presets of its own."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("worldmodel", "envs", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
TINY = {
    "env.num_envs": 2,
    "encoder.units": 16,
    "decoder.units": 16,
    "replay.batch_size": 4,
    "replay.sequence_length": 16,
    "training.prefill": 80,
    "training.env_steps": 120,
    "training.train_ratio": 8,
    "training.evaluate_every": 1000,
    "evaluation.episodes": 2,
    "evaluation.max_length": 24,
    "evaluation.context": 4,
    "evaluation.horizon": 6,
    "evaluation.samples": 2,
    "evaluation.particles": 0,
    "tracking": "none",
}
MINE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("MyWorld-v0", CartPoleEnv, max_episode_steps=30)
"""


def done(command: list[str | Path], folder: Path) -> str:
    """What a command printed; it must end well."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    result = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a wheel or an sdist with the setuptools that is here: nothing is downloaded."""
    name = done([sys.executable, "-c", BUILD, f"build_{kind}", output], source).split()[-1]
    return output / name


def packed(wheel: Path) -> set[str]:
    """The files in a wheel but those about it."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources, since setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """The folder of the scripts of a new environment that the wheel is installed in."""
    return new_environment(tmp_path_factory.mktemp("environment"), wheel)


def new_environment(folder: Path, wheel: Path) -> Path:
    """An environment with this wheel, and the packages of this one without the project: -> where its scripts are."""
    venv.create(folder, with_pip=False, symlinks=True)
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet", "--no-deps", "--no-index"]
    done([*pip, wheel], folder)
    (site,) = folder.glob("lib/*/site-packages")
    # A .pth that lists a folder does not run the .pth files in it, so that no editable install comes along.
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "zz_shared.pth").write_text("\n".join(shared) + "\n")
    return scripts


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder with a package `envs`, a module of environments and presets of its own."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pendulum.yaml").write_text("seed: 11\n")
    (tmp_path / "my_package.py").write_text(MINE)
    return tmp_path


def test_a_wheel_holds_every_module_and_preset_under_two_names_that_clash_with_nobody(wheel):
    names = packed(wheel)
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "worldmodel").rglob("*.py")}
    expected |= {path.relative_to(ROOT / "envs").as_posix() for path in (ROOT / "envs").rglob("*.py")}
    expected |= {f"worldmodel/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    for part in ("report", "playable"):
        templates = ROOT / "worldmodel" / part / "templates"
        expected |= {path.relative_to(ROOT).as_posix() for path in templates.iterdir()}
    expected |= {"worldmodel/py.typed", "worldmodel_envs/py.typed"}
    assert expected <= names
    assert {Path(name).suffix for name in names - expected} <= {".html", ".css", ".js", ".json", ".txt"}
    assert {name.split("/")[0] for name in names} == {"worldmodel", "worldmodel_envs"}


def test_a_wheel_of_the_source_distribution_holds_the_same(wheel, source, tmp_path):
    archive = build("sdist", source, tmp_path)
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert packed(build("wheel", unpacked, tmp_path)) == packed(wheel)


def test_the_metadata_says_who_and_what(wheel):
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    about = zipfile.ZipFile(wheel).read(name).decode()
    for line in (
        "Author: The worldmodel authors",
        "Requires-Dist: filelock>=3.12",
        "Requires-Dist: jinja2>=3.1",
        "License-Expression: MIT",
    ):
        assert f"\n{line}\n" in about


def test_an_editable_install_finds_presets_environments_and_the_checkout_s_hints(source, tmp_path):
    shutil.copytree(source, tmp_path / "checkout")
    (tmp_path / "checkout" / "constraints.txt").write_text("")
    (tmp_path / "empty").mkdir()
    editable = build("editable", tmp_path / "checkout", tmp_path)
    scripts = new_environment(tmp_path / "environment", editable)
    assert "recipes/dreamer3" in done([scripts / "worldmodel", "presets"], tmp_path / "empty")
    code = "import worldmodel_envs; from worldmodel.system.installation import install_command as c; print(c('x'))"
    assert "-e '.[x]'" in done([scripts / "python", "-c", code], tmp_path / "empty")


def test_the_installed_command_finds_presets_by_name_and_a_file_before_them(scripts, elsewhere):
    where = "import worldmodel, worldmodel_envs; print(worldmodel.__file__, worldmodel_envs.__file__)"
    for file in done([scripts / "python", "-c", where], elsewhere).split():
        assert Path(file).is_relative_to(scripts.parent)
    assert "sizes/medium" in done([scripts / "worldmodel", "presets"], elsewhere)
    shown = [scripts / "worldmodel", "train", "--print_config", "--config"]
    assert "seed: 0" in done([*shown, "pendulum", "sizes/tiny"], elsewhere)
    assert "seed: 11" in done([*shown, "configs/pendulum.yaml"], elsewhere)
    assert done([scripts / "worldmodel", "--version"], elsewhere).startswith("worldmodel 0.")


def test_a_wheel_in_the_top_folder_of_a_project_keeps_to_its_own_presets(wheel, elsewhere):
    for name in ("pyproject.toml", "constraints.txt"):
        (elsewhere / name).write_text("")
    zipfile.ZipFile(wheel).extractall(elsewhere)  # as `pip install --target .` does
    code = "from worldmodel.system.presets import find_preset; print(find_preset('pendulum'))"
    assert Path(done([sys.executable, "-c", code], elsewhere).strip()) == elsewhere / "worldmodel/configs/pendulum.yaml"


def test_the_installed_command_trains_beside_another_package_envs(scripts, elsewhere):
    settings = [f"--{key}={value}" for key, value in TINY.items()]
    done([scripts / "worldmodel", "train", "--config", "linear_gaussian", "sizes/tiny", *settings], elsewhere)
    (run,) = (elsewhere / "runs").iterdir()
    assert '"loss/value"' in (run / "metrics.jsonl").read_text()
    assert (run / "report.html").is_file()


def test_the_installed_command_finds_an_environment_in_the_current_folder(scripts, elsewhere):
    settings = ["--env.id=my_package:MyWorld-v0", "--evaluation.episodes=2", "--rows=40", "--output=rows"]
    assert "rows/replay: 40 rows" in done([scripts / "worldmodel", "collect", *settings], elsewhere)
