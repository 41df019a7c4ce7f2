"""Configuration files and command-line options -> Config, and back.

Run folders, presets, the command line and Python share one reader, and so the same error messages. It checks plain data
against the types of the settings; it imports and makes nothing that the data names.
"""

import argparse
import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from worldmodel.config import BEFORE, Config
from worldmodel.system import plain_yaml
from worldmodel.system.files import write_whole
from worldmodel.system.hints import OTHER_COMMANDS, OTHER_NAMES, hint
from worldmodel.system.presets import SUFFIX, find_preset
from worldmodel.system.stacking import contradictions
from worldmodel.system.typed import choices, described, shown, typed

FILE = "config"  # the option that names a file of settings
ENTRY = "entry"  # the hidden option that `--env.kwargs.NAME VALUE` is rewritten to, since NAME can be anything


def add_config_options(parser: ArgumentParser) -> None:
    """Give a parser `--config FILE_OR_PRESET ...` (later ones win) and an option per setting, such as `--rssm.deter`.

    The parser keeps them as typed and in order; `config_from_options` reads them.
    """
    shared: dict[str, Any] = {"action": _AppendTyped, "dest": "settings", "default": argparse.SUPPRESS}
    words = "YAML files that override defaults, or names of presets (`worldmodel presets`); later ones and options win"
    parser.add_argument(f"--{FILE}", **shared, nargs="+", metavar="FILE", help=words)
    words = "print all settings, with these files and options, as YAML that can be read again, and end"
    parser.add_argument("--print_config", nargs="?", const="", default=argparse.SUPPRESS, metavar="", help=words)
    parser.add_argument(f"--{ENTRY}", **shared, help=argparse.SUPPRESS)
    for section, kind in {"": Config, **_sections()}.items():
        title, documented = _documentation(kind)
        group = parser.add_argument_group(title)
        if section:
            group.add_argument(f"--{section}", **shared, metavar="MAPPING", help="several of these at once, as YAML")
        for field in dataclasses.fields(kind):
            if field.name in _sections() and not section:
                continue
            key = f"{section}.{field.name}" if section else field.name
            default = field.default_factory() if callable(field.default_factory) else field.default
            words = f"{documented[field.name]} ({described(_settings()[key])}; default: {_yaml(default)})"
            names = [f"--{key}"] + ([f"--{key}+"] if get_origin(_settings()[key]) is list else [])
            metavar = field.name.upper()
            group.add_argument(*names, **shared, metavar=metavar, help=words.replace("%", "%%"))


def rewrite_entries(arguments: Iterable[str]) -> list[str]:
    """Rewrite `--env.kwargs.NAME VALUE` and `--env.kwargs.NAME=VALUE` as `--entry=env.kwargs.NAME=VALUE`."""
    mappings = [re.escape(key) for key, hint in _settings().items() if get_origin(hint) is dict]
    entry = re.compile(rf"--(?P<key>(?:{'|'.join(mappings)})\.[^=]+)(?P<value>=.*)?", re.DOTALL)
    found, waiting = list[str](), iter(arguments)
    for argument in waiting:
        match = entry.fullmatch(argument)
        value = match and (match["value"] or "".join(f"={one}" for one in islice(waiting, 1)))
        found.append(f"--{ENTRY}={match['key']}{value}" if match and value else argument)
    return found


def config_from_options(options: Namespace) -> Config:
    """Build the Config that parsed options stand for.

    Raises:
        ValueError: as `read_config`.
    """
    return _config(given_options(options))


def given_options(options: Namespace) -> list[tuple[str, str]]:
    """The settings that were typed and the files of settings, by key and in order."""
    return options.get("settings") or []


def stacked_contradictions(options: Namespace) -> list[str]:
    """Sentences on typed presets that contradict each other."""
    typed_files = [str(value) for key, value in given_options(options) if key == FILE]
    return contradictions([(name.removesuffix(SUFFIX), _read_file(find_preset(name))) for name in typed_files])


def read_config(paths: str | Path | Sequence[str | Path] = (), overrides: Mapping[str, Any] | None = None) -> Config:
    """Read settings from YAML files over the defaults, then apply single overrides.

    Args:
        paths: one YAML file or several, each by its path or as a preset's name, such as "pendulum"; later files win.
            None given means the defaults.
        overrides: settings by dotted key, such as {"rssm.deter": 256}; strings are read as on the command line.
    Raises:
        ValueError: for an unknown key, a wrong type or an impossible combination; the message names the key, what was
            expected and what came.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    return _config([*((FILE, path) for path in paths), *(overrides or {}).items()])


def read_run_config(path: Path) -> Config:
    """Read the settings in a run's folder, as `read_config` reads a file.

    The file has every setting that existed when the run began. A newer setting gets the value that reproduces the
    behaviour of that time; for example, held-out episodes then depended on the run's own seed.
    """
    seed = _read_file(path).get("seed", Config().seed)
    return _config([*BEFORE.items(), ("evaluation.seed", seed), (FILE, path)])


def explain(message: str, options: Collection[str]) -> str:
    """A parser's error message, and if an option or a command does not exist, what was probably meant.

    Args:
        message: the parser's.
        options: that it has, without their dashes.
    """
    if command := re.search(r"argument command: invalid choice: '(.*)' \(choose from (.*)\)", message):
        return f"there is no command {command[1]}" + hint(command[1], re.findall("'(.*?)'", command[2]), OTHER_COMMANDS)
    if missing := re.search(r"the following arguments are required: \w+\.(folder|runs|run)\b", message):
        return f"expected {'the folder of a run' if missing[1] != 'runs' else 'the folders of runs'}"
    if choice := re.search(r'Parser key "(\w+)":\s+Expected a typing.Literal\[(.*?)\]\. Got value: (.*)', message):
        return f"{choice[1]}: expected one of {choice[2].replace(chr(39), '')}, got {choice[3]}"
    if option := re.search(r"unrecognized arguments: --([\w.-]+)", message):
        if FILE in options:
            return f"{message}: {_unknown(option[1])}"
        return f"{message}: there is no option --{option[1]}{hint(option[1], options, {}, dashes='--')}"
    word = re.search(r"unrecognized arguments: ([^-]\S*)", message)
    return f"{message}; presets and files of settings come behind --{FILE}" if word and FILE in options else message


def settings_text(config: Config) -> str:
    """All settings as YAML."""
    return plain_yaml.dump(dataclasses.asdict(config))


def write_config(config: Config, path: Path) -> None:
    """Write all settings as YAML, the whole file or nothing: `read_config` would take missing ones for defaults."""
    write_whole(path, settings_text(config))


class _AppendTyped(argparse.Action):
    """Appends an option to the list of those typed before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        key = (option_string or "").lstrip("-")
        if key == ENTRY:
            key, _, values = values.partition("=")
        typed_here = [(key, value) for value in (values if isinstance(values, list) else [values])]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), *typed_here])


@cache
def _documentation(kind: type) -> tuple[str, dict[str, str]]:
    """The description of a section of the settings, and of each of its fields."""
    found = docstring_parser.parse_from_object(kind)
    return (found.short_description or "").rstrip("."), {one.arg_name: one.description or "" for one in found.params}


def _yaml(value: Any) -> str:
    return plain_yaml.dump({"default": value}).removeprefix("default:").strip()


@cache
def _sections() -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(Config).items() if dataclasses.is_dataclass(kind)}


@cache
def _settings() -> dict[str, Any]:
    """The type of every setting by dotted key."""
    top = {name: kind for name, kind in get_type_hints(Config).items() if name not in _sections()}
    for section, kind in _sections().items():
        top |= {f"{section}.{name}": hint for name, hint in get_type_hints(kind).items()}
    return top


def _config(given: Iterable[tuple[str, Any]]) -> Config:
    """The Config of settings and files of settings, by key; later ones override earlier ones."""
    values: dict[str, Any] = {}
    for key, value in given:
        if key == FILE:
            values |= _read_file(find_preset(str(value)))
        else:
            _put(values, key, str(value) if isinstance(value, Path) else value)
    top = {key: value for key, value in values.items() if "." not in key}
    for section, kind in _sections().items():
        mine = {key.removeprefix(f"{section}."): values[key] for key in values if key.startswith(f"{section}.")}
        top[section] = kind(**mine)
    return Config(**top)


def _read_file(path: Path) -> dict[str, Any]:
    """The settings of a file by dotted key."""
    try:
        return dict(_flat(plain_yaml.read_mapping(path), ""))
    except OSError as error:
        raise ValueError(f"{path}: expected a file of settings: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}") from error


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted key, each checked against its type."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not prefix and key in _sections():
            if not isinstance(value, Mapping):
                meant = f"; did you mean env.id {value}?" if key == "env" and isinstance(value, str) else ""
                raise ValueError(f"{key}: expected settings by name, got {shown(value)}{meant}")
            yield from _flat(value, f"{key}.")
        elif key in _settings() and key.count(".") == bool(prefix):
            yield key, typed(_settings()[key], value, key)
        else:
            raise ValueError(_unknown(key))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a setting, a section of them, one entry of a mapping (`env.kwargs.NAME`) or one more of a list (`KEY+`)."""
    mapping = next((one for one in _settings() if key.startswith(f"{one}.")), None)
    if key in _sections():
        values |= dict(_flat({key: _from_text(dict[str, Any], value, key)}, ""))
    elif key in _settings():
        values[key] = typed(_settings()[key], _from_text(_settings()[key], value, key), key)
    elif mapping is not None and get_origin(_settings()[mapping]) is dict:
        entry = {key.removeprefix(f"{mapping}."): _from_text(get_args(_settings()[mapping])[1], value, key)}
        values[mapping] = typed(_settings()[mapping], {**values.get(mapping, {}), **entry}, mapping)
    elif key.endswith("+") and get_origin(_settings().get(key[:-1])) is list:
        key, hint = key[:-1], _settings()[key[:-1]]
        several = isinstance(value, str) and value.startswith("[")
        more = _from_text(hint if several else get_args(hint)[0], value, key)
        values[key] = typed(hint, [*values.get(key, []), *(more if isinstance(more, list) else [more])], key)
    else:
        raise ValueError(_unknown(key))


def _from_text(hint: Any, value: Any, key: str) -> Any:
    """Read what was typed for a setting: as it is if the setting is text or a choice of words, otherwise as YAML."""
    if not isinstance(value, str):
        return value
    if value == "null" and NoneType in choices(hint):
        return None
    if all(one in (str, NoneType) or get_origin(one) is Literal for one in choices(hint)):
        return value
    try:
        return plain_yaml.load(value)
    except ValueError as error:
        raise ValueError(f"{key}: expected {described(hint)}, got {shown(value)}: {error}") from error


def _unknown(key: str) -> str:
    return f"there is no setting {key}" + hint(key, list(_settings()), OTHER_NAMES)
