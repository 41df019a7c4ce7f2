"""Checks of arguments and settings. Every error names the argument, what was expected and what came."""

import re


def require_positive(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1, given by name: `require_positive(horizon=horizon)`."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")


def require_several(**counts: int) -> None:
    """Raise ValueError unless every count, given by name, is at least 2: a standard error needs two numbers."""
    for name, count in counts.items():
        if count < 2:
            raise ValueError(f"{name}: expected at least 2, which errors are taken over, got {count}")


def require_above_zero(**numbers: float) -> None:
    """Raise ValueError unless every number, given by name, is greater than zero."""
    for name, number in numbers.items():
        require(number > 0, name, "a number greater than zero", number)


def require_not_negative(**numbers: float) -> None:
    """Raise ValueError unless every number, given by name, is zero or more."""
    for name, number in numbers.items():
        require(number >= 0, name, "zero or more", number)


def require_share(**shares: float) -> None:
    """Raise ValueError unless every number, given by name, is a share in [0, 1]."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a share in [0, 1], got {share}")


def require(condition: bool, key: str, expected: str, got: object) -> None:
    """Raise ValueError unless the condition on an argument or a setting is met; `key` is its (dotted) name."""
    if not condition:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def positive(section: object, prefix: str, *names: str) -> None:
    """Raise ValueError unless these settings of a section are greater than zero."""
    for name in names:
        require_above_zero(**{f"{prefix}.{name}": getattr(section, name)})


def not_negative(section: object, prefix: str, *names: str) -> None:
    """Raise ValueError if one of these settings of a section is below zero."""
    for name in names:
        require_not_negative(**{f"{prefix}.{name}": getattr(section, name)})


def require_path(key: str, path: str | None) -> None:
    """Raise ValueError unless a setting is null, module:name or given:name."""
    require(path is None or re.fullmatch(r"[\w.]+:[\w.]+", path) is not None, key, "null or module:name", path)
