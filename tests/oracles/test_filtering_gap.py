"""The closed form of the filtering gap against exact bounds, simulation and independent moments."""

import dataclasses
import math

import pytest
import torch

from latent_paths import log_weights
from oracles.gaussian_worlds import normal, random_model, random_rows
from worldmodel.oracles.filtering_gap import (
    StationaryFilter,
    best_filter,
    filtering_gap,
    innovations,
    lyapunov,
    physical,
)
from worldmodel.oracles.linear_gaussian import LinearGaussian

EXACT = {"rtol": 1e-10, "atol": 1e-10}

# Constant velocity along one axis, dt = 1, R = 1, Q = q * white acceleration: nats per step, by an independent sketch.
# q: (entropy rate, gap of the best filter, gap of the greedy one)
CONSTANT_VELOCITY = {
    0.001: ("1.545", "0.632", "3002"),
    0.01: ("1.643", "0.967", "302"),
    0.1: ("1.817", "1.292", "31.5"),
    1.0: ("2.126", "1.335", "4.28"),
    10.0: ("2.670", "0.928", "1.40"),
    100.0: ("3.546", "0.560", "0.840"),
}


def constant_velocity(q):
    matrix = lambda *rows: torch.tensor(rows, dtype=torch.float64)  # noqa: E731 (one line says it)
    Q = q * matrix([1 / 3, 1 / 2], [1 / 2, 1])
    start = {"m": torch.zeros(2).double(), "P": torch.eye(2).double()}
    return LinearGaussian.create(A=matrix([1, 1], [0, 1]), C=matrix([1, 0]), Q=Q, R=matrix([1]), **start)


@pytest.mark.parametrize(("q", "expected"), CONSTANT_VELOCITY.items())
def test_constant_velocity_has_the_known_figures(q, expected):
    form = physical(constant_velocity(q))
    greedy = form.bound(form.greedy())
    figures = greedy.entropy_rate, form.best_filtering_gap(), greedy.gap
    for figure, known in zip(figures, expected, strict=True):
        digits = len(known.partition(".")[2])
        assert f"{figure:.{digits}f}" == known


@pytest.mark.parametrize("form", ["physical", 1.0, 0.3, 0.01])
def test_the_closed_form_is_what_the_stationary_moments_say(form, generator):
    """Value function against Lyapunov equation, for both kinds of latents."""
    model = random_model(generator)
    form = physical(model) if form == "physical" else innovations(model, form)
    best = form.best_filter()
    gap = form.best_filtering_gap()
    assert form.bound(best).gap == pytest.approx(gap, rel=1e-9, abs=1e-9)
    assert form.bound(form.greedy()).gap > gap
    for _ in range(30):  # a maximum: whatever else the filter does loses more
        U, Y = (x + 0.03 * normal(generator, *x.shape) for x in (best.U, best.Y))
        V = best.V * (0.1 * normal(generator, 1)).exp()
        assert form.bound(StationaryFilter(U, Y, V)).gap > gap


def test_all_forms_are_one_law_of_x(generator):
    model = random_model(generator)
    forms = physical(model), *(innovations(model, f) for f in (1.0, 0.5, 0.01))
    rates = [form.bound(form.best_filter()).entropy_rate for form in forms]
    torch.testing.assert_close(torch.tensor(rates), torch.full((4,), rates[0]), rtol=1e-10, atol=0)
    x = torch.zeros(1, 120, 2).double()  # the covariances of the filter do not depend on what it sees
    predicted = model.filter(x).predicted.cov[0, -1]
    F = model.C @ predicted @ model.C.mT + model.R
    assert rates[0] == pytest.approx(float(torch.distributions.MultivariateNormal(x[0, 0], F).entropy()), rel=1e-10)


def test_all_forms_have_the_autocovariances_of_the_model(generator):
    model = random_model(generator)
    forms = [physical(model), *(innovations(model, share) for share in (1.0, 0.5, 0.01))]
    first, *others = [torch.stack([autocovariance(form, lag) for lag in range(4)]) for form in forms]
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)


def autocovariance(form, lag):
    """Cov(x_{t+lag}, x_t) = C A^{lag-1} Cov(h_{t+1}, x_t), from Cov(h_t)."""
    h = lyapunov(form.A, form.E @ form.W @ form.E.mT)
    if lag == 0:
        return form.C @ h @ form.C.mT + form.D @ form.W @ form.D.mT + form.N
    next_with_x = form.A @ h @ form.C.mT + form.E @ form.W @ form.D.mT
    return form.C @ torch.linalg.matrix_power(form.A, lag - 1) @ next_with_x


def test_the_gap_of_innovations_vanishes_with_the_noise_left_to_the_decoder(generator):
    """In proportion to f, while the rate grows by p / 2 nats per factor e."""
    model = random_model(generator)
    gaps, rates = [], []
    for share in (1e-2, 1e-3, 1e-4):
        form = innovations(model, share)
        gaps.append(form.best_filtering_gap())
        rates.append(form.bound(form.best_filter()).rate)
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(10, rel=0.01)
    assert rates[2] - rates[1] == pytest.approx(math.log(10), rel=0.01)  # p = 2


def test_the_gap_of_a_finite_sequence_settles_to_the_steady_one(generator):
    model = random_model(generator)
    gaps = filtering_gap(model, torch.ones(1, 120, 2, dtype=torch.bool))
    assert float(gaps[0, 60]) == pytest.approx(physical(model).best_filtering_gap(), rel=1e-9)
    assert gaps[0, -1] == 0  # nothing comes after the last row


def test_the_gap_is_what_simulated_rows_lose(generator):
    """Exact bounds of the best filter on rows of the model itself, with gaps in them, against the closed form."""
    model, N = random_model(generator), 10_000
    action = normal(generator, 1, 6, 2).expand(N, -1, -1)
    _, x = model.simulate(action, generator)
    x[:, 0, 1] = x[:, 2] = torch.nan
    q = best_filter(model, x, action)
    gap = (model.log_evidence(x, action) - model.elbo(q, x, action)).sum(1)
    expected = filtering_gap(model, ~torch.isnan(x[:1])).sum()
    assert expected > 0.1
    assert (gap.mean() - expected).abs() < 4 * gap.std() / N**0.5


def test_no_other_filter_does_better_on_simulated_rows(generator):
    model, N = random_model(generator), 4000
    x, action = model.simulate(torch.zeros(N, 6, 2).double(), generator)[1], torch.zeros(N, 6, 2).double()
    q = best_filter(model, x, action)
    best = model.elbo(q, x, action).sum(1)
    mean = model.filter(x, action).filtered.mean  # all that a filter may know
    for _ in range(10):
        change = torch.einsum("tij,btj->bti", 0.05 * normal(generator, 6, 3, 3), mean)
        F = q.F + 0.05 * normal(generator, 6, 3, 3)
        V = q.V * (0.1 * normal(generator, 6, 1, 1)).exp()
        other = model.elbo(dataclasses.replace(q, F=F, f=q.f + change, V=V), x, action).sum(1)
        lost = best - other
        assert lost.mean() > 3 * lost.std() / N**0.5


def test_the_best_filter_does_not_look_ahead(generator):
    model = random_model(generator)
    x, action = random_rows(model, generator, missing=False)
    later = x.clone()
    later[:, 3:] += 10.0
    q, other = best_filter(model, x, action), best_filter(model, later, action)
    torch.testing.assert_close(q.f[:, :3], other.f[:, :3], **EXACT)
    torch.testing.assert_close(q.F, other.F, **EXACT)
    assert (q.f[:, 3:] - other.f[:, 3:]).abs().max() > 0.1


def test_the_best_filter_is_a_proposal(generator):
    """Drawn through the Protocol, its bound is the exact one."""
    model, N = random_model(generator), 10_000
    x, action = random_rows(model, generator, B=2, missing=False)
    q = best_filter(model, x, action)
    weights = log_weights(model.given(x, action, proposal=q), q.sample(N, generator)).sum(-1)
    error = weights.std(0) / N**0.5
    assert ((weights.mean(0) - model.elbo(q, x, action).sum(1)).abs() < 4 * error).all()


def test_what_has_no_steady_state_is_refused(generator):
    model = random_model(generator)
    with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\], got 0"):
        innovations(model, 0)
    form = physical(model)
    best = form.best_filter()
    with pytest.raises(ValueError, match="q: expected a stable error e_t"):
        form.bound(StationaryFilter(best.U, -5 * torch.eye(3).double(), best.V))
    blind = dataclasses.replace(model, A=2 * torch.eye(3).double(), C=torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match="model: expected a steady state"):
        physical(blind).belief()
