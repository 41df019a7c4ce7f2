"""A run whose settings name hostile modules: opened, measured, shown and compared without importing any."""

import shutil
import sys

import pytest
import yaml
from rich.console import Console

from run_folder import blank_figures, nothing_sharpened
from worldmodel.cli import main
from worldmodel.runs.decomposition import rate_decomposition
from worldmodel.runs.run import open_run
from worldmodel.runs.session import resume, train
from worldmodel.training.checkpoint import load_checkpoint, save_checkpoint
from worldmodel.training.progress import RunProgress
from worlds import TINY

SETTINGS = TINY | {
    "env.id": "envs:LinearGaussian-v0",
    "env.time_limit": 12,
    "training.prefill": 200,
    "training.env_steps": 300,
    "training.train_ratio": 3.2,
    "training.evaluate_every": 1000,
    "evaluation.episodes": 3,
    "evaluation.context": 4,
    "evaluation.horizon": 4,
    "evaluation.samples": 2,
    "evaluation.particles": 2,
    "tracking": "none",
}
POPEN = {"x": {"class_path": "evil_module.Evil", "init_args": {"args": "id"}}}
OPTIONS = {
    "play": ["--html"],
    "evidence": ["--particles", "4", "--runs", "1", "--context", "0"],
    "gap": ["--updates", "2", "--steps", "1", "--particles", "4", "--runs", "1", "--alternatives", "4"],
}


class Progress(RunProgress):
    """Silent; notes what it was told to say, and what had been imported by then."""

    def __init__(self):
        super().__init__(300, Console(quiet=True))
        self.said = []

    def log(self, text):
        self.said.append((text, "evil_module" in sys.modules))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        return train(None, SETTINGS | {"runs": str(tmp_path_factory.mktemp("runs"))}, progress=Progress()).folder


@pytest.fixture
def hostile(own, tmp_path, monkeypatch):
    """Makes a copy of the run with other settings of its environment, in the file and in its checkpoints alike."""
    (tmp_path / "evil_module.py").write_text("raise RuntimeError('the module was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def make(**env):
        folder = tmp_path / "run"
        shutil.copytree(own, folder)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["env"] |= env
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        for path in (folder / "checkpoints").glob("*.safetensors"):
            found = load_checkpoint(path)
            found.settings["env"] |= env
            save_checkpoint(path, found.parts, found.counters, found.settings)
        return folder

    yield make
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    ("env", "commands"),
    [
        (
            {"id": "evil_module:X-v0", "kwargs": POPEN},
            ("evaluate", "imagine", "evidence", "gap", "play", "report", "compare"),
        ),
        (
            {"wrappers": ["evil_module:W", {"evil_module:W": POPEN}], "kwargs": POPEN},
            ("evaluate", "evidence", "gap", "play"),
        ),
    ],
    ids=["the id", "wrappers"],
)
def test_commands_import_nothing_that_a_run_names(hostile, env, commands, capsys, monkeypatch):
    blank_figures(monkeypatch)
    nothing_sharpened(monkeypatch)
    folder = hostile(**env)
    for command in commands:
        main([command, str(folder), *OPTIONS.get(command, ()), *([str(folder)] if command == "compare" else ())])
        shown = capsys.readouterr().out
        measured = "id" in env and command in ("evidence", "gap")
        assert ("--allow_env makes it, which imports evil_module" in shown) == measured
    run = open_run(folder)
    assert run.config.env.kwargs == env["kwargs"]
    assert run.evidence([2], runs=1, context=0).exact is None
    assert not rate_decomposition(run, alternatives=2).exact


def test_resuming_says_which_modules_it_imports_before_it_does(hostile):
    folder, progress = hostile(id="evil_module:X-v0", wrappers=["evil_wrappers:W"]), Progress()
    with pytest.raises(ValueError, match="the module was imported"):
        resume(folder, progress=progress)
    assert progress.said == [("making evil_module:X-v0, which imports evil_module, evil_wrappers", False)]


def test_playing_says_which_modules_it_imports_before_it_does(hostile, capsys):
    folder = str(hostile(id="evil_module:X-v0", wrappers=["evil_wrappers:W"]))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", folder, "--episodes", "1", "--policy", "random"])
    said = capsys.readouterr()
    assert said.out == "making evil_module:X-v0, which imports evil_module, evil_wrappers\n"
    assert end.value.code == 2 and "the module was imported" in said.err


def test_the_exact_line_of_another_environment_comes_when_it_is_allowed_and_its_modules_are_said(
    hostile, tmp_path, monkeypatch
):
    nothing_sharpened(monkeypatch)
    (tmp_path / "good_module.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Good-v0', 'worldmodel_envs.linear_gaussian:LinearGaussian', max_episode_steps=12)"
    )
    run, said = open_run(hostile(id="good_module:Good-v0")), []
    assert run.evidence([2], runs=1, context=0, log=said.append).exact is None and "good_module" not in sys.modules
    assert run.evidence([2], runs=1, context=0, allow_env=True, log=said.append).exact is not None
    assert "making good_module:Good-v0, which imports good_module" in said


def test_settings_that_are_not_those_of_the_checkpoint_are_refused_by_name(hostile, capsys):
    folder = hostile()
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["decoder"]["resolution"], settings["loss"]["beta"] = 0.91, 2.0
    del settings["env"]["restarts"], settings["rssm"]["skip"]  # of an older version
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(folder)])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "decoder.resolution = 0.01, and config.yaml has 0.91" in said
    assert "loss.beta = 1.0, and config.yaml has 2.0" in said and "rssm.skip" not in said
    settings["decoder"]["resolution"], settings["loss"]["beta"] = 0.01, 1.0
    path.write_text(yaml.safe_dump(settings))
    main(["evaluate", str(folder)])
    path.write_text(yaml.safe_dump(settings | {"rssm": settings["rssm"] | {"gone": 1}}))
    with pytest.raises(ValueError, match=r"there is no setting rssm\.gone"):
        open_run(folder)
