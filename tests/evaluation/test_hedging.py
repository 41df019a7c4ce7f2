"""Imagination hedged by the marginal: the share that is learned, from other episodes, and what it protects from."""

import math

import pytest
import torch

from worldmodel.evaluation.hedging import hedged_nll, marginal_share


def test_the_share_is_that_of_the_most_probable_mixture_on_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    model, marginal = (3 * torch.randn(40, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    found = marginal_share(model, marginal)
    w = torch.linspace(1e-4, 1 - 1e-4, 9999, dtype=torch.float64)[:, None, None]
    posterior = (
        ((1 - w) * (-model).exp() + w * (-marginal).exp()).log().sum(1) + w[..., 0].log() + (1 - w[..., 0]).log()
    )
    best = w[posterior.argmax(0), 0, 0]
    torch.testing.assert_close(found, best, rtol=0, atol=2e-4)
    assert found.min() < 0.5 - 1e-2 and found.std() > 1e-2  # of five different columns


def test_it_is_the_share_of_futures_that_the_model_lost_smoothed_by_one_each():
    model = torch.tensor([[-8.0]] * 17 + [[60_000.0]] * 3, dtype=torch.float64)
    marginal = torch.full_like(model, 4.0)
    assert abs(marginal_share(model, marginal).item() - (3 + 1) / (20 + 2)) < 1e-3
    assert abs(marginal_share(model[:17], marginal[:17]).item() - 1 / 19) < 1e-3  # never seen, not impossible


def test_a_lost_future_costs_the_marginal_and_its_surprise_and_teaches_no_future_of_its_own_episode():
    episode = torch.tensor([0, 0, 1, 1, 2, 2])
    model, marginal = torch.full((6, 2), -8.0, dtype=torch.float64), torch.full((6, 2), 4.0, dtype=torch.float64)
    model[0, 1] = 60_000.0
    found = hedged_nll(model, marginal, episode)
    share = marginal_share(model[2:], marginal[2:])[1]  # of the two other episodes, of which none was lost
    assert abs(found[0, 1] - (4 - share.log())) < 1e-6
    assert abs(share - 1 / 6) < 1e-3
    assert abs(found[1, 1] - (-8 - torch.log1p(-share))) < 1e-3
    others = marginal_share(torch.cat([model[:2], model[4:]]), torch.cat([marginal[:2], marginal[4:]]))[1]
    assert others > 1.5 * share
    assert abs(found[2, 1] + 8 + torch.log1p(-others)) < 1e-3
    assert found[:, 1].mean() < 4 < model[:, 1].mean()


def test_where_nothing_is_lost_it_costs_next_to_nothing():
    episode = torch.arange(100)
    model, marginal = torch.full((100, 1), -8.0, dtype=torch.float64), torch.full((100, 1), 4.0, dtype=torch.float64)
    found = hedged_nll(model, marginal, episode)
    assert 0 < (found - model).max() < 2 / math.sqrt(len(model)) / 5


def test_futures_of_one_episode_cannot_be_hedged():
    with pytest.raises(ValueError, match="episode: expected futures of two episodes or more, got those of one"):
        hedged_nll(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
