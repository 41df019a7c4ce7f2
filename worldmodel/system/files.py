"""Write files whole or not at all, and never through a symbolic link.

If a file is to be replaced and a link has its name, the link is replaced and its target stays as it is. Appending to a
link, or writing into a folder that is a link, is refused.
"""

import difflib
import os
from pathlib import Path
from typing import TextIO


def write_whole(path: Path, content: str | bytes, *, durable: bool = False, keep: Path | None = None) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: the file, in a folder that exists.
        content: bytes, or text to be written as UTF-8.
        durable: wait until the file and its name are on the disk itself.
        keep: if given, the old file is renamed to this.
    Raises:
        OSError: if there is no space or no permission to write. The old file then still has one of the two names.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # of a process that was killed, or a link
    try:
        with partial.open("xb") as file:  # never through a link
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if keep is not None and os.path.lexists(path):
            os.replace(path, keep)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def open_to_append(path: Path) -> TextIO:
    """Open a file to append lines, each of which is written at once; raises ValueError if it is a link."""
    refuse_link(path)
    return open(path, "a", buffering=1, encoding="utf-8", opener=no_link)


def no_link(path: str | Path, flags: int) -> int:
    """An opener for `open` that follows no link, even one made since the last check."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows has no such flag


def make_own_folder(path: Path) -> None:
    """Make a folder and its parents unless they exist; raises ValueError if the folder is a link."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def refuse_link(path: Path) -> None:
    """Raise ValueError if a file or a folder that is to be written in is a symbolic link."""
    if path.is_symlink():
        raise ValueError(
            f"{path}: expected a file or a folder of its own, found a link to {os.readlink(path)}, which is not "
            "written through; remove the link, or put what it points to in its place"
        )


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_run(folder: Path) -> None:
    """Raise FileNotFoundError, in a sentence, if the folder is not a run's."""
    if (folder / "config.yaml").is_file():
        return
    if folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run's folder, found no config.yaml in it")
    near = difflib.get_close_matches(folder.name, _folders_in(folder.parent), n=1)
    meant = f"; did you mean {folder.parent / near[0]}?" if near else ""
    raise FileNotFoundError(f"{folder}: expected a run's folder, there is no such folder{meant}")


def _folders_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
