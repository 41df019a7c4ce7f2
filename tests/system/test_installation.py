"""How the package was installed decides where its files are and what its hints say."""

import sys
from pathlib import Path

import pytest

from worldmodel.data.minari import MissingExtraError, open_minari
from worldmodel.kernels import backend
from worldmodel.system import installation

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "pip install -e '.[{}]' -c constraints.txt"
WHEEL = "pip install 'worldmodel[{}]'"


@pytest.fixture(params=[CHECKOUT, WHEEL], ids=["checkout", "wheel"])
def command(request, monkeypatch, tmp_path) -> str:
    """The command to expect, with presets inside the package where it is a wheel."""
    if request.param == WHEEL:
        monkeypatch.setattr(installation, "PRESETS", tmp_path)
    return request.param


def test_a_checkout_is_told_from_an_installed_wheel(command):
    assert installation.checkout() == (ROOT if command == CHECKOUT else None)


def test_the_command_that_installs_an_extra_fits_the_installation(command):
    assert installation.install_command("box2d") == command.format("box2d")


def test_a_missing_minari_and_a_missing_triton_are_answered_with_the_command_that_fits(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingExtraError) as missing:
        open_minari("a/b-v0")
    assert str(missing.value).endswith(command.format("minari"))
    monkeypatch.setattr(backend, "triton_installed", lambda: False)
    with pytest.raises(ValueError, match="expected triton to be installed") as missing_triton:
        backend.runs_on_triton("triton")
    assert str(missing_triton.value).endswith(command.format("kernels"))


def test_versions_name_python_and_what_is_installed(monkeypatch):
    found = installation.versions()
    assert found.keys() == {"python", *installation.PACKAGES}
    monkeypatch.setattr(installation, "PACKAGES", ("torch", "no-such-package"))
    assert installation.versions().keys() == {"python", "torch"}
