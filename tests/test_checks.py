"""Checks of arguments: what is refused, and in which words."""

import math

import pytest

from worldmodel.checks import require_above_zero, require_not_negative, require_positive, require_several, require_share


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (require_positive, 1, 0, "n: expected at least 1, got 0"),
        (require_several, 2, 1, "n: expected at least 2, which errors are taken over, got 1"),
        (require_above_zero, 0.5, 0.0, "n: expected a number greater than zero, got 0.0"),
        (require_above_zero, 0.5, math.nan, "n: expected a number greater than zero, got nan"),
        (require_not_negative, 0.0, -0.5, "n: expected zero or more, got -0.5"),
        (require_not_negative, 0.0, math.nan, "n: expected zero or more, got nan"),
        (require_share, 1.0, 1.5, r"n: expected a share in \[0, 1\], got 1.5"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(check, good, bad, words):
    check(n=good)
    with pytest.raises(ValueError, match=f"^{words}$"):
        check(other=good, n=bad)
