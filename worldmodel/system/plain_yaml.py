"""YAML as plain data: mappings, lists, text, numbers, true, false and null. Nothing that is read can run code.

Reading any file is quick and takes little memory, because its size, its depth and the values that its aliases stand for
are limited. Keys that occur twice and tags, which plain data does not need, are refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**18  # bytes of a file; settings take a few thousand
DEEPEST = 50  # levels of nested mappings and lists
MOST = 2**14  # values in all, with every alias written out
TAG = "tag:yaml.org,2002:"
NUMBERS = {  # as people write them: YAML 1.1 reads 1e-3 as text, 12:30 to the base 60, and 2020-01-01 as a date
    "int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    "float": re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*"
        r"(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
}
KEPT = {TAG + name for name in ("bool", "null", "merge")}
RESOLVERS = {  # by the first character: how text without quotes is read
    first: [(tag, form) for tag, form in forms if tag in KEPT]
    + [(TAG + name, form) for name, form in NUMBERS.items() if first and first in "-+.0123456789"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
QUOTED = {first: RESOLVERS[first] + forms for first, forms in yaml.SafeDumper.yaml_implicit_resolvers.items()}


class _Loader(yaml.SafeLoader):
    """A loader that refuses a file while reading it, before it builds any value."""

    yaml_implicit_resolvers = RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # values in each node, with every alias written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a node and its children, or find the node that an alias stands for."""
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        if not alias and event.tag not in (None, "!"):
            raise _refusal(f"expected plain data, found the tag {event.tag}", event)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refusal(f"expected at most {DEEPEST} mappings and lists inside one another", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and node not in self._sizes:
            raise _refusal("expected plain data, found a value that contains itself", event)
        if not alias:
            self._sizes[node] = 1 + sum(self._sizes[part] for part in _parts(node))
        if max(self._sizes[node], len(self._sizes)) > MOST:
            raise _refusal(f"expected at most {MOST} values, with every alias written out", event)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Read a mapping, whose keys must be words or numbers and differ from each other."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("expected a key that is a word or a number", key)
            name = key.value if key.tag == f"{TAG}merge" else self.construct_object(key)
            if name in seen:
                raise _refusal(f"the key {key.value} is there twice", key)
            seen.add(name)
        return node


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which this or another loader would read as something else."""

    yaml_implicit_resolvers = QUOTED

    def ignore_aliases(self, data: Any) -> bool:
        """True: repeated values are written out, without aliases."""
        return True


def load(text: str) -> Any:
    """Read YAML.

    Raises:
        ValueError: if it is not YAML, or not plain data; the message says where.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(where + ", ".join(part for part in (error.context, error.problem) if part)) from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"character {error.position}: {error.reason}") from error


def read_mapping(path: Path) -> dict[Any, Any]:
    """Read a file that holds values by name.

    Raises:
        ValueError: if it holds anything else.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{path}: expected settings as YAML, got a file of more than {LARGEST // 1024} KiB")
    try:
        values = load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected settings as YAML in UTF-8, got other bytes at {error.start}") from error
    except ValueError as error:
        raise ValueError(f"{path}: expected settings as YAML, got {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings by name, got {type(values).__name__}")
    return values


def dump(values: Mapping[str, Any]) -> str:
    """Plain data as YAML, from which `load` gives the same data."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refusal(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
