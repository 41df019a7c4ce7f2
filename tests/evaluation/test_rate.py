"""The rate of a world model's rows: first rows among themselves, later ones by redrawing them."""

import pytest
import torch

from worldmodel.evaluation.rate import every_row, first_rows
from worldmodel.models.posteriors import with_posterior
from worlds import make_batch, make_model


def test_later_rows_are_averaged_over_the_rows_that_are_handed_over(generator):
    """Alternatives that are the rows themselves hold no information: log q_bar is log q, draw by draw."""
    model, batch = make_model().double(), make_batch(batch=4, first=(), dtype=torch.float64)
    none = every_row(model, batch, alternatives=3, resample=lambda part: part, generator=generator)
    torch.testing.assert_close(none.misfit.low, none.misfit.high)
    assert none.alternatives == 3 and none.rate.shape == (4, 7)
    own = every_row(model, batch, alternatives=200, generator=generator).parts()
    assert own["information_high"].mean > own["information_low"].mean - 1e-9
    sums = own["information_low"].mean + own["misfit_high"].mean
    assert sums == pytest.approx(own["rate"].mean, abs=1e-9)


def test_first_rows_need_no_model_of_the_data_and_smoothers_have_no_later_ones(generator):
    model, batch = make_model(), make_batch(batch=5, first=())
    first = first_rows(model, batch, generator=generator)
    assert first.alternatives == 4 and first.rate.shape == (5, 1)
    smoothing = with_posterior(model, "smoothing")
    assert first_rows(smoothing, batch, generator=generator).rate.shape == (5, 1)
    with pytest.raises(ValueError, match="expected a posterior that filters"):
        every_row(smoothing, batch, alternatives=2)
    with pytest.raises(ValueError, match="alternatives: expected at least 1, got 0"):
        every_row(model, batch, alternatives=0)
