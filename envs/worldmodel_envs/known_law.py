"""What environments share that state the exact law of their rows."""

from copy import deepcopy
from typing import Any, Generic, TypeVar

import gymnasium

Obs = TypeVar("Obs")
Act = TypeVar("Act")


class KnownLaw(gymnasium.Env[Obs, Act], Generic[Obs, Act]):
    """An environment whose `law` says everything that an oracle needs for the evidence of a recorded episode."""

    _law: dict[str, Any]  # set by the constructor

    @property
    def law(self) -> dict[str, Any]:
        """The process as numbers: `kind`, and float64 arrays; the class says what each of them means."""
        return deepcopy(self._law)


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError unless the condition on an argument holds; the message names the argument."""
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")


def require_positive(**numbers: float) -> None:
    """Raise ValueError unless every number, given by name, is greater than zero."""
    for name, number in numbers.items():
        require(number > 0, name, "a number greater than zero", number)
