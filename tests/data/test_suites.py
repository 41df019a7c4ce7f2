"""Suites that are extras: a missing one is answered with the command that installs it, before anything is written."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import worldmodel
import worldmodel_envs
from worldmodel.data.environment import environment_law, make_environments
from worldmodel.data.suites import OLD_IDS, SUITES, current_id
from worldmodel.system import installation

ROOT = Path(worldmodel.__file__).parents[1]
WITH_ENVS = {**os.environ, "PYTHONPATH": str(Path(worldmodel_envs.__file__).parents[1])}
OF_SUITE = [  # an id, the extra it needs, the module that extra brings
    ("LunarLander-v3", "box2d", "Box2D"),
    ("BipedalWalker-v3", "box2d", "Box2D"),
    ("HalfCheetah-v5", "mujoco", "mujoco"),
    ("Hopper-v5", "mujoco", "mujoco"),
    ("ALE/Breakout-v5", "atari", "ale_py"),
    ("ale_py:ALE/Pong-v5", "atari", "ale_py"),
    ("MiniGrid-MemoryS7-v0", "minigrid", "minigrid"),
    ("minigrid:MiniGrid-Empty-8x8-v0", "minigrid", "minigrid"),
]


@pytest.mark.parametrize(("env_id", "extra", "module"), OF_SUITE)
def test_a_suite_that_is_not_installed_is_answered_with_the_command_that_installs_it(
    env_id, extra, module, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails, as if it were not there
    with pytest.raises(ValueError, match=rf"^env\.id: expected .*, got '{env_id}'") as refusal:
        make_environments(env_id, count=1)
    assert str(refusal.value).endswith(f"pip install -e '.[{extra}]' -c constraints.txt")


def test_installed_from_a_wheel_the_command_is_the_wheel_s(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "PRESETS", tmp_path)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"; pip install 'worldmodel\[box2d\]'$"):
        make_environments("LunarLander-v3", count=1)


def test_a_missing_suite_is_found_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"\.\[box2d\]"):
        worldmodel.train(None, {"env.id": "LunarLander-v3", "runs": str(tmp_path / "runs"), "tracking": "none"})
    assert not (tmp_path / "runs").exists()


def test_a_wrapper_of_a_missing_suite_is_answered_with_the_same_command(monkeypatch):
    for name in ("minigrid", "minigrid.wrappers"):  # both, since another test may have imported them
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^env\.wrappers: .*\.\[minigrid\]' -c constraints\.txt$"):
        make_environments("CartPole-v1", count=1, wrappers=["minigrid.wrappers:ImgObsWrapper"])


def test_every_suite_is_an_extra_whose_packages_are_pinned():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    packages = {"box2d": {"box2d"}, "mujoco": {"mujoco", "imageio"}, "atari": {"ale-py"}, "minigrid": {"minigrid"}}
    assert {suite.extra for suite in SUITES} == packages.keys()
    for extra, needed in packages.items():
        assert extra in extras
        assert needed <= pinned


def test_other_environments_do_not_import_a_suite():
    make = (  # in an interpreter of its own
        "from worldmodel.data.environment import make_environments; make_environments('CartPole-v1', count=1).close()"
    )
    code = f"import sys; {make}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert not {module for *_, module in OF_SUITE} & set(result.stdout.split())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of other people's packages
@pytest.mark.parametrize(("env_id", "extra", "module"), OF_SUITE[::2], ids=[extra for _, extra, _ in OF_SUITE[::2]])
def test_a_suite_that_is_installed_runs_by_its_id_alone(env_id, extra, module):
    pytest.importorskip(module)
    with make_environments(env_id, count=2, drop_text=True, image_size=16) as environments:
        first = environments.reset(0)
        obs, reward, *_ = environments.step(np.zeros((2, environments.spec.action.width), np.float32))
    assert obs.keys() == first.keys() == environments.spec.observations.keys()
    assert np.isfinite(reward).all()


@pytest.mark.parametrize("old", OLD_IDS)
def test_an_id_of_older_run_folders_makes_the_environment_that_it_made(old):
    assert not old.startswith("worldmodel") and OLD_IDS[old] in gymnasium.registry
    with make_environments(old, count=1, time_limit=3) as environments:
        assert environments.reset(0).keys() == {"obs"}
    law, same = environment_law(old, {}), environment_law(current_id(old), {})
    assert law is not None and law["kind"] == same["kind"]


def test_ids_that_were_never_renamed_stay_as_they_are():
    assert [current_id(env_id) for env_id, *_ in OF_SUITE] == [env_id for env_id, *_ in OF_SUITE]
    assert current_id("envs:MyOwn-v0") == "envs:MyOwn-v0"


def test_the_environments_are_found_by_gymnasium_alone_and_clash_with_no_package_of_another_name(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise ImportError('this is somebody else's')")
    ids = "'worldmodel_envs:worldmodel/LinearGaussian-v0', 'worldmodel/HiddenMarkov-v0'"
    code = f"import gymnasium; print([gymnasium.make(i).spec.max_episode_steps for i in ({ids})])"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=WITH_ENVS)
    assert result.stdout.strip() == "[63, 63]", result.stderr
