"""EM of the linear-Gaussian model as coordinate ascent on the bound, with and without missing entries."""

import dataclasses

import pytest
import torch

from oracles.gaussian_worlds import covariance, normal, random_model, random_rows
from worldmodel.oracles.linear_gaussian_em import completion, m_step


@pytest.mark.parametrize("missing", [False, True])
def test_em_is_coordinate_ascent_on_the_bound(missing, generator):
    """The E-step closes the gap, the M-step never lowers the bound, so the evidence never falls."""
    x, action = random_rows(random_model(generator), generator, B=20, T=15, missing=False)
    if missing:
        x[torch.rand(x.shape, generator=generator) < 0.4] = torch.nan
    model = random_model(generator)
    evidence = [model.log_evidence(x, action).sum()]
    for _ in range(15):
        q = model.posterior(x, action)
        closed = model.elbo(q, x, action).sum()
        torch.testing.assert_close(closed, evidence[-1], rtol=1e-10, atol=1e-9)
        model = m_step(model, q, x, action)
        raised = model.elbo(q, x, action).sum()
        evidence.append(model.log_evidence(x, action).sum())
        assert closed < raised < evidence[-1]
    assert evidence[-1] - evidence[0] > 100


def test_the_m_step_is_a_maximum_of_the_bound(generator):
    """No small change of any parameter raises the bound under the same q."""
    model = random_model(generator)
    x, action = random_rows(model, generator, missing=False)
    q = model.posterior(x, action)
    best = m_step(model, q, x, action)
    top = best.elbo(q, x, action).sum()
    for field in dataclasses.fields(best):
        value = getattr(best, field.name)
        if field.name in "QRP":
            changes = [1e-2 * covariance(generator, len(value)), -1e-2 * value]
        else:
            changes = [1e-2 * normal(generator, *value.shape) for _ in range(5)]
        for change in changes:
            changed = dataclasses.replace(best, **{field.name: value + change})
            assert changed.elbo(q, x, action).sum() < top, field.name


def test_a_missing_entry_is_completed_from_those_beside_it(generator):
    """Against the conditional of a dense Gaussian, entry by entry."""
    model = random_model(generator, n=2, p=3)
    x, action = normal(generator, 1, 1, 3), normal(generator, 1, 1, 2)
    x[0, 0, 1] = torch.nan
    z = normal(generator, 2)
    mean = model.C @ z + model.D @ action[0, 0] + model.d
    o = torch.tensor([0, 2])
    gain = torch.linalg.solve(model.R[o][:, o], model.R[o, 1])
    G, g, H = (part[0, 0] for part in completion(model, x, action))
    torch.testing.assert_close((G @ z + g)[1], mean[1] + gain @ (x[0, 0, o] - mean[o]))
    torch.testing.assert_close((G @ z + g)[o], x[0, 0, o])
    torch.testing.assert_close(H[1, 1], model.R[1, 1] - gain @ model.R[o, 1])
    assert H.count_nonzero() == 1


def test_em_finds_a_model_as_good_as_the_true_one(generator):
    truth = random_model(generator, n=1, p=2, actions=1)
    x, action = random_rows(truth, generator, B=40, T=20, missing=False)
    model = random_model(generator, n=1, p=2, actions=1)
    for _ in range(40):
        model = m_step(model, model.posterior(x, action), x, action)
    excess = (model.log_evidence(x, action) - truth.log_evidence(x, action)).mean()
    assert 0 < excess < 0.02  # more than the truth on the rows it was fitted to, by about half a parameter a row


def test_what_cannot_be_fitted_is_refused(generator):
    model = random_model(generator)
    x, action = random_rows(model, generator, missing=False)
    with pytest.raises(ValueError, match="x: expected at least two rows a sequence, got 1"):
        m_step(model, model.posterior(x[:, :1], action[:, :1]), x[:, :1], action[:, :1])
    with pytest.raises(ValueError, match="expected rows and actions that determine every parameter"):
        m_step(model, model.posterior(x), x)
