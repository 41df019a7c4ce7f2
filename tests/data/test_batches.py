"""Operations on batches: how many rows are seen and imagined where episodes are short; rows as sequences."""

import pytest
import torch

from worldmodel.data.batches import fitting_rows, stacked
from worldmodel.types import Rows
from worlds import MIXED_SPEC, make_batch


@pytest.mark.parametrize(
    ("longest", "asked", "rows"),
    [
        (64, (None, None), (16, 48)),
        (1000, (None, None), (16, 48)),
        (63, (None, None), (15, 48)),
        (20, (None, None), (5, 15)),
        (4, (None, None), (1, 3)),
        (2, (None, None), (1, 1)),
        (20, (19, None), (19, 1)),
        (20, (4, None), (4, 16)),
        (20, (None, 10), (10, 10)),
        (20, (None, 4), (16, 4)),
        (20, (None, 19), (1, 19)),
        (20, (30, 40), (30, 40)),  # asked for, and for others to refuse
        (20, (30, None), (30, 1)),
    ],
)
def test_context_and_horizon_shrink_together_unless_they_are_asked_for(longest, asked, rows):
    assert fitting_rows(longest, (16, 48), *asked) == rows


def test_whatever_the_usual_rows_two_are_enough_to_imagine():
    for context in range(1, 9):
        for horizon in range(1, 9):
            for longest in range(2, 20):
                seen, imagined = fitting_rows(longest, (context, horizon))
                assert 1 <= seen <= context and 1 <= imagined <= horizon
                assert seen + imagined == min(longest, context + horizon)


def test_rows_one_after_the_other_are_sequences():
    batch = make_batch(MIXED_SPEC, 3, 5)
    rows = [
        Rows({path: x[:, t].numpy() for path, x in batch.obs.items()}, *(x[:, t].numpy() for x in batch[1:-1]))
        for t in range(5)
    ]
    again = stacked(rows)
    assert all(torch.equal(again.obs[path], x) for path, x in batch.obs.items())
    assert all(torch.equal(a, b) for a, b in zip(again[1:], batch[1:], strict=True)) and again.valid.all()
