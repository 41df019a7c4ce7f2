"""World models of one's own in a run: made by what Python was handed, or by factories that the settings name.

A factory is code. It is imported to train and to resume, which say so; a run that is opened imports it only if it is
asked to, since its folder may be a stranger's.
"""

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldmodel import build_networks
from worldmodel.config import Config
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import EnvSpec

GIVEN = "given:"
AuxiliaryMaker = Callable[[WorldModel], nn.Module]
ModelMaker = Callable[[Config, EnvSpec], WorldModel]


def factories(config: Config) -> dict[str, str]:
    """What a run's settings name of code that makes its model or parts of it, by setting."""
    parts = {name: getattr(config, name).factory for name in ("encoder", "rssm", "decoder")}
    named = {"model": config.model, **{f"{name}.factory": path for name, path in parts.items()}}
    return {key: path for key, path in named.items() if path is not None}


def given_name(model: ModelMaker | WorldModel) -> str:
    """How the settings of a run remember that it was handed a model, or what makes it."""
    name = getattr(model, "__name__", type(model).__name__)
    return GIVEN + "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def importing_words(config: Config) -> str | None:
    """What making a run's model and its auxiliary losses imports; None where that is nothing."""
    paths = [*factories(config).values(), *config.loss.auxiliary.values()]
    modules = dict.fromkeys(path.partition(":")[0] for path in paths if not path.startswith(GIVEN))
    return f"making the model, which imports {', '.join(modules)}" if modules else None


def require_leave(
    config: Config, folder: Path, model: ModelMaker | WorldModel | None = None, *, allow_code: bool = False
) -> None:
    """See that a run's model can be made by this project's code, by what is given, or by what may be imported.

    Raises:
        ValueError: if it cannot.
    """
    found = factories(config)
    if not found or model is not None:
        return
    words = ", ".join(f"{key} = {path}" for key, path in found.items())
    if found.get("model", "").startswith(GIVEN):
        raise ValueError(f"{folder}: its model was handed over in Python ({words}); hand it over again, as model=")
    if not allow_code:
        hint = "model= hands over what makes it, allow_code=True imports what its settings name"
        raise ValueError(f"{folder}: its model is made by code that is not this project's ({words}); {hint}")


def make_model(config: Config, spec: EnvSpec, model: ModelMaker | WorldModel | None = None) -> WorldModel:
    """A run's untrained model; imports what its settings name.

    Args:
        config: of the run.
        spec: what a row holds.
        model: a function (settings, spec) that makes it, or a world model, of which a copy is taken.
    Raises:
        ValueError: if what is named or given makes no world model of such rows.
    """
    if isinstance(model, WorldModel):
        return _of_rows(copy.deepcopy(model), spec, "model")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        if model is not None:
            return _of_rows(model(config, spec), spec, "model")
        if config.model is not None:
            return _of_rows(_resolved("model", config.model)(config, spec), spec, config.model)
        return build_networks.build_model(config, spec, **_parts(config, spec))


def make_auxiliary(
    config: Config, model: WorldModel, given: Mapping[str, AuxiliaryMaker] | None = None
) -> dict[str, nn.Module]:
    """The auxiliary losses of a run, on the model's device; imports what its settings name.

    Args:
        config: of the run.
        model: whose states they read.
        given: what makes those that Python handed over, by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(make_generator(config.seed, stream=Stream.AUXILIARY).initial_seed())
        makers = {
            name: (given or {}).get(name) or _resolved(f"loss.auxiliary.{name}", path)
            for name, path in config.loss.auxiliary.items()
        }
        made = {name: make(model) for name, make in makers.items()}
    for name, module in made.items():
        if not isinstance(module, nn.Module):
            raise ValueError(f"loss.auxiliary.{name}: expected what makes a module, got {type(module).__name__}")
    return {name: module.to(model.device) for name, module in made.items()}


def _parts(config: Config, spec: EnvSpec) -> dict[str, Any]:
    """The parts that the settings name factories of."""
    found: dict[str, Any] = {}
    if config.encoder.factory is not None:
        found["encoder"] = _resolved("encoder.factory", config.encoder.factory)(config, spec)
    if config.rssm.factory is not None:
        encoder = found.get("encoder") or build_networks.build_encoder(config.encoder, spec)
        make = _resolved("rssm.factory", config.rssm.factory)
        found["dynamics"] = make(config, spec, embed=build_networks.embedding_width(config, encoder))
    if config.decoder.factory is not None:
        found["decoder"] = _resolved("decoder.factory", config.decoder.factory)(config, spec)
    return found


def _resolved(key: str, path: str) -> Callable[..., Any]:
    """What a setting names, imported."""
    if path.startswith(GIVEN):
        words = f"{path} to be handed over again, since settings do not say how to make it"
        raise ValueError(f"{key}: expected {words}; got nothing")
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}: expected a function that can be imported, got {path}: {error}") from error
    if not callable(found):
        raise ValueError(f"{key}: expected a function, got {path}, which is {found!r}")
    return found


def _of_rows(model: Any, spec: EnvSpec, key: str) -> WorldModel:
    if not isinstance(model, WorldModel):
        raise ValueError(f"{key}: expected what makes a WorldModel, got {type(model).__name__}")
    if model.spec != spec:
        raise ValueError(f"{key}: expected a model of the rows {spec}, got one of {model.spec}")
    return model
