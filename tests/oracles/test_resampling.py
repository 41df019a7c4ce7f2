"""Rows drawn anew: their moments are those of the environment itself, sent on from where the past leaves it."""

import numpy as np
import pytest
import torch

from dense_gaussian import moments_of_rows
from worldmodel.oracles.worlds import can_resample, resample_rows
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worldmodel_envs.linear_gaussian import LinearGaussian
from worlds import make_batch

SPEC = EnvSpec({"obs": ObservationSpec("vector", (2,))}, ActionSpec("continuous", 2))


def predicted(law, x, reward, action):
    """Mean and covariance of (x_T, r_T) of one episode given the rows before, by conditioning all rows at once."""
    rows = np.concatenate([x, reward[:, None]], 1).ravel()
    centre, wide = moments_of_rows(law, action)
    past = np.array([i for i in range(rows.size - 3) if i != 2])
    gain = np.linalg.solve(wide[np.ix_(past, past)], wide[past, -3:]).T
    return centre[-3:] + gain @ (rows - centre)[past], wide[-3:, -3:] - gain @ wide[past, -3:]


def test_redrawn_rows_have_the_law_of_what_could_have_come_next(generator):
    batch, law = make_batch(SPEC, first=()), LinearGaussian().law
    t, draws = 5, 4000
    rest = (x[:1].repeat(draws, *[1] * (x.dim() - 1)) for x in batch[1:])
    many = type(batch)({"obs": batch.obs["obs"][:1].repeat(draws, 1, 1)}, *rest)
    again = resample_rows(law, many, generator=generator)
    x = again.obs["obs"]
    rows = torch.cat([x[:, t], again.reward[:, t, None]], 1).double()
    seen = (batch.obs["obs"][0, : t + 1], batch.reward[0, : t + 1], batch.prev_action[0, : t + 1])
    mean, cov = (torch.from_numpy(part) for part in predicted(law, *(part.double().numpy() for part in seen)))
    error = (cov.diagonal() / draws).sqrt()
    assert ((rows.mean(0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(rows.T.cov(), cov, rtol=0, atol=0.1 * cov.diagonal().max().item())
    assert not again.reward[:, 0].any() and torch.equal(again.is_last, many.is_last) and x.dtype == torch.float32


def test_other_laws_are_refused():
    batch, law = make_batch(SPEC, first=()), LinearGaussian().law
    assert can_resample(law) and not can_resample({"kind": "chaos"})
    with pytest.raises(ValueError, match="law: expected one of the kinds"):
        resample_rows({**law, "kind": "chaos"}, batch)
