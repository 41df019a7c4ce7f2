import math

import pytest

from worldmodel.training.divergence import has_diverged


@pytest.mark.parametrize(
    ("loss", "first", "diverged"),
    [
        (1e5, 10.0, False),
        (1e8, 10.0, True),
        (0.9e6, 0.0, False),
        (1.1e6, 0.0, True),
        (0.9e6, -0.5, False),
        (1e9, 2e3, False),
        (3e9, 2e3, True),
        (-1e12, 10.0, False),
        (math.nan, 10.0, True),
        (math.inf, 10.0, True),
        (math.inf, math.inf, False),  # rows beyond the model from the beginning
    ],
)
def test_a_loss_a_million_times_the_first_is_a_divergence(loss, first, diverged):
    assert has_diverged(loss, first) == diverged
