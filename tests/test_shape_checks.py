"""The checks of annotations that all other tests run under: that they are made, and of what."""

import importlib
import sys

import pytest
import torch

import shape_checks

MODULE = """
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, no_type_check

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from nowhere import Absent


def product(x: Float[Tensor, "A B"], y: Float[Tensor, "B C"]) -> Float[Tensor, "A C"]:
    return x @ y


def transposed(x: Float[Tensor, "A B"]) -> Float[Tensor, "A B"]:
    return x.T


def half(x: float) -> float:
    return x / 2


@dataclass(frozen=True)
class Pair:
    x: Float[Tensor, " N"]
    y: Float[Tensor, " N"]

    @property
    def sum(self) -> Float[Tensor, " M"]:
        return (self.x + self.y)[None]

    @classmethod
    def of(cls, x: Float[Tensor, " N"]) -> "Pair":
        return cls(x, x)


@contextmanager
def entered(x: int) -> Iterator[int]:
    yield x


def quoted(x: "Absent", pair: "Pair", count: int) -> "Absent":
    return x


@no_type_check
def unchecked(x: int) -> str:
    return x


def outer():
    def inner(x: int) -> int:
        return x

    return inner
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "shape_checked").mkdir()
    (tmp_path / "shape_checked" / "__init__.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    shape_checks.install("shape_checked")
    yield importlib.import_module("shape_checked")
    sys.modules.pop("shape_checked")


def test_what_fits_its_annotations_passes(module):
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert module.product(a, b).shape == (2, 4) and module.half(3) == 1.5
    assert module.product(b, torch.ones(4, 1)).shape == (3, 1)  # every call has sizes of its own
    assert module.Pair.of(a[0]).y is not None and module.unchecked(1) == 1 and module.outer()(2) == 2
    assert module.quoted(1, module.Pair(a[0], a[0]), 2) == 1
    with module.entered(3) as entered:
        assert entered == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda module: module.product(torch.ones(2, 3), torch.ones(4, 5)),
        lambda module: module.product(torch.ones(2, 3), torch.ones(3, 4).long()),
        lambda module: module.transposed(torch.ones(2, 3)),
        lambda module: module.half("3"),
        lambda module: module.Pair(torch.ones(2), torch.ones(3)),
        lambda module: module.Pair.of(torch.ones(2)).sum,
        lambda module: module.Pair.of(torch.ones(2, 2)),
        lambda module: module.entered("3").__enter__(),
        lambda module: module.outer()("2"),
        lambda module: module.quoted(1, module.Pair(torch.ones(2), torch.ones(2)), "2"),
        lambda module: module.quoted(1, 1, 2),
    ],
    ids=[
        "sizes",
        "dtype",
        "returned sizes",
        "type",
        "dataclass",
        "property",
        "classmethod",
        "context",
        "inner",
        "beside a quoted one",
        "quoted",
    ],
)
def test_what_does_not_is_refused(module, wrong):
    with pytest.raises(Exception, match=r"violates type hint"):
        wrong(module)


@pytest.mark.parametrize("function", ["half", "inner"])
def test_the_first_calls_in_a_test_are_checked_then_one_in_a_few(module, function):
    """Of a function inside another, which is made anew by every call of that one, the calls count together."""
    call = module.half if function == "half" else lambda x: module.outer()(x)
    for _ in range(2):
        shape_checks.begin()
        refused = [number for number in range(1, 2 * shape_checks.THEN + 1) if not passes(call, torch.ones(1))]
        assert refused == [*range(1, shape_checks.FIRST + 1), shape_checks.THEN, 2 * shape_checks.THEN]


def test_where_two_places_call_a_function_by_turns_calls_of_both_are_checked(module):
    shape_checks.begin()
    refused = [number for number in range(1, 3 * shape_checks.THEN) if not passes(module.half, torch.ones(1))]
    assert {number % 2 for number in refused if number > shape_checks.FIRST} == {0, 1}


@pytest.fixture
def used(module):
    module.half(3.0)
    assert shape_checks._calls


def test_the_calls_of_other_tests_and_of_fixtures_do_not_count(used):
    assert not shape_checks._calls


def passes(call, x):
    try:
        call(x)
    except Exception as error:
        assert "violates type hint" in str(error)
        return False
    return True


def test_no_bytecode_with_the_checks_is_stored(module, tmp_path):
    assert [path.name for path in (tmp_path / "shape_checked").iterdir()] == ["__init__.py"]
