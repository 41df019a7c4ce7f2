"""Plain data against type hints: what fits is kept as it is, what does not is refused in words."""

from typing import Any, Literal

import numpy as np
import pytest

from worldmodel.system.typed import typed


@pytest.mark.parametrize(
    ("hint", "value", "kept"),
    [
        (float, 3, 3.0),
        (int, 1e6, 1_000_000),
        (int | None, 2.0, 2),
        (int | None, None, None),
        (Literal["off", "only"], "only", "only"),
        (list[int], (1, 2), [1, 2]),
        (dict[str, list[int]], {"obs": [1]}, {"obs": [1]}),
        (dict[str, Any], {"a": "1", "b": [{"c": None}, "007"]}, {"a": "1", "b": [{"c": None}, "007"]}),
        (list[str | dict[str, dict[str, Any]]], ["a:B", {"c:D": {"e": "no"}}], ["a:B", {"c:D": {"e": "no"}}]),
        (
            dict[str, Any],
            {"x": {"class_path": "os.getpid", "init_args": {}}},
            {"x": {"class_path": "os.getpid", "init_args": {}}},
        ),
    ],
)
def test_what_fits_is_kept(hint, value, kept):
    got = typed(hint, value, "key")
    assert got == kept and type(got) is type(kept)


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (int, True, "a whole number, got True"),
        (int, 1.5, "a whole number, got 1.5"),
        (int, 1e20, r"a whole number, got 1e\+20"),
        (int, 10**20, r"a whole number below 2\^63, got 1000"),
        (int, "64", "a whole number, got '64'"),
        (float, 10**400, "a finite number, got 1000"),
        (float, float("nan"), "a finite number, got nan"),
        (bool, "yes", "true or false, got 'yes'"),
        (str, None, "text, got null"),
        (float | None, "x", "null or a finite number, got 'x'"),
        (Literal["off", "only"], False, "one of off, only, got False"),
        (list[int], [1, "2"], r"a list of a whole number, got \[1, '2'\]"),
        (dict[str, list[int]], [], r"a mapping from text to a list of a whole number, got \[\]"),
        (dict[str, Any], {1: 2}, "a mapping from text to plain data, got {1: 2}"),
        (dict[str, Any], {"a": np.float32(1)}, "a mapping from text to plain data, got "),
    ],
)
def test_what_does_not_fit_is_refused_by_key_in_one_short_line(hint, value, words):
    with pytest.raises(ValueError, match=f"^a.key: expected {words}") as refusal:
        typed(hint, value, "a.key")
    assert len(str(refusal.value)) < 300
