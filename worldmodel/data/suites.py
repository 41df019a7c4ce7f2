"""Environments of other packages: which of this package's extras an id needs, and the import that makes it known."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import gymnasium


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


def prepare(env_id: str) -> None:
    """Make an id known to Gymnasium if it belongs to a suite, and see that the suite is installed.

    Raises:
        ValueError: if it is not; the message names the command that installs it.
    """
    for suite in SUITES:
        if not _belongs(env_id, suite):
            continue
        if find_spec(suite.module) is None:
            raise ValueError(f"env.id: expected an environment that is installed, got {env_id!r}: {install(suite)}")
        if suite.ids:
            import_module(suite.module)


def suite_of_module(name: str) -> Suite | None:
    """The suite that a module's package belongs to."""
    return next((suite for suite in SUITES if suite.module == name.split(".")[0]), None)


def install(suite: Suite) -> str:
    """What to do where a suite is missing."""
    return f"its package {suite.module} is not there; pip install -e '.[{suite.extra}]' -c constraints.txt"


def _belongs(env_id: str, suite: Suite) -> bool:
    if env_id.startswith(suite.ids):
        return True
    known = gymnasium.registry.get(env_id)
    return bool(suite.entry_point) and known is not None and str(known.entry_point).startswith(suite.entry_point)
