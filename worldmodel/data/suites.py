"""The packages that environment ids belong to, the extras that install them, and the modules that an id imports."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium

import worldmodel_envs
from worldmodel.system.installation import install_command
from worldmodel_envs.wrapping import named

OWN = "worldmodel/"  # prefix of the ids that `worldmodel_envs` registers
GIVEN = "given/"  # prefix of the ids of what was handed over in Python
OLD_IDS = {  # ids in run folders up to version 0.1.0 -> the ids of today
    "envs:HiddenMarkov-v0": f"{OWN}HiddenMarkov-v0",
    "envs:LinearGaussian-v0": f"{OWN}LinearGaussian-v0",
}


@dataclass(frozen=True)
class Suite:
    """Environments that an extra of this package installs."""

    extra: str
    module: str  # must be importable
    entry_point: str = ""  # prefix of the entry points, for ids that Gymnasium itself registers
    ids: tuple[str, ...] = ()  # prefixes of the ids, for those that importing the module registers


SUITES = (
    Suite("box2d", "Box2D", entry_point="gymnasium.envs.box2d."),
    Suite("mujoco", "mujoco", entry_point="gymnasium.envs.mujoco."),
    Suite("atari", "ale_py", ids=("ALE/",)),
    Suite("minigrid", "minigrid", ids=("MiniGrid-", "BabyAI-")),
)


def register_given(make: Any) -> str:
    """Register a class or a function that makes an environment, for this process: -> the id, given/NAME-v0.

    One of the same name that was registered so before gives way to it.

    Raises:
        ValueError: if it is an environment already, or nothing that can be called.
    """
    if isinstance(make, gymnasium.Env) or not callable(make):
        raise ValueError(f"env: expected a class or a function that makes an environment, got {make!r}")
    name = re.sub(r"\W", "_", getattr(make, "__name__", type(make).__name__)).strip("_")
    env_id = f"{GIVEN}{name or 'environment'}-v0"
    gymnasium.registry.pop(env_id, None)
    gymnasium.register(env_id, make)
    return env_id


def current_id(env_id: str) -> str:
    """The id under which an environment is registered now, for an id of today or one in an old run folder."""
    return OLD_IDS.get(env_id, env_id)


def prepare(env_id: str) -> str:
    """Register the environment of an id with Gymnasium if a suite has it: -> the id to make it with.

    Raises:
        ValueError: if the suite is not installed; the message gives the command that installs it.
    """
    env_id = current_id(env_id)
    if env_id.startswith(GIVEN) and env_id not in gymnasium.registry:
        expected = f"the class or function that makes {env_id} to be handed over in this process too"
        raise ValueError(f"env: expected {expected}, by env= of train, resume or open_run in Python; got none")
    for suite in SUITES:
        if not _belongs(env_id, suite):
            continue
        if find_spec(suite.module) is None:
            raise ValueError(f"env.id: expected an environment that is installed, got {env_id!r}: {install(suite)}")
        if suite.ids:
            import_module(suite.module)
    return env_id


def suite_of_module(name: str) -> Suite | None:
    """The suite that a module belongs to, or None."""
    return next((suite for suite in SUITES if suite.module == name.split(".")[0]), None)


def is_own(env_id: str) -> bool:
    """Whether an environment comes with this package; imports nothing."""
    own = worldmodel_envs.__name__
    module, _, name = current_id(env_id).rpartition(":")
    return module in ("", own) and _entry_point(name).startswith(f"{own}.")


def is_well_known(env_id: str) -> bool:
    """Whether an environment is one of Gymnasium or of a suite, none of which states a law."""
    return _entry_point(env_id).startswith("gymnasium.") or any(_belongs(env_id, suite) for suite in SUITES)


def is_classic_control(env_id: str) -> bool:
    """Whether an environment is one of Gymnasium's own classic control; imports nothing."""
    return _entry_point(env_id).startswith("gymnasium.envs.classic_control.")


def modules_of(env_id: str, wrappers: Sequence[str | Mapping[str, Any]] = ()) -> list[str]:
    """The modules that making an environment imports because of its settings, as far as ids and registry tell."""
    module, _, name = current_id(env_id).rpartition(":")
    modules = [module, *(suite.module for suite in SUITES if suite.ids and _belongs(env_id, suite))]
    modules += [_entry_point(name).partition(":")[0], *(named(entry)[0].partition(":")[0] for entry in wrappers)]
    return list(dict.fromkeys(module for module in modules if module))


def install(suite: Suite) -> str:
    """Words that say which package is missing and how to install it."""
    return f"its package {suite.module} is not there; {install_command(suite.extra)}"


def _belongs(env_id: str, suite: Suite) -> bool:
    """Whether an id is a suite's; one that names another module to import is not, whatever else it says."""
    module, _, name = env_id.rpartition(":")
    if suite.ids and (module == suite.module or (not module and name.startswith(suite.ids))):
        return True
    return bool(suite.entry_point) and _entry_point(env_id).startswith(suite.entry_point)


def _entry_point(env_id: str) -> str:
    """`module:Class` of a registered id; empty if the id is unknown or registered by a function."""
    known = gymnasium.registry.get(env_id)
    return known.entry_point if known is not None and isinstance(known.entry_point, str) else ""
