"""Models and parts of one's own: trained, opened with their weights, and never imported from a stranger's folder."""

import dataclasses
import sys

import gymnasium
import pytest
import torch
from rich.console import Console
from torch import nn

import worldmodel
from brief_runs import SETTINGS
from worldmodel import build, build_networks
from worldmodel.cli import main
from worldmodel.config_io import read_config
from worldmodel.models.decoder import Decoder
from worldmodel.models.rssm import RSSM
from worldmodel.runs.own_model import make_model
from worldmodel.runs.run import open_run
from worldmodel.runs.session import resume, train
from worldmodel.training.progress import RunProgress
from worlds import VECTOR_SPEC

MODULE = """
import torch
from torch import nn
from worldmodel import build_networks

class Linear(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.width = 5
        self.layer = nn.Linear(spec.observations["obs"].width, 5)

    def forward(self, obs):
        return self.layer(obs["obs"])

def encoder(config, spec):
    return Linear(spec)

def recurrence(config, spec, embed):
    assert embed == (5 if config.encoder.factory else config.encoder.units)
    return build_networks.build_rssm(config, spec, embed)

def decoder(config, spec):
    stoch = build_networks.build_latent(config.rssm).width
    return build_networks.build_decoder(config.decoder, spec, deter=config.rssm.deter, stoch=stoch)

def whole(config, spec):
    return build_networks.build_model(config, spec, encoder=Linear(spec))

def nothing(config, spec):
    return nn.Linear(1, 1)

number = 3
"""


class Progress(RunProgress):
    """Silent; notes what it was told to say, and what had been imported by then."""

    def __init__(self):
        super().__init__(240, Console(quiet=True))
        self.said = []

    def log(self, text):
        self.said.append((text, "my_parts" in sys.modules))


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_parts", None)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
    monkeypatch.setattr("worldmodel.runs.session.finish_run", lambda run, trainer: run.model)

    def quick_train(settings=(), **given):
        return train(None, SETTINGS | {"runs": str(tmp_path / "runs")} | dict(settings), progress=Progress(), **given)

    return quick_train


def alike(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


class Doubled(nn.Module):
    """An encoder without weights: every number twice."""

    width = 6

    def forward(self, obs):
        return torch.cat([obs["obs"], obs["obs"]], -1)


def with_doubled(config, spec):
    return worldmodel.build_model(config, spec, encoder=Doubled())


def test_a_model_with_an_encoder_of_ones_own_is_trained_acts_and_comes_back(quick):
    run = quick({"acting.policy": "actor", "evaluation.acting_episodes": 1}, model=with_doubled)
    assert run.config.model == "given:with_doubled" and isinstance(run.model.encoder, Doubled)
    with pytest.raises(ValueError, match=r"its model was handed over in Python \(model = given:with_doubled\); hand"):
        open_run(run.folder, allow_code=True)
    opened = open_run(run.folder, "last", model=with_doubled)
    assert alike(opened.model, run.model) and alike(opened.agent, run.agent)
    assert opened.evaluate_policy(opened.policy("actor"), episodes=1).returns.shape == (1,)
    assert resume(run.folder, model=with_doubled, progress=Progress()).folder == run.folder


def test_a_finished_model_is_copied_and_comes_back_into_a_copy(quick):
    spec = open_spec()
    mine = build_networks.build_model(read_config((), SETTINGS), spec, encoder=Doubled())
    before = {name: x.clone() for name, x in mine.state_dict().items()}
    run = quick(model=mine)
    assert run.config.model == "given:WorldModel"
    assert all(torch.equal(x, before[name]) for name, x in mine.state_dict().items())
    opened = open_run(run.folder, "last", model=mine)
    assert opened.model is not mine and alike(opened.model, run.model) and not alike(mine, run.model)


def open_spec():
    with build.build_environments(read_config((), SETTINGS)) as environments:
        return environments.spec


@pytest.mark.parametrize(
    "named",
    [
        {"encoder.factory": "my_parts:encoder"},
        {"encoder.factory": "my_parts:encoder", "rssm.factory": "my_parts:recurrence"},
        {"rssm.factory": "my_parts:recurrence", "decoder.factory": "my_parts:decoder"},
        {"model": "my_parts:whole"},
    ],
    ids=str,
)
def test_a_factory_that_settings_name_trains_and_a_strangers_folder_does_not_import_it(module, quick, named, capsys):
    run = quick(named)
    del sys.modules["my_parts"]
    words = ", ".join(f"{key} = {path}" for key, path in named.items())
    with pytest.raises(ValueError, match="its model is made by code that is not this project's") as refused:
        open_run(run.folder)
    assert words in str(refused.value) and "allow_code=True imports" in str(refused.value)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.folder)])
    assert words in capsys.readouterr().err and "my_parts" not in sys.modules
    opened = open_run(run.folder, "last", allow_code=True)
    assert "my_parts" in sys.modules and alike(opened.model, run.model)
    assert alike(open_run(run.folder, "last", model=lambda *_: opened.model).model, run.model)
    del sys.modules["my_parts"]
    progress = Progress()
    resume(run.folder, progress=progress)
    assert ("making the model, which imports my_parts", False) in progress.said


def test_no_way_to_look_at_a_strangers_run_imports_what_makes_its_model(module, quick, capsys):
    folder = str(quick({"encoder.factory": "my_parts:encoder"}).folder)
    del sys.modules["my_parts"]
    for command in ("evaluate", "evidence", "gap", "imagine", "play"):
        with pytest.raises(SystemExit):
            main([command, folder])
        assert "encoder.factory = my_parts:encoder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="its model is made by code that is not this project's"):
        gymnasium.make("worldmodel/Dream-v0", run=folder)
    main(["report", folder])
    main(["compare", folder, folder, "--output", folder + "-both.html"])
    assert "my_parts" not in sys.modules


def test_a_command_may_be_told_to_import_it(module, quick, capsys):
    folder = quick({"encoder.factory": "my_parts:encoder"}).folder
    main(["evaluate", str(folder), "--allow_code"])
    assert "elbo" in capsys.readouterr().out.lower()


def test_parts_are_used_as_they_are_and_the_rest_is_the_seeds():
    config = read_config((), SETTINGS)
    one, two = (build_networks.build_model(config, VECTOR_SPEC, encoder=Doubled()) for _ in range(2))
    assert alike(one, two) and not alike(one.decoder, build_networks.build_model(config, VECTOR_SPEC).decoder)
    other = build_networks.build_model(dataclasses.replace(config, seed=1), VECTOR_SPEC, encoder=Doubled())
    assert not alike(one, other)
    given = build_networks.build_model(
        config, VECTOR_SPEC, dynamics=one.dynamics, encoder=one.encoder, decoder=one.decoder
    )
    assert isinstance(given.dynamics, RSSM) and isinstance(given.decoder, Decoder)
    assert given.dynamics is one.dynamics and given.decoder is one.decoder
    with pytest.raises(ValueError, match="encoder: expected a module with a width"):
        build_networks.build_model.__wrapped__(config, VECTOR_SPEC, encoder=nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "my_parts:nothing"}, "my_parts:nothing: expected what makes a WorldModel, got Linear"),
        ({"model": "given:mine"}, "model: expected given:mine to be handed over again"),
        ({"model": "my_parts:gone"}, "model: expected a function that can be imported, got my_parts:gone"),
        ({"encoder.factory": "no_such:thing"}, r"encoder\.factory: expected a function that can be imported"),
        ({"decoder.factory": "my_parts:number"}, r"decoder\.factory: expected a function, got my_parts:number"),
    ],
)
def test_what_makes_no_model_is_refused(module, settings, words):
    config = read_config((), SETTINGS | settings)
    with pytest.raises(ValueError, match=words):
        make_model(config, VECTOR_SPEC)


def test_a_model_of_other_rows_is_refused():
    config = read_config((), SETTINGS)
    with pytest.raises(ValueError, match="model: expected a model of the rows"):
        make_model(config, open_spec(), build_networks.build_model(config, VECTOR_SPEC))


@pytest.mark.parametrize("settings", [{"model": "a:b", "encoder.factory": "a:c"}, {"encoder.factory": "no module"}])
def test_settings_that_name_no_one_thing_are_refused(settings):
    with pytest.raises(ValueError, match=r"model: expected null where|encoder\.factory: expected null or module:name"):
        read_config((), settings)
    with pytest.raises(ValueError, match="model: expected none beside model, which"):
        train(None, {"model": "a:b"}, model=with_doubled)
