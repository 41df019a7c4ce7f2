"""Observations' names, which may hold any text, made fit for file names and figures."""

import unicodedata
import zlib
from collections.abc import Collection

LONGEST_FILE = 120  # bytes that a name may take in a file name, which has at most 255 in all
LONGEST_LABEL = 48  # letters; more would leave no room for the figure
UNSAFE = set('%\\:*?"<>|')  # letters that some file system refuses, and the % that escapes them
INVISIBLE = ("Cc", "Cs")  # Unicode's control characters and lone surrogates


def file_name(name: str, taken: Collection[str] = ()) -> str:
    """A name as part of a file name.

    Slashes become underscores, letters that a file system refuses are written as %HEX, and the middle of a long name is
    replaced by a checksum of the whole name.

    Args:
        name: any text.
        taken: names in use; a result among them gets a number.
    """
    escaped = "".join(_escaped(letter) for letter in name.replace("/", "_"))
    if escaped.startswith(".") or not escaped:
        escaped = f"%{escaped}"
    encoded = escaped.encode()
    if len(encoded) > LONGEST_FILE:
        half = (LONGEST_FILE - 12) // 2
        check = zlib.crc32(name.encode("utf-8", "surrogatepass"))
        first, last = (part.decode(errors="ignore") for part in (encoded[:half], encoded[-half:]))
        escaped = f"{first}-{check:08x}-{last}"
    stem, number = escaped, 2
    while stem in taken:
        stem, number = f"{escaped}_{number}", number + 1
    return stem


def tracked_name(name: str) -> str:
    """A name for W&B, which turns slashes into folders: each part between slashes is made fit for a file name."""
    return "/".join(map(file_name, name.split("/")))


def label(name: str) -> str:
    """A name as text in a figure: control characters and dollars escaped, and the middle cut out if it is long."""
    shown = visible(name)
    if len(shown) > LONGEST_LABEL:
        half = LONGEST_LABEL // 2
        shown = f"{shown[:half]}\N{HORIZONTAL ELLIPSIS}{shown[-half:]}"
    return shown.replace("$", r"\$")  # a pair of dollars would make a formula


def visible(text: str) -> str:
    """Text whose control characters and lone surrogates are written as escapes, such as \\x00."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in INVISIBLE else letter
        for letter in text
    )


def _escaped(letter: str) -> str:
    if letter in UNSAFE or unicodedata.category(letter) in INVISIBLE:
        return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
    return letter
