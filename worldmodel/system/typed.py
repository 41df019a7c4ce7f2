"""Check plain data against a type hint: true or false, numbers, text, a choice of words, lists and mappings.

The only conversions are of whole numbers, to a float and from one such as 1e6. Nothing that the data names is imported
or made.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

LARGEST = 2**63 - 1  # the largest whole number that tensors and files can hold


class _MisfitError(Exception):
    """A value does not fit a type; the message, if any, describes what was expected better than the type does."""


def typed(hint: Any, value: Any, key: str) -> Any:
    """The value of a setting, after a check of its type.

    Args:
        hint: bool, int, float, str, None, Any for plain data, or a Literal, list, dict or union of these.
        value: plain data.
        key: of the setting, for the message.
    Raises:
        ValueError: if the type differs; the message names the key, what was expected and what came.
    """
    try:
        return _fit(hint, value)
    except _MisfitError as error:
        raise ValueError(f"{key}: expected {str(error) or described(hint)}, got {shown(value)}") from error


def choices(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows; for another type, that type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def described(hint: Any) -> str:
    """A type in words."""
    if hint is Any:
        return "plain data"
    if len(choices(hint)) > 1:
        return " or ".join(described(choice) for choice in sorted(choices(hint), key=lambda one: one is not NoneType))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list of {described(arguments[0])}"
    if origin is dict:
        return f"a mapping from text to {described(arguments[1])}"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return {**words, NoneType: "null"}[hint]


def shown(value: Any) -> str:
    """A value for a message, cut short where it is long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _fit(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if len(choices(hint)) > 1:
        return _fit_one_of(choices(hint), value)
    if hint is Any:
        return _plain(value)
    if origin is list and isinstance(value, list | tuple):
        return [_fit(arguments[0], item) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return {_fit(arguments[0], key): _fit(arguments[1], item) for key, item in value.items()}
    if origin is Literal and any(value == one and type(value) is type(one) for one in arguments):
        return value
    if hint is float and type(value) in (int, float) and abs(value) < math.inf:
        return _as_float(value)
    if hint is int and type(value) is int:
        if abs(value) > LARGEST:
            raise _MisfitError("a whole number below 2^63")
        return value
    if hint is int and type(value) is float and value.is_integer() and abs(value) <= LARGEST:
        return int(value)
    if hint in (bool, str, NoneType) and type(value) is hint:
        return value
    raise _MisfitError


def _fit_one_of(hints: tuple[Any, ...], value: Any) -> Any:
    for hint in hints:
        with suppress(_MisfitError):
            return _fit(hint, value)
    raise _MisfitError


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise _MisfitError from error


def _plain(value: Any) -> Any:
    """A copy of nested lists and mappings of text, numbers, true, false and null."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_plain_leaf(key): _plain(item) for key, item in value.items()}
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if type(value) in (bool, int, float, str, NoneType):
        return value
    raise _MisfitError
