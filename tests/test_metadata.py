"""What the repository says about itself agrees with itself."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import worldmodel

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_IMPORT_NAMES = {"docstring-parser": "docstring_parser", "pyyaml": "yaml", "pillow": "PIL"}


def test_the_citation_is_of_this_version_and_names_what_a_citation_needs():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_changelog_has_this_version_and_what_comes_next():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" and PROJECT["version"] in headings


def test_every_public_name_is_there_and_another_one_is_refused_with_the_list():
    assert dir(worldmodel) == sorted(worldmodel.__all__)  # what a notebook completes
    for name in worldmodel.__all__:
        assert getattr(worldmodel, name).__name__.rpartition(".")[2] == name  # of a module, its own name
    with pytest.raises(AttributeError, match="no attribute 'fit'; it has Config, LatentSequence, Run, build_model"):
        worldmodel.fit  # noqa: B018


def test_every_package_that_is_always_imported_is_a_declared_dependency():
    declared = {re.split(r"[\[><=]", line)[0] for line in PROJECT["dependencies"]}
    names = {NOT_IMPORT_NAMES.get(name, name) for name in declared}
    optional = {"minari", "h5py", "triton", "minigrid", "ale_py", "stable_baselines3"}
    imported = set()
    for path in [*(ROOT / "worldmodel").rglob("*.py"), *(ROOT / "envs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names - {"worldmodel", "worldmodel_envs"} <= names | optional
