"""Gradients through categorical samples against enumeration: which are exact, for which functions, and where."""

import itertools

import pytest
import torch
from torch.nn.functional import one_hot

from worldmodel.models import decoder, likelihoods
from worldmodel.models.latents import CategoricalFamily
from worldmodel.objectives.batch_bound import bound_and_loss, sampled_bound
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Objective
from worldmodel.objectives.marginal import with_marginal_gradient
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, State
from worlds import MIXED_SPEC, make_batch, make_model

S, K = 2, 3
CODES = torch.stack(
    [one_hot(torch.tensor(code), K).double().flatten() for code in itertools.product(range(K), repeat=S)]
)  # [K^S, Z]


def linear(z):
    return z @ torch.linspace(-1, 2, S * K, dtype=torch.float64)


def quadratic(z):
    matrix = torch.sin(torch.arange((S * K) ** 2, dtype=torch.float64)).view(S * K, S * K)
    return torch.einsum("...i,ij,...j->...", z, matrix, z) + linear(z)


def saturating(z):
    """A log-likelihood: near zero at some codes, and flat there."""
    return torch.nn.functional.logsigmoid(4 * quadratic(z))


def exact_gradient(function, logits):
    q = CategoricalFamily(S, K, 0.01).distribution(logits)
    mass = q.log_prob(CODES).sum(-1).exp()
    return torch.autograd.grad((mass * function(CODES)).sum(), logits)[0]


def expected_estimate(gradient, function, logits):
    """The mean of the estimate over every sample that there can be: noise that forces each code, weighed with it."""
    q = CategoricalFamily(S, K, 0.01, gradient).distribution(logits.expand(len(CODES), -1))
    if gradient == "marginal":
        z = CODES[:, None]  # [B, T = 1, Z]
        rows = CategoricalFamily(S, K, 0.01).distribution(logits.expand(len(CODES), 1, -1))
        none = torch.zeros(len(CODES), 1, S, dtype=torch.float64)
        bound = Bound({"x": function(z)}, none, torch.ones(len(CODES), 1, dtype=torch.bool))
        value = with_marginal_gradient(bound, rows, z, lambda other: {"x": function(other)}).reconstruction[:, 0]
        torch.testing.assert_close(value, function(CODES), rtol=0, atol=0)
    else:
        forced = torch.where(CODES.unflatten(-1, (S, K)) == 1, 1 - 1e-15, 1e-300).double()
        z = q.rsample(forced)
        torch.testing.assert_close(z.detach(), CODES, rtol=0, atol=1e-15)
        value = function(z)
    mass = q.log_prob(CODES).sum(-1).exp().detach()
    return torch.autograd.grad((mass * value).sum(), logits)[0]


@pytest.fixture
def logits():
    return torch.tensor([0.3, -0.8, 1.1, 0.2, 0.9, -0.4], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("gradient", "function"),
    [
        ("straight_through", linear),
        ("reinmax", linear),
        ("reinmax", quadratic),
        ("marginal", linear),
        ("marginal", quadratic),
        ("marginal", saturating),
    ],
)
def test_the_mean_of_the_estimate_is_the_gradient_of_the_expectation(gradient, function, logits):
    got, expected = expected_estimate(gradient, function, logits), exact_gradient(function, logits)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("gradient", "function"),
    [("straight_through", quadratic), ("straight_through", saturating), ("reinmax", saturating)],
)
def test_beyond_that_an_estimate_is_biased(gradient, function, logits):
    """So the test above could fail; and a summed likelihood is what a saturating one needs."""
    got, expected = expected_estimate(gradient, function, logits), exact_gradient(function, logits)
    assert (got - expected).norm() > 0.03 * expected.norm()


def test_a_code_that_explains_the_row_is_held_by_the_summed_likelihood_alone():
    """A posterior and a decoder that are nearly sure: the tangent is blind to what another class would cost."""
    logits = torch.tensor([4.0, 0.0, 0.0, 4.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    right = CODES[0]
    confident = lambda z: torch.nn.functional.logsigmoid(8 * (z @ right) - 10)  # noqa: E731
    exact = exact_gradient(confident, logits)
    blind = expected_estimate("straight_through", confident, logits)
    assert blind.norm() < 0.6 * exact.norm()
    torch.testing.assert_close(expected_estimate("marginal", confident, logits), exact, rtol=1e-10, atol=1e-12)


def small_model(gradient):
    return make_model(MIXED_SPEC, CategoricalFamily(1, 3, 0.01, gradient)).double()


def bound_of(model, batch, seed=0):
    return sampled_bound(model, batch, torch.Generator().manual_seed(seed))


def test_a_model_has_the_same_bound_whatever_the_gradient():
    batch = make_batch(MIXED_SPEC, dtype=torch.float64)
    bounds = {gradient: bound_of(small_model(gradient), batch) for gradient in ("straight_through", "marginal")}
    assert torch.equal(bounds["marginal"].elbo, bounds["straight_through"].elbo)


def test_the_posterior_of_one_row_gets_the_exact_gradient_from_one_sample():
    model, batch = small_model("marginal"), make_batch(MIXED_SPEC, length=1, first=(), dtype=torch.float64)
    head = list(model.dynamics.posterior_rest.parameters())
    got = torch.autograd.grad(bound_of(model, batch).elbo.sum(), head)

    _, deter = model.dynamics.step(model.dynamics.initial(3), batch.prev_action[:, 0], batch.is_first[:, 0])
    q = model.dynamics.posterior(deter.detach(), model.dynamics.project(model.embed_sequence(batch)[:, 0]))
    targets = {name: x[:, 0] for name, x in model.targets(batch).items() if name != "reward"}
    expected = -q.kl(model.dynamics.prior(deter)).sum()
    for code in torch.eye(3, dtype=torch.float64):
        z = code.expand(3, 3)
        decoded = model.decode(State(deter, z))
        value = sum(decoded[name].log_prob(x) for name, x in targets.items())
        expected = expected + (q.log_prob(z)[:, 0].exp() * value.detach()).sum()
    for one, other in zip(got, torch.autograd.grad(expected, head), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_one_group_has_the_same_alternatives_for_every_row_and_no_memory_for_each():
    family = CategoricalFamily(1, K, 0.01)
    z = torch.eye(K)[torch.tensor([[0, 2], [1, 1]])]
    found = family.distribution(torch.zeros(2, 2, K)).alternatives(z)
    assert found.stride()[1:3] == (0, 0)
    assert torch.equal(found, torch.eye(K)[:, None, None].expand(K, 2, 2, K))


def gradients_of(model, batch, objective):
    bound, loss = bound_and_loss(model, batch, objective, torch.Generator().manual_seed(0))
    return bound, torch.autograd.grad(loss.value, list(model.parameters()), allow_unused=True)


BITS = EnvSpec({"bits": ObservationSpec("binary", (3,))}, ActionSpec("continuous", 1))
FREE = {"reward": 0.0, "continue": 0.0}


@pytest.mark.parametrize("reads", ["state", "stoch"])
def test_decoding_what_was_expanded_once_changes_no_gradient(reads, monkeypatch):
    model = make_model(BITS, CategoricalFamily(1, 3, 0.01, "marginal"), reads=reads).double()
    batch = make_batch(BITS, dtype=torch.float64)
    bound, once = gradients_of(model, batch, Objective(scales=FREE))
    for module in (decoder, likelihoods):
        monkeypatch.setattr(module, "without_copies", lambda x: x)
    other, each = gradients_of(model, batch, Objective(scales=FREE))
    torch.testing.assert_close(bound.elbo, other.elbo, rtol=0, atol=0)
    for one, two in zip(once, each, strict=True):
        if one is None:
            assert two is None
            continue
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_what_counts_for_nothing_in_the_loss_is_not_decoded_at_every_class(monkeypatch):
    model = small_model("marginal")
    batch = make_batch(MIXED_SPEC, dtype=torch.float64)
    bound, got = gradients_of(model, batch, Objective(scales=FREE))
    asked, decode = [], model.decode
    monkeypatch.setattr(model, "decode", lambda state, names=None: asked.append(names) or decode(state, names))
    again, same = gradients_of(model, batch, Objective(scales=FREE))
    assert asked[-1] == list(MIXED_SPEC.observations)
    assert set(bound.log_likelihood) == {*MIXED_SPEC.observations, "reward", "continue"}
    assert torch.equal(bound.elbo, again.elbo)
    for one, two in zip(got, same, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
