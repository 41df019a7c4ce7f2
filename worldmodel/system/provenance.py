"""What a session was started by: the command line, and the commit of this package's code. Runs no other program."""

import re
import shlex
import sys
from pathlib import Path

from worldmodel.system.installation import checkout

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def provenance() -> dict[str, str]:
    """`command`, the process's own, and `commit`, where the package runs from a checkout whose commit can be read."""
    found = {"command": shlex.join(sys.argv)}
    top = checkout()
    if top is not None and (commit := read_commit(top)) is not None:
        found["commit"] = commit
    return found


def read_commit(top: Path) -> str | None:
    """The commit that a git repository, or a worktree of one, has checked out; None if there is none to be read.

    Changes that are not committed do not show.

    Args:
        top: its top folder.
    """
    try:
        git = _git_folder(top / ".git")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head if COMMIT.fullmatch(head) else None
        return _resolve(git, head.removeprefix("ref: "))
    except (OSError, UnicodeDecodeError):
        return None


def _git_folder(path: Path) -> Path:
    """The folder that `.git` is, or that it names, as in a worktree."""
    if path.is_dir():
        return path
    return path.parent / path.read_text().strip().removeprefix("gitdir: ")


def _resolve(git: Path, reference: str) -> str | None:
    """The commit of a branch: in a file of its own or among the packed ones, of a worktree in the common folder."""
    common = git / "commondir"
    shared = git / common.read_text().strip() if common.is_file() else git
    for folder in (git, shared):
        if (folder / reference).is_file():
            commit = (folder / reference).read_text().strip()
            return commit if COMMIT.fullmatch(commit) else None
    packed = shared / "packed-refs"
    for line in packed.read_text().splitlines() if packed.is_file() else ():
        commit, _, name = line.partition(" ")
        if name == reference and COMMIT.fullmatch(commit):
            return commit
    return None
