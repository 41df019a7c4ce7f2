"""Apply the wrappers that settings name: each is imported in the process that makes the environment."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import gymnasium


def apply_wrappers(env: gymnasium.Env, wrappers: Sequence[str | Mapping[str, Any]]) -> gymnasium.Env:
    """Wrap an environment in each wrapper in turn, so that the first is innermost.

    Args:
        env: the environment.
        wrappers: `module:Class` or `{module:Class: {keyword: value}}` each.
    Raises:
        ModuleNotFoundError: if a module is not there; its `name` says which.
        ValueError: if the class is not in it, or cannot wrap this environment with these arguments.
    """
    for entry in wrappers:
        path, keywords = named(entry)
        module, _, name = path.partition(":")
        wrapper = getattr(import_module(module), name, None)
        if not (isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)):
            raise ValueError(f"env.wrappers: expected a gymnasium.Wrapper of the module {module}, got {name!r}")
        try:
            env = wrapper(env, **keywords)
        except Exception as error:  # of somebody else's constructor
            raise ValueError(
                f"env.wrappers: expected wrappers that fit {env}, got {path} with {keywords!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return env


def named(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """One entry of the setting: the path of the class, and its keyword arguments."""
    if isinstance(entry, str):
        return entry, {}
    ((path, keywords),) = entry.items()
    return path, dict(keywords or {})
