"""Returns against closed forms and an independent recursion; the scale against numpy's weighted quantiles."""

import numpy as np
import pytest
import torch

from worldmodel.behaviour.returns import ReturnScale, discount_weights, lambda_return, weighted_quantiles


def random_trajectory(horizon, batch=3):
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(batch, horizon, generator=generator, dtype=torch.float64)
    value = torch.randn(batch, horizon + 1, generator=generator, dtype=torch.float64)
    return reward, value, torch.rand(batch, horizon, generator=generator, dtype=torch.float64)


def n_step(reward, value, discount, t, n):
    """r_{t+1} + d_{t+1} r_{t+2} + ... + (d_{t+1} .. d_{t+n}) v_{t+n}, for one trajectory."""
    total, weight = 0.0, 1.0
    for k in range(t, t + n):
        total, weight = total + weight * reward[k], weight * discount[k]
    return total + weight * value[t + n]


def test_lambda_one_is_the_discounted_sum():
    reward, value, discount = random_trajectory(horizon=7)
    target = lambda_return(reward, value, discount, lam=1.0)
    weight = torch.cumprod(discount, -1)
    expected = reward[:, 0] + (weight[:, :-1] * reward[:, 1:]).sum(-1) + weight[:, -1] * value[:, -1]
    torch.testing.assert_close(target[:, 0], expected)


def test_lambda_zero_looks_one_step_ahead():
    reward, value, discount = random_trajectory(horizon=7)
    torch.testing.assert_close(lambda_return(reward, value, discount, 0.0), reward + discount * value[:, 1:])


def test_a_lambda_between_is_the_weighted_mean_of_all_n_step_returns():
    reward, value, discount = random_trajectory(horizon=5)
    lam = 0.7
    for t in range(5):
        left = 5 - t
        shares = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
        terms = [n_step(reward[1], value[1], discount[1], t, n) for n in range(1, left + 1)]
        expected = sum(share * term for share, term in zip(shares, terms, strict=True))
        torch.testing.assert_close(lambda_return(reward, value, discount, lam)[1, t], expected)


def test_nothing_behind_the_end_reaches_what_lies_before_it():
    reward, value, discount = random_trajectory(horizon=6)
    discount[:, 2] = 0.0
    changed = reward.clone(), value.clone(), discount.clone()
    changed[0][:, 3:], changed[1][:, 3:], changed[2][:, 3:] = 9.0, -9.0, 0.5
    before = lambda_return(reward, value, discount, 0.95)[:, :3]
    torch.testing.assert_close(lambda_return(*changed, 0.95)[:, :3], before, rtol=0, atol=0)
    assert torch.equal(before[:, 2], reward[:, 2])


def test_the_gradient_of_a_return_is_that_of_its_formula():
    inputs = [x.requires_grad_() for x in random_trajectory(horizon=4)]
    assert torch.autograd.gradcheck(lambda r, v, d: lambda_return(r, v, d, 0.8), inputs)


@pytest.mark.parametrize(
    ("value", "discount", "lam"), [((3, 7), (3, 7), 0.9), ((3, 8), (3, 6), 0.9), ((3, 8), (3, 7), 1.1)]
)
def test_returns_of_horizons_that_disagree_are_refused(value, discount, lam):
    with pytest.raises(ValueError, match="expected"):
        lambda_return(torch.zeros(3, 7), torch.zeros(value), torch.zeros(discount), lam)


def test_weights_are_cumulative_products_and_zero_behind_an_end():
    discount = torch.tensor([[0.9, 0.8, 0.5], [0.9, 0.0, 0.9], [0.9, 0.9, 0.9]])
    start = torch.tensor([1.0, 1.0, 0.0])
    expected = torch.tensor([[1.0, 0.9, 0.72], [1.0, 0.9, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(discount_weights(discount, start), expected)
    torch.testing.assert_close(discount_weights(discount)[2], torch.tensor([1.0, 0.9, 0.81]))


def test_weighted_quantiles_are_numpys(generator):
    x = torch.randn(40, 3, generator=generator)
    weight = torch.rand(40, 3, generator=generator) * (torch.rand(40, 3, generator=generator) > 0.3)
    shares = (0.05, 0.5, 0.95)
    expected = np.quantile(x.flatten(), shares, weights=weight.flatten().double(), method="inverted_cdf")
    np.testing.assert_array_equal(torch.stack(weighted_quantiles(x, weight, shares)), expected)


def test_the_scale_is_the_average_range_of_the_returns(generator):
    scale, low, high = ReturnScale(decay=0.9), 0.0, 0.0
    assert scale() == 1.0
    for update in range(1, 6):
        returns = 10 * update * torch.randn(50, 4, generator=generator)
        scale.update(returns, torch.ones_like(returns))
        now = np.quantile(returns.flatten(), (0.05, 0.95), method="inverted_cdf")
        low, high = 0.9 * low + 0.1 * now[0], 0.9 * high + 0.1 * now[1]
        assert scale().item() == pytest.approx((high - low) / (1 - 0.9**update), rel=1e-5)


def test_small_returns_are_not_blown_up():
    scale = ReturnScale()
    scale.update(torch.linspace(0, 0.1, 20), torch.ones(20))
    assert scale() == 1.0


def test_returns_without_weight_do_not_count():
    scale = ReturnScale()
    scale.update(torch.linspace(0, 100, 101), torch.ones(101))
    before = scale().clone()
    scale.update(torch.full((4,), 1e6), torch.zeros(4))
    assert scale() == before


def test_a_checkpoint_holds_the_scale():
    scale, again = ReturnScale(), ReturnScale()
    scale.update(torch.linspace(0, 100, 101), torch.ones(101))
    again.load_state_dict(scale.state_dict())
    assert again() == scale() == pytest.approx(90.0)


@pytest.mark.parametrize("wrong", [{"low": 0.9, "high": 0.1}, {"decay": 1.0}, {"least": 0.0}])
def test_an_impossible_scale_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        ReturnScale(**wrong)
