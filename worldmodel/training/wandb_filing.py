"""Under which mode, names and id a run is kept at Weights & Biases: from its settings, W&B's environment variables and
its own folder, in this order. Pure functions; nothing is asked of the user or the network."""

import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlparse

PROJECT = "worldmodel"  # where nobody names one


class Filing(NamedTuple):
    """Where a run is filed, and under which words; arguments of `wandb.init`."""

    dir: str  # W&B makes a folder `wandb` in it
    project: str
    name: str
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


def file_run(
    folder: Path,
    environment: Mapping[str, str],
    *,
    project: str | None = None,
    name: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    dir: str | None = None,
) -> Filing:
    """An explicit setting wins, then W&B's environment variable (unless it is empty), then the run's own folder.

    Args:
        folder: the run's.
        environment: the process's environment variables.
        project, name, entity, group, tags, notes, dir: as in `WandbConfig`.
    """

    def chosen(given: str | None, variable: str) -> str | None:
        return environment.get(variable) or None if given is None else given

    listed = [tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",")]
    return Filing(
        dir=chosen(dir, "WANDB_DIR") or str(folder),
        project=chosen(project, "WANDB_PROJECT") or PROJECT,
        name=chosen(name, "WANDB_NAME") or folder.name,
        entity=chosen(entity, "WANDB_ENTITY"),
        group=chosen(group, "WANDB_RUN_GROUP"),
        tags=tuple(tags) or tuple(filter(None, listed)),
        notes=chosen(notes, "WANDB_NOTES"),
    )


def run_id(recorded: str | None, environment: Mapping[str, str]) -> str:
    """The id of a run at W&B.

    A sweep's agent gives its runs ids, which W&B insists on. Otherwise a run keeps the id that it has, and a new one
    takes WANDB_RUN_ID or draws one.

    Args:
        recorded: the id that the run had in earlier sessions, if there were any.
        environment: the process's environment variables.
    """
    given = environment.get("WANDB_RUN_ID") or None
    if given is not None and environment.get("WANDB_SWEEP_ID"):
        return given
    return recorded or given or secrets.token_hex(4)


def wandb_mode(
    setting: Literal["auto", "offline", "online"], environment: Mapping[str, str]
) -> Literal["online", "offline", "disabled"]:
    """How W&B should run.

    Args:
        setting: `auto` is online if a key is configured (WANDB_API_KEY or ~/.netrc) and offline otherwise, and obeys
            WANDB_MODE.
        environment: the process's environment variables.
    Raises:
        ValueError: if online is asked for and no key is configured, or WANDB_MODE is unknown.
    """
    wanted = setting if setting != "auto" else environment.get("WANDB_MODE", "")
    if wanted in ("dryrun", "offline"):
        return "offline"
    if wanted == "disabled":
        return "disabled"
    if wanted not in ("", "run", "online"):
        raise ValueError(f"WANDB_MODE: expected online, offline or disabled, got {wanted!r}")
    if _has_key(environment):
        return "online"
    if wanted:
        raise ValueError("tracking: expected a W&B key for online tracking, found none; run `wandb login` once")
    return "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = environment.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return host is not None and netrc.netrc(path).hosts.get(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
