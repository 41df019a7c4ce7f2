"""The critic's bins: the mean of a fit is the mean of its targets, which the density over the same bins misses."""

import copy

import pytest
import torch

from worldmodel.behaviour.critic import BinnedValue, Critic, critic_loss, move_towards, two_hot
from worldmodel.models.likelihoods import symexp_bins

BINS = symexp_bins(63, 10.0).double()


def fitted(targets, loss, bins=63):
    """The logits that minimise the mean loss over the targets, by LBFGS."""
    logits = torch.zeros(bins, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand(len(targets), -1), targets).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def cross_entropy(logits, targets):
    return BinnedValue(logits, BINS).cross_entropy(targets)


def test_a_two_hot_target_has_the_number_as_its_mean_and_two_entries(generator):
    x = 200 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    target = two_hot(x, BINS)
    torch.testing.assert_close((target * BINS).sum(-1), x)
    assert (target > 0).sum(-1).eq(2).all() and target.min() == 0
    torch.testing.assert_close(target.sum(-1), torch.ones_like(x))
    index = target.argmax(-1)  # the two are neighbours around x
    assert ((BINS[(index - 1).clamp(min=0)] <= x) & (x <= BINS[(index + 1).clamp(max=62)])).all()


def test_a_number_on_a_bin_is_one_hot_and_one_beyond_is_clamped():
    target = two_hot(torch.cat([BINS[[0, 31, 40, 62]], torch.tensor([-1e9, 1e9], dtype=torch.float64)]), BINS)
    assert torch.equal(target, torch.eye(63, dtype=torch.float64)[[0, 31, 40, 62, 0, 62]])


@pytest.mark.parametrize(
    "targets", [[1.0], [100.0], [-8.0], [0.3], [-200.0, 500.0, 500.0], [0.0, 10.0], [1.0, 1.3, -40.0]]
)
def test_the_mean_of_a_fit_is_the_mean_of_the_targets(targets):
    targets = torch.tensor(targets, dtype=torch.float64)
    mean = BinnedValue(fitted(targets, cross_entropy), BINS).mean
    torch.testing.assert_close(mean, targets.mean(), rtol=1e-2, atol=1e-3)


def test_the_gradient_of_the_loss_is_probabilities_minus_target(generator):
    logits = torch.randn(5, 63, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    (got,) = torch.autograd.grad(BinnedValue(logits, BINS).cross_entropy(x).sum(), logits)
    torch.testing.assert_close(got, logits.softmax(-1) - two_hot(x, BINS))


def test_a_critic_starts_at_zero_in_float32_even_where_the_outer_bins_are_huge():
    critic = Critic(4, bins=255, limit=20.0)
    assert critic(torch.randn(3, 5, 4)).mean.abs().max() < 1e-3  # of bins up to 5e8
    assert critic(torch.randn(3, 5, 4)).mean.shape == (3, 5)


def test_the_loss_holds_the_critic_to_the_returns_and_to_its_slow_self(generator):
    value = BinnedValue(torch.randn(4, 3, 63, generator=generator, dtype=torch.float64), BINS)
    returns, slow = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    got = critic_loss(value, returns, slow)
    log_probs = value.logits.log_softmax(-1)
    torch.testing.assert_close(got.to_returns, -(two_hot(returns, BINS) * log_probs).sum(-1))
    torch.testing.assert_close(got.to_slow, -(two_hot(slow, BINS) * log_probs).sum(-1))


def test_the_slow_critic_is_a_moving_average(generator):
    fast = Critic(2, units=3)
    slow = copy.deepcopy(fast)
    start = [p.clone() for p in fast.parameters()]
    with torch.no_grad():
        for p in fast.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    for _ in range(3):
        move_towards(slow, fast, 0.02)
    for old, now, new in zip(start, slow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(now, new + 0.98**3 * (old - new))


@pytest.mark.parametrize("wrong", [{"bins": 62}, {"limit": 0.0}, {"layers": 0}])
def test_an_impossible_critic_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Critic(4, **wrong)
