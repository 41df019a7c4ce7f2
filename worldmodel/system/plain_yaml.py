"""YAML as plain data: mappings, lists, text, numbers, true, false and null. Nothing that is read can run code.

Whatever a file holds, reading it is quick and takes little memory: its size, its depth and what its aliases stand for
are bounded. A key that is written twice is refused, and so is a tag, since plain data needs none.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**18  # bytes of a file; settings take a few thousand
DEEPEST = 50  # mappings and lists inside one another
MOST = 2**14  # values in all, with every alias written out
TAG = "tag:yaml.org,2002:"
NUMBERS = {  # YAML 1.1 reads 1e-3 as text, 12:30 as a number to the base 60, and 2020-01-01 as a date
    "int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    "float": re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*"
        r"(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
}
KEPT = {TAG + name for name in ("bool", "null", "merge")}
RESOLVERS = {  # by the first character: what text without quotes is taken for
    first: [(tag, form) for tag, form in forms if tag in KEPT]
    + [(TAG + name, form) for name, form in NUMBERS.items() if first and first in "-+.0123456789"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
QUOTED = {first: RESOLVERS[first] + forms for first, forms in yaml.SafeDumper.yaml_implicit_resolvers.items()}


class _Loader(yaml.SafeLoader):
    """Refuses while it reads, before anything is built."""

    yaml_implicit_resolvers = RESOLVERS

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # values in each node, with every alias written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node with what is in it, or the node that an alias stands for."""
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
        """A mapping whose keys are words or numbers, each written once."""
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
    """Quotes what this or another loader would take for something else."""

    yaml_implicit_resolvers = QUOTED

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def load(text: str) -> Any:
    """Read YAML.

    Raises:
        ValueError: if it is none, or more than plain data; the message says where.
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
    """Read a file of values by name.

    Raises:
        ValueError: if that is not what it holds.
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
    """Plain data as YAML that `load` reads back as it was."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refusal(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
