"""How this package was installed: from a checkout of its repository or from a wheel, and what follows from that."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PRESETS = PACKAGE / "configs"  # where a wheel has them; the repository has them at its top
PACKAGES = ("worldmodel", "torch", "gymnasium", "numpy", "wandb")  # whose versions say what a number was made with


def checkout() -> Path | None:
    """The top folder of the repository that this package is imported from; None where it was installed from a wheel.

    The files beside the package cannot tell: `pip install --target` puts it beside anything.
    """
    return None if PRESETS.is_dir() else PACKAGE.parent


def install_command(extra: str) -> str:
    """The command that installs one of this package's extras: into a checkout with the tested versions, or as usual."""
    return (
        f"pip install 'worldmodel[{extra}]'"
        if checkout() is None
        else f"pip install -e '.[{extra}]' -c constraints.txt"
    )


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter, without importing any; those not installed left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
