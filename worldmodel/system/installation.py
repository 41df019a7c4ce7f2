"""Whether this package runs from a checkout of its repository or from a wheel, and the versions of what it runs on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PRESETS = PACKAGE / "configs"  # in a wheel; a checkout has them at its top
PACKAGES = ("worldmodel", "torch", "gymnasium", "numpy", "wandb")  # whose versions a run records


def checkout() -> Path | None:
    """The top folder of the repository that this package is imported from, or None if it comes from a wheel.

    The presets inside the package decide. Files beside it would not: `pip install --target` puts it beside anything.
    """
    return None if PRESETS.is_dir() else PACKAGE.parent


def install_command(extra: str) -> str:
    """The command that installs an extra of this package; in a checkout, with the tested versions."""
    return (
        f"pip install 'worldmodel[{extra}]'"
        if checkout() is None
        else f"pip install -e '.[{extra}]' -c constraints.txt"
    )


def versions() -> dict[str, str]:
    """The versions of Python and of those `PACKAGES` that are installed; imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
