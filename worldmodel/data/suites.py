"""Which package an environment's id belongs to, the extra that this needs, and the modules that making it imports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium

import worldmodel_envs
from worldmodel.system.installation import install_command
from worldmodel_envs.wrapping import named

OWN = "worldmodel/"  # begins the ids that `worldmodel_envs` registers
OLD_IDS = {  # as run folders of version 0.1.0 and before have them -> as they are registered now
    "envs:HiddenMarkov-v0": f"{OWN}HiddenMarkov-v0",
    "envs:LinearGaussian-v0": f"{OWN}LinearGaussian-v0",
}


@dataclass(frozen=True)
class Suite:
    """Environments that come with an extra."""

    extra: str  # of this package
    module: str  # what has to be importable
    entry_point: str = ""  # beginning of the entry points of ids that Gymnasium itself knows
    ids: tuple[str, ...] = ()  # beginnings of the ids that importing the module registers


SUITES = (
    Suite("box2d", "Box2D", entry_point="gymnasium.envs.box2d."),
    Suite("mujoco", "mujoco", entry_point="gymnasium.envs.mujoco."),
    Suite("atari", "ale_py", ids=("ALE/", "ale_py:")),
    Suite("minigrid", "minigrid", ids=("MiniGrid-", "BabyAI-", "minigrid:")),
)


def current_id(env_id: str) -> str:
    """The id that an environment is registered under now, where it had another one in older run folders."""
    return OLD_IDS.get(env_id, env_id)


def prepare(env_id: str) -> str:
    """Make an id known to Gymnasium if it is this project's or a suite's: -> the id to make the environment by.

    Raises:
        ValueError: if the suite is not installed; the message names the command that installs it.
    """
    env_id = current_id(env_id)
    for suite in SUITES:
        if not _belongs(env_id, suite):
            continue
        if find_spec(suite.module) is None:
            raise ValueError(f"env.id: expected an environment that is installed, got {env_id!r}: {install(suite)}")
        if suite.ids:
            import_module(suite.module)
    return env_id


def suite_of_module(name: str) -> Suite | None:
    """The suite that a module's package belongs to."""
    return next((suite for suite in SUITES if suite.module == name.split(".")[0]), None)


def is_own(env_id: str) -> bool:
    """Whether an id is of an environment that comes with this package. Nothing is imported to find out."""
    own = worldmodel_envs.__name__
    module, _, name = current_id(env_id).rpartition(":")
    return module in ("", own) and _entry_point(name).startswith(f"{own}.")


def is_well_known(env_id: str) -> bool:
    """Whether an id is of Gymnasium's own environments or of a suite's, none of which states a law."""
    return _entry_point(env_id).startswith("gymnasium.") or any(_belongs(env_id, suite) for suite in SUITES)


def modules_of(env_id: str, wrappers: Sequence[str | Mapping[str, Any]] = ()) -> list[str]:
    """The modules that are imported because settings name them, as far as that can be told without an import."""
    module, _, name = current_id(env_id).rpartition(":")
    modules = [module, *(suite.module for suite in SUITES if suite.ids and _belongs(env_id, suite))]
    modules += [_entry_point(name).partition(":")[0], *(named(entry)[0].partition(":")[0] for entry in wrappers)]
    return list(dict.fromkeys(module for module in modules if module))


def install(suite: Suite) -> str:
    """What to do where a suite is missing."""
    return f"its package {suite.module} is not there; {install_command(suite.extra)}"


def _belongs(env_id: str, suite: Suite) -> bool:
    if env_id.startswith(suite.ids):
        return True
    return bool(suite.entry_point) and _entry_point(env_id).startswith(suite.entry_point)


def _entry_point(env_id: str) -> str:
    """`module:Class` of an id that is registered by one; empty of all others."""
    known = gymnasium.registry.get(env_id)
    return known.entry_point if known is not None and isinstance(known.entry_point, str) else ""
