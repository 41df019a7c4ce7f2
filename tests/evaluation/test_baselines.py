"""Baselines against independent formulas, row by row."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from worldmodel.evaluation.baselines import baseline_scores, change_by_lag, fit_baselines
from worldmodel.models.encoder import as_numbers
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

HORIZON = 4


@pytest.fixture(scope="module")
def vector():
    rows = make_batch(batch=5, length=20, first=((1, 3), (2, 11)))
    return rows, fit_baselines(make_model(), rows, HORIZON)


@pytest.fixture(scope="module")
def mixed():
    rows = make_batch(MIXED_SPEC, batch=4, length=9)
    return rows, fit_baselines(make_model(MIXED_SPEC), rows, HORIZON)


def test_the_marginal_of_a_vector_is_a_gaussian_and_no_reward_of_a_first_row_counts(vector):
    rows, fitted = vector
    x = rows.obs["obs"].numpy().reshape(-1, 3)
    np.testing.assert_allclose(fitted["obs"].mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(fitted["obs"].std, x.std(0, ddof=1), rtol=1e-5)
    rewards = rows.reward[~rows.is_first].numpy()
    np.testing.assert_allclose(fitted["reward"].mean, rewards.mean(), rtol=1e-4)
    np.testing.assert_allclose(fitted["reward"].std, rewards.std(ddof=1), rtol=1e-5)


def test_the_change_over_a_lag_is_taken_within_episodes(vector):
    rows, fitted = vector
    x, episode = rows.obs["obs"].double().numpy(), rows.is_first.cumsum(1).numpy()
    for h in range(1, HORIZON + 1):
        changes = [x[b, t + h] - x[b, t] for b in range(5) for t in range(20 - h) if episode[b, t] == episode[b, t + h]]
        np.testing.assert_allclose(fitted["obs"].lag_std[h - 1], np.sqrt(np.square(changes).mean(0)), rtol=1e-5)


def test_a_lag_longer_than_every_episode_keeps_the_last_spread():
    x = torch.tensor([[[0.0], [1.0], [5.0], [7.0]]])
    is_first = torch.tensor([[True, False, True, False]])
    spread = change_by_lag(x, torch.ones_like(is_first), is_first, 3)[:, 0]
    assert spread.tolist() == pytest.approx([np.sqrt((1 + 4) / 2)] * 3)
    alone = change_by_lag(x, torch.ones_like(is_first), torch.ones_like(is_first), 2)
    assert alone.eq(0).all()


def test_the_scores_of_gaussian_baselines_are_those_of_their_densities(vector):
    _, fitted = vector
    target = make_batch(batch=2, length=1 + HORIZON, first=(), seed=7).obs["obs"]
    got = baseline_scores(fitted, "obs", target)
    last, x = target[:, :1].double().numpy(), target[:, 1:].double().numpy()
    unit = fitted["obs"].std.double().numpy()
    for method, mean, std in (
        ("repeat_last", last, fitted["obs"].lag_std.double().numpy()),
        ("marginal", fitted["obs"].mean.double().numpy(), unit),
    ):
        scores = got[method]
        np.testing.assert_allclose(scores["nll"], -norm.logpdf(x, mean, std).sum(-1), rtol=1e-4)
        np.testing.assert_allclose(scores["squared_error"], np.square((x - mean) / unit).mean(-1), rtol=1e-4)
        inside = np.abs(norm.cdf(x, mean, std) - 0.5) < 0.45
        np.testing.assert_allclose(scores["coverage"], inside.mean(-1), rtol=1e-6)
        z = (x - mean) / std
        crps = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
        np.testing.assert_allclose(scores["crps"], (crps / unit).mean(-1), rtol=1e-4)


def test_what_never_changes_has_the_resolution_for_a_std():
    rows = make_batch()
    rows.obs["obs"][..., 0] = 3.0
    baseline = fit_baselines(make_model(), rows, HORIZON)["obs"]
    target = torch.full((1, 1, 3), 3.0)
    target[..., 1:] = baseline.mean[1:]
    expected = -norm.logpdf(0, 0, 0.01) - norm.logpdf(0, 0, baseline.std[1:].double()).sum()
    assert baseline.marginal(target)["nll"].item() == pytest.approx(expected, rel=1e-5)
    assert baseline.unit[0] == 1


def test_frequencies_of_classes_bits_and_levels_are_counted_and_sum_to_one(mixed):
    rows, fitted = mixed
    n = 4 * 9
    camera = rows.obs["camera"].numpy().reshape(n, -1)
    cases = {
        "cards": (rows.obs["cards"].numpy().reshape(n, 2), (3, 4)),
        "lamps": (rows.obs["lamps"].numpy().reshape(n, 2), (2, 2)),
        "camera": (camera[:, :5], (256,) * 5),
        "continue": (1 - rows.is_terminal.numpy().reshape(n, 1).astype(int), (2,)),
    }
    for name, (x, levels) in cases.items():
        for v, k in enumerate(levels):
            expected = (np.bincount(x[:, v], minlength=k) + 1 / k) / (n + 1)
            mass = fitted[name].log_mass[v, :k].double().exp()
            np.testing.assert_allclose(mass, expected, rtol=1e-4)
            assert mass.sum().item() == pytest.approx(1, rel=1e-4)


def test_the_nats_of_a_marginal_are_summed_over_variables_and_its_error_is_shared_by_the_leaf(mixed):
    rows, fitted = mixed
    for name in ("camera", "cards", "lamps"):
        target, baseline = rows.obs[name][:, : 1 + HORIZON], fitted[name]
        scores = baseline_scores(fitted, name, target)
        future = target[:, 1:].long().flatten(2)
        nats = torch.zeros(future.shape[:2])
        for v in range(future.shape[-1]):
            nats -= baseline.log_mass[v][future[..., v]]
        torch.testing.assert_close(scores["marginal"]["nll"], nats, rtol=1e-4, atol=1e-4)
        x = as_numbers(MIXED_SPEC.observations[name], target).flatten(2)
        every = as_numbers(MIXED_SPEC.observations[name], rows.obs[name]).flatten(0, 1).flatten(1)
        total = every.var(0).sum()
        for method, guess in (("repeat_last", x[:, :1]), ("marginal", every.mean(0))):
            expected = (x[:, 1:] - guess).square().sum(-1) / total
            torch.testing.assert_close(scores[method]["squared_error"], expected, rtol=1e-4, atol=1e-5)
        assert scores["repeat_last"].keys() == {"squared_error"}


def test_nothing_learned_is_used():
    rows = make_batch(VECTOR_SPEC)
    one, other = (fit_baselines(make_model(seed=seed), rows, 2)["obs"] for seed in (0, 1))
    assert torch.equal(one.std, other.std) and torch.equal(one.lag_std, other.lag_std)


def test_whole_numbers_have_the_nats_of_their_frequencies_or_of_a_logistic():
    spec = EnvSpec(
        {
            "few": ObservationSpec("integer", (2,), low=(-3, 0), high=(252, 9)),
            "many": ObservationSpec("integer", (1,), low=(-1000,), high=(1000,)),
        },
        ActionSpec("categorical", 3, (3,)),
    )
    model, rows = make_model(spec), make_batch(spec, batch=2, length=30, first=())
    fitted = fit_baselines(model, rows, 3)
    few = torch.cartesian_prod(torch.arange(-3, 253), torch.arange(10))
    nats = fitted["few"].marginal(few[None])["nll"]
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-4)
    often = rows.obs["few"][0, 0].long()
    assert fitted["few"].marginal(often[None, None])["nll"] < fitted["few"].marginal(few[None])["nll"].median()
    many = torch.arange(-1000, 1001)[None, :, None]
    assert (-fitted["many"].marginal(many)["nll"]).exp().sum().item() == pytest.approx(1, abs=1e-4)
    for name in ("few", "many"):
        x = rows.obs[name]
        assert set(fitted[name].repeat_last(x[:, :1], x[:, 1:])) == {"squared_error"}


def test_a_reward_that_is_a_mass_is_not_compared_with_a_density():
    rows = make_batch(first=())
    for reward, metrics in (("gaussian", {"squared_error", "nll", "crps", "coverage"}), ("categorical", None)):
        fitted = fit_baselines(make_model(reward=reward), rows, 3)["reward"]
        expected = metrics or {"squared_error", "crps", "coverage"}
        x = rows.reward[..., None]
        assert set(fitted.marginal(x)) == set(fitted.repeat_last(x[:, :1], x[:, 1:4])) == expected
