"""The environments that a run's policies are looked at in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from gymnasium import Env

from worldmodel import build
from worldmodel.config import Config, EnvConfig
from worldmodel.data.environment import Environments, one_environment
from worldmodel.types import EnvSpec
from worldmodel_envs.wrappers import use_headless_rendering


@contextmanager
def evaluation_environments(
    config: Config, spec: EnvSpec, count: int, log: Callable[[str], None] = lambda words: None
) -> Iterator[Environments]:
    """So many environments of a run, closed at the end; what making them imports is said before.

    Args:
        config: the run's settings.
        spec: of the rows that the run's model knows.
        count: environments side by side.
        log: told what making them imports.
    Raises:
        ValueError: if the environments are of other rows.
        EnvironmentFailureError: if one cannot be made in time.
    """
    log(build.making_words(config))
    with build.build_evaluation_environments(config, count) as environments:
        if environments.spec != spec:
            expected = "an environment of the observations and actions that the model knows"
            raise ValueError(f"env.id: expected {expected}, got {config.env.id}; the run's rows are of another")
        yield environments


def own_environment(config: Config, log: Callable[[str], None] = lambda words: None) -> Env:
    """A run's environment itself, before rows are made of it. Arguments and errors as in `evaluation_environments`."""
    log(build.making_words(config))
    return one_environment(config.env.id, **one_by_itself(config.env))


def one_by_itself(config: EnvConfig) -> dict[str, Any]:
    """The settings of an environment beside its id, without those of many environments."""
    of_many = ("num_envs", "asynchronous", "step_timeout", "restarts")
    return {name: value for name, value in asdict(config).items() if name not in ("id", *of_many)}


def row_reading(config: EnvConfig) -> dict[str, Any]:
    """The settings that decide how an environment's observations become rows."""
    return {name: getattr(config, name) for name in ("image_size", "drop_text", "integers", "hide")}


def rendering(config: Config) -> Config:
    """The same settings with environments that render, in this process and without a screen."""
    use_headless_rendering()
    env = replace(config.env, kwargs={**config.env.kwargs, "render_mode": "rgb_array"}, asynchronous=False)
    return replace(config, env=env)
