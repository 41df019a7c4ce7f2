"""Scoring rules against closed forms, numerical integrals and their own definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from worldmodel.evaluation import scoring_rules as rules

STANDARD_ERRORS = 4.5  # two-sided: a false alarm in 150,000 comparisons; seeds are fixed


def assert_mean(values, expected):
    """The mean of independent values is what it should be, within its own standard errors."""
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < STANDARD_ERRORS * error, (values.mean(), expected, error)


def gaussian(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_mixture_is_the_mean_of_the_densities(generator):
    log_prob = gaussian(5, 3, generator=generator)
    expected = -np.log(np.exp(log_prob.numpy()).mean(0))
    torch.testing.assert_close(rules.mixture_nll(log_prob), torch.from_numpy(expected))
    far = rules.mixture_nll(log_prob - 1e5)  # every density underflows, the mixture's logarithm does not
    torch.testing.assert_close(far, rules.mixture_nll(log_prob) + 1e5)


@pytest.mark.parametrize("N", [2, 3, 17])
def test_crps_from_draws_is_its_definition_over_all_pairs(N, generator):
    draws, x = gaussian(N, 4, generator=generator), gaussian(4, generator=generator)
    pairs = (draws[:, None] - draws[None]).abs().sum((0, 1)) / (N * (N - 1))
    torch.testing.assert_close(rules.sample_crps(draws, x), (draws - x).abs().mean(0) - pairs / 2)


@pytest.mark.parametrize("N", [2, 16])
def test_crps_from_few_draws_is_unbiased_for_the_closed_form(N, generator):
    mean, std, x = 0.3, 0.8, 1.1
    draws = mean + std * gaussian(N, 40_000, generator=generator)
    closed = rules.gaussian_crps(torch.tensor(mean), torch.tensor(std), torch.tensor(x)).item()
    assert_mean(rules.sample_crps(draws, torch.full((40_000,), x, dtype=torch.float64)).numpy(), closed)


@pytest.mark.parametrize(("mean", "std", "x"), [(0.0, 1.0, 0.0), (0.3, 0.8, 1.1), (-2.0, 0.1, 3.0)])
def test_the_closed_form_of_the_gaussian_is_the_integral_over_thresholds(mean, std, x):
    below = quad(lambda y: norm.cdf(y, mean, std) ** 2, mean - 40 * std, x, points=[mean] if mean < x else None)[0]
    above = quad(lambda y: norm.sf(y, mean, std) ** 2, x, x + 40, limit=200)[0]
    got = rules.gaussian_crps(*(torch.tensor(v, dtype=torch.float64) for v in (mean, std, x)))
    assert got.item() == pytest.approx(below + above, rel=1e-6)


def test_gaussian_nats_are_the_density(generator):
    mean, x = gaussian(2, 6, generator=generator)
    std = mean.abs() + 0.1
    expected = -norm.logpdf(x.numpy(), mean.numpy(), std.numpy())
    torch.testing.assert_close(rules.gaussian_nll(mean, std, x), torch.from_numpy(expected))


@pytest.mark.parametrize("N", [2, 16, 19, 50])
def test_a_prediction_that_is_right_covers_nine_in_ten_however_few_its_draws(N, generator):
    draws, x = gaussian(N, 30_000, generator=generator), gaussian(30_000, generator=generator)
    assert_mean(rules.rank_coverage(draws, x).numpy(), 0.9)


def test_too_narrow_predictions_cover_less_and_too_wide_ones_more(generator):
    draws, x = gaussian(40, 5_000, generator=generator), gaussian(5_000, generator=generator)
    narrow, wide = (rules.rank_coverage(factor * draws, x).mean().item() for factor in (0.5, 2.0))
    assert narrow == pytest.approx(2 * norm.cdf(0.5 * rules.HALF_WIDTH) - 1, abs=0.03)
    assert wide == pytest.approx(2 * norm.cdf(2 * rules.HALF_WIDTH) - 1, abs=0.01)


@pytest.mark.parametrize(("coverage", "factor"), [(0.5, 1.0), (0.5, 0.5), (0.8, 2.0)])
def test_other_central_parts_are_covered_as_a_known_gaussian_prediction_has_it(coverage, factor, generator):
    draws, x = gaussian(400, 4_000, generator=generator), gaussian(4_000, generator=generator)
    expected = 2 * norm.cdf(factor * norm.ppf((1 + coverage) / 2)) - 1
    found = rules.rank_coverage(factor * draws, x, coverage).mean().item()
    assert found == pytest.approx(expected, abs=4 * 0.5 / 4_000**0.5)


def test_nineteen_draws_cover_from_the_least_to_the_greatest(generator):
    draws = gaussian(19, 200, generator=generator)
    x = 2 * gaussian(200, generator=generator)
    inside = (draws.min(0).values < x) & (x < draws.max(0).values)
    torch.testing.assert_close(rules.rank_coverage(draws, x), inside.double(), atol=1e-12, rtol=0)
    outside = rules.rank_coverage(draws[:16], torch.full((200,), 1e9, dtype=torch.float64))
    torch.testing.assert_close(outside, torch.full((200,), 1 - 17 / 20, dtype=torch.float64))


def test_gaussian_coverage_is_the_share_inside_the_central_nine_tenths(generator):
    x = 1.5 + 0.2 * gaussian(30_000, generator=generator)
    assert_mean(rules.gaussian_coverage(torch.tensor(1.5), torch.tensor(0.2), x).numpy(), 0.9)
    assert pytest.approx(norm.ppf(0.95)) == rules.HALF_WIDTH


def test_bootstrap_samples_hold_as_many_episodes_as_there_are(generator):
    counts = rules.resample(7, generator, draws=500)
    assert counts.shape == (500, 7)
    assert counts.sum(1).eq(7).all()
    assert_mean(counts[:, 3].double().numpy(), 1.0)
    again = rules.resample(7, torch.Generator().manual_seed(0), draws=500)
    assert torch.equal(counts, again)


def test_the_interval_is_the_central_nine_tenths_of_the_mean_of_episodes(generator):
    total = gaussian(400, 3, generator=generator)
    curve = rules.bootstrap(total, torch.ones(400, dtype=torch.long), rules.resample(400, generator))
    np.testing.assert_allclose(curve.mean, total.mean(0))
    error = total.std(0).numpy() / math.sqrt(400)
    np.testing.assert_allclose(curve.high - curve.mean, norm.ppf(0.95) * error, rtol=0.2)
    np.testing.assert_allclose(curve.mean - curve.low, norm.ppf(0.95) * error, rtol=0.2)


def test_an_episode_counts_by_its_futures_and_one_alone_has_no_interval(generator):
    total, count = torch.tensor([[2.0], [30.0]]), torch.tensor([1, 3])
    curve = rules.bootstrap(total, count, rules.resample(2, generator))
    assert curve.mean == pytest.approx(32 / 4)
    assert (curve.low, curve.high) == (2.0, 10.0)  # one of four samples is one of the two episodes alone
    alone = rules.bootstrap(total[:1], count[:1], rules.resample(1, generator))
    assert alone.mean == 2.0 and np.isnan(alone.low).all() and np.isnan(alone.high).all()
