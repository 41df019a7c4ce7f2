"""Configuration files and command-line options -> Config, and back.

One parser serves the command line and Python, so both refuse the same mistakes in the same words.
"""

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from worldmodel.config import BEFORE, Config


def add_config_options(parser: ArgumentParser) -> None:
    """Give a parser `--config FILE` (repeatable, later files win) and an option per setting, such as `--rssm.deter`."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the line under each field is its help
    parser.add_argument(
        "--config", action="config", help="YAML file that overrides defaults; may be repeated, later files win."
    )
    parser.add_class_arguments(Config)


def config_from_namespace(parser: ArgumentParser, namespace: Namespace) -> Config:
    """Build the Config that parsed options stand for.

    Raises:
        ValueError: if a setting is out of range or two settings contradict each other; the message names the key.
    """
    _refuse_blanks(namespace, Config, "")
    built = parser.instantiate(namespace)
    return Config(**{f.name: built[f.name] for f in dataclasses.fields(Config)})


def read_config(paths: str | Path | Sequence[str | Path] = (), overrides: Mapping[str, Any] | None = None) -> Config:
    """Read settings from YAML files over the defaults, then apply single overrides.

    Args:
        paths: one YAML file or several; later files win. None at all gives the defaults.
        overrides: settings by dotted key, such as {"rssm.deter": 256}.
    Raises:
        ValueError: for an unknown key, a wrong type or an impossible combination; the message names the key, what was
            expected and what came.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    arguments = [f"--config={path}" for path in paths]
    for key, value in (overrides or {}).items():
        arguments.append(f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}")
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_config_options(parser)
    try:
        namespace = parser.parse_args(arguments)
    except Exception as error:
        raise ValueError(f"configuration: {explain(str(error))}") from error
    return config_from_namespace(parser, namespace)


def explain(message: str) -> str:
    """A parser's complaint, with what was probably meant where it is about a key that does not exist."""
    unknown = re.search(r"(?:arguments: --|does not accept option ')([\w.]+)", message)
    if message.startswith("Unexpected config"):
        return f"{message.strip()} (expected a file of settings by section, such as `rssm: {{deter: 256}}`)"
    if not unknown:
        return message
    group = re.search(r"Group '([\w.]+)'", message)
    key = f"{group[1]}.{unknown[1]}" if group and "." not in unknown[1] else unknown[1]
    near = difflib.get_close_matches(key, list(_keys(Config, "")), n=1)
    return f"{message}: there is no setting {key}" + (f"; did you mean {near[0]}?" if near else "")


def settings_of_before(path: Path) -> dict[str, Any]:
    """What was done before there was a setting for it, for the settings that a run's own file does not have yet.

    The file of a run names every setting that there was when it began, and its rows and weights belong to them.
    """
    try:
        written = yaml.safe_load(path.read_text())
        places = {key: key.split(".") for key in BEFORE}
        return {key: BEFORE[key] for key, (section, name) in places.items() if name not in written[section]}
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        return {}  # it is no run's own file, which `read_config` says, or one that leaves all to the defaults


def write_config(config: Config, path: Path) -> None:
    """Write every setting as YAML, readable by `read_config`. A part of a file would read as defaults: all or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    os.replace(partial, path)


def _keys(section: Any, prefix: str) -> Iterator[str]:
    for setting, kind in get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            yield from _keys(kind, f"{prefix}{setting}.")
        else:
            yield prefix + setting


def _refuse_blanks(values: Namespace, section: Any, prefix: str) -> None:
    """A key left blank in a file reads as null, which the parser lets pass whatever the setting's type."""
    for setting, kind in get_type_hints(section).items():
        value = values[setting]
        if dataclasses.is_dataclass(kind) and isinstance(value, Namespace):
            _refuse_blanks(value, kind, f"{prefix}{setting}.")
        elif value is None and type(None) not in get_args(kind):
            raise ValueError(f"{prefix}{setting}: expected a value, got null")
