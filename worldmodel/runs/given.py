"""What a run is given in Python rather than by its settings, and how its settings remember that there was such a thing.

A run's folder never says how to make what was given, so that opening it can run nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium

from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data import suites
from worldmodel.data.offline import GIVEN, EpisodeSource, divide
from worldmodel.models.world_model import WorldModel
from worldmodel.runs.own_model import AuxiliaryMaker, ModelMaker, factories, given_name, require_leave
from worldmodel.seeding import Stream, make_generator

EnvMaker = Callable[..., gymnasium.Env]  # a class, or a function, called with env.kwargs


def read_given(
    config: str | Path | Sequence[str | Path] | None, overrides: Mapping[str, Any] | None, data: EpisodeSource | None
) -> Config:
    """Files of settings and single ones, as `train` has them; with episodes, those of a run that learns from stored
    ones."""
    if isinstance(config, Mapping):
        raise ValueError("config: expected files or presets; settings come second, as in train(None, {'seed': 3})")
    overrides = dict(overrides or {})
    if data is not None and overrides.setdefault("offline", GIVEN) != GIVEN:
        raise ValueError(f"data: expected none beside offline = {overrides['offline']!r}, which names other data")
    return read_config(config if config is not None else (), overrides)


class Given(NamedTuple):
    """What Python handed a run."""

    data: EpisodeSource | None = None
    env: EnvMaker | None = None
    model: ModelMaker | WorldModel | None = None
    auxiliary: Mapping[str, AuxiliaryMaker] | None = None


def with_given(config: Config, given: Given) -> Config:
    """The settings of a run that is given these, by name.

    Raises:
        ValueError: if the settings name data or a model too, more episodes are to be held out than there are, or env
            makes no environments.
    """
    if given.model is not None:
        if found := factories(config):
            raise ValueError(f"model: expected none beside {', '.join(found)}, which name code that makes it")
        config = replace(config, model=given_name(given.model))
    if given.auxiliary is not None and not isinstance(given.auxiliary, Mapping):
        raise ValueError(f"auxiliary: expected functions by name, such as {{'mine': Mine}}, got {given.auxiliary!r}")
    if given.auxiliary:
        names = {**config.loss.auxiliary, **dict.fromkeys(given.auxiliary, GIVEN)}
        config = replace(config, loss=replace(config.loss, auxiliary=names))
    if given.env is not None:
        if given.data is not None or config.offline is not None:
            raise ValueError("env: expected none beside data or offline: nothing is collected then")
        config = replace(config, env=replace(config.env, id=suites.register_given(given.env)))
    return config if given.data is None else _with_data(config, given.data)


def _with_data(config: Config, data: EpisodeSource) -> Config:
    if config.offline not in (None, GIVEN):
        raise ValueError(f"data: expected none beside offline = {config.offline!r}, which names other data")
    if not callable(getattr(data, "episodes", None)):
        expected = "episodes as worldmodel.data.from_episodes makes them of arrays"
        raise ValueError(f"data: expected {expected}, got a {type(data).__name__}")
    count = sum(1 for _ in data.episodes())
    if count <= config.evaluation.episodes:
        expected = f"fewer than the {count} episodes given, of which the others are learned from"
        raise ValueError(f"evaluation.episodes: expected {expected}, got {config.evaluation.episodes}")
    return replace(config, offline=GIVEN)


def require_auxiliary(config: Config, given: Given) -> None:
    """See that training goes on with the auxiliary losses that it was handed; ValueError if it cannot."""
    names = {name for name, path in config.loss.auxiliary.items() if path == GIVEN}
    if names != {*(given.auxiliary or {})}:
        got = sorted(given.auxiliary or {})
        raise ValueError(f"auxiliary: expected what makes {sorted(names)}, as training was handed it, got {got}")


def require_given(config: Config, folder: Path, given: Given, *, allow_code: bool = False) -> None:
    """Take over what a run is given again.

    Raises:
        ValueError: if its settings remember something else, or its model needs what is not given.
    """
    require_leave(config, folder, given.model, allow_code=allow_code)
    if given.env is not None and (found := suites.register_given(given.env)) != config.env.id:
        raise ValueError(f"env: expected the one that the run was begun with, {config.env.id}, got {found}")


def divide_given(config: Config, data: EpisodeSource, folder: Path) -> None:
    """Write episodes into a new run's folder, some of them held out; `evaluation.seed` decides which."""
    generator = make_generator(config.evaluation.seed, stream=Stream.HELDOUT)
    divide(data, folder, heldout=config.evaluation.episodes, generator=generator)
