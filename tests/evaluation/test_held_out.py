"""KL diagnostics against numbers worked out by hand, and the evaluation of whole episodes against its own parts."""

import dataclasses

import numpy as np
import pytest
import torch

from worldmodel.evaluation.held_out import FRAMES, evaluate, kl_diagnostics, reconstruct, training_kl
from worldmodel.objectives.batch_bound import bound_and_loss
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Objective
from worldmodel.types import State
from worlds import MIXED_SPEC, make_batch, make_model

NAN, PAD = float("nan"), 99.0

# Two sequences of four rows, two latent groups. The second group is all but unused. PAD marks rows that do not count:
# the second sequence has only two rows, and its second row begins another episode.
GROUPS = [[[0.5, 0.0], [1.5, 0.0], [2.5, 0.01], [3.5, 0.01]], [[0.1, 0.01], [5.0, 0.0], [PAD, PAD], [PAD, PAD]]]
VALID = [[True, True, True, True], [True, True, False, False]]
STEPS = [[0, 1, 2, 3], [5, 0, 1, 2]]
# Per row: 0.5, 1.5, 2.51, 3.51 and 0.11, 5.0.
OPTIMISED = [[1.0, 1.5, 2.51, 3.51], [1.0, 5.0, PAD, PAD]]


@pytest.fixture
def kl():
    likelihood = {"obs": torch.zeros(2, 4)}
    bound = Bound(likelihood, torch.tensor(GROUPS, dtype=torch.float64), torch.tensor(VALID))
    return kl_diagnostics(bound, torch.tensor(OPTIMISED, dtype=torch.float64), torch.tensor(STEPS), free_nats=2.0)


def test_kl_by_position_is_the_mean_over_the_sequences_that_have_a_row_there(kl):
    np.testing.assert_allclose(kl.by_position, [0.305, 3.25, 2.51, 3.51])
    np.testing.assert_allclose(kl.optimised_by_position, [1.0, 3.25, 2.51, 3.51])


def test_kl_by_episode_step_goes_by_the_reset_and_is_nan_where_no_row_is(kl):
    np.testing.assert_allclose(kl.by_episode_step, [2.75, 1.5, 2.51, 3.51, NAN, 0.11])


def test_the_heat_map_is_the_mean_of_each_group_at_each_place(kl):
    np.testing.assert_allclose(kl.heat_map, [[0.3, 3.25, 2.5, 3.5], [0.005, 0.0, 0.01, 0.01]])


def test_the_summary_is_over_the_six_rows_that_count(kl):
    rows = [0.11, 0.5, 1.5, 2.51, 3.51, 5.0]
    assert kl.summary["mean"] == pytest.approx(sum(rows) / 6)
    assert kl.summary["median"] == pytest.approx((1.5 + 2.51) / 2)
    assert kl.summary["q95"] == pytest.approx(3.51 + 0.75 * (5.0 - 3.51))
    assert kl.summary["optimised_mean"] == pytest.approx((1.0 + 1.5 + 2.51 + 3.51 + 1.0 + 5.0) / 6)
    assert kl.summary["share_under_free_nats"] == pytest.approx(3 / 6)
    assert kl.summary["share_under_1_nat"] == pytest.approx(2 / 6)
    assert kl.summary["active_units"] == 1  # the second group's mean is 0.005 nats


def test_a_group_is_active_from_a_hundredth_of_a_nat_on():
    groups = torch.tensor([0.009, 0.011, 0.09]).expand(2, 3, 3)
    kl = kl_diagnostics(Bound({}, groups, torch.ones(2, 3) > 0), torch.ones(2, 3), torch.zeros(2, 3).long(), 0.0)
    assert kl.summary["active_units"] == 2


def test_a_place_without_any_row_is_nan_and_not_zero():
    bound = Bound({}, torch.ones(1, 2, 1), torch.tensor([[True, False]]))
    kl = kl_diagnostics(bound, torch.ones(1, 2), torch.tensor([[0, 1]]), free_nats=0.0)
    np.testing.assert_array_equal(kl.by_position, [1.0, NAN])
    np.testing.assert_array_equal(kl.heat_map, [[1.0, NAN]])


@pytest.fixture
def episodes():
    """Two whole episodes; the second is three rows shorter and padded with what must never be looked at."""
    batch = make_batch(batch=2, length=12, first=())
    valid = batch.valid.clone()
    valid[1, 9:] = False
    reward, obs = batch.reward.clone(), {"obs": batch.obs["obs"].clone()}
    reward[1, 9:] = 1e6
    obs["obs"][1, 9:] = 1e6
    return batch._replace(valid=valid, reward=reward, obs=obs)


SETTINGS = {"context": 3, "horizon": 4, "samples": 2, "seed": 5}


def test_episodes_are_scored_on_their_own_rows_only_and_the_same_seed_gives_the_same_scores(episodes):
    model = make_model()
    scores = evaluate(model, Objective(), episodes, **SETTINGS)
    bound, _ = bound_and_loss(model, episodes, Objective(), torch.Generator().manual_seed(5))
    sums = [bound.elbo[0].sum().item(), bound.elbo[1, :9].sum().item()]
    assert scores.per_step["elbo"] == pytest.approx(sum(sums) / 21, rel=1e-5)
    terms = sum(value for name, value in scores.per_step.items() if name not in ("elbo", "kl"))
    assert scores.per_step["elbo"] == pytest.approx(terms - scores.per_step["kl"], rel=1e-5)
    again = evaluate(model, Objective(), episodes, **SETTINGS)
    assert again.per_step == scores.per_step
    other = evaluate(model, Objective(), episodes, **{**SETTINGS, "seed": 6})
    assert other.per_step["elbo"] != scores.per_step["elbo"]


def test_surprise_is_the_kl_of_the_first_episode_raw_and_as_optimised_beside_its_reward(episodes):
    model, objective = make_model(), Objective(free_nats=1.0, beta=2.0)
    short = episodes._replace(valid=episodes.valid.flip(0))
    surprise = evaluate(model, objective, short, **SETTINGS).surprise
    bound, loss = bound_and_loss(model, short, objective, torch.Generator().manual_seed(5))
    np.testing.assert_allclose(surprise.kl, bound.kl[0, :9].detach(), rtol=1e-5)
    np.testing.assert_allclose(surprise.optimised_kl, loss.optimised_kl[0, :9].detach(), rtol=1e-5)
    np.testing.assert_array_equal(surprise.reward, short.reward[0, :9])
    assert (surprise.optimised_kl >= 2.0).all()


def test_the_raw_kl_is_reported_whatever_is_optimised(episodes):
    plain = evaluate(make_model(), Objective(), episodes, **SETTINGS).kl
    heavy = evaluate(make_model(), Objective(free_nats=50.0, beta=3.0), episodes, **SETTINGS).kl
    np.testing.assert_array_equal(plain.by_episode_step, heavy.by_episode_step)
    assert plain.summary["mean"] == heavy.summary["mean"]
    assert heavy.summary["optimised_mean"] == pytest.approx(150.0)
    assert heavy.summary["share_under_free_nats"] == 1.0


def test_the_kl_of_training_sequences_counts_the_rows_that_only_warm_the_state_up():
    batch = make_batch(first=())
    valid = batch.valid.clone()
    valid[:, :3] = False
    kl = training_kl(make_model(), Objective(), batch._replace(valid=valid), seed=0)
    everywhere = training_kl(make_model(), Objective(), batch, seed=0)
    assert np.isfinite(kl.by_position).all()
    for field in dataclasses.fields(kl)[:3]:
        np.testing.assert_array_equal(getattr(kl, field.name), getattr(everywhere, field.name))


def test_evaluation_leaves_no_gradient_behind(episodes):
    model = make_model()
    evaluate(model, Objective(), episodes, **SETTINGS)
    assert all(p.grad is None for p in model.parameters())


def test_images_are_reconstructed_from_the_states_that_saw_them():
    model = make_model(MIXED_SPEC)
    with torch.no_grad():
        for parameter in model.parameters():  # a new model draws the same picture whatever the state
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    episodes = make_batch(MIXED_SPEC, batch=2, length=20, first=())
    episodes.valid[0, 17:] = False
    (name, seen), *others = reconstruct(model, episodes, torch.Generator().manual_seed(0)).items()
    assert name == "camera" and not others
    rows = [round(16 * i / (FRAMES - 1) - 0.49) for i in range(FRAMES)]
    np.testing.assert_array_equal(seen.truth, episodes.obs["camera"][0, rows].numpy())
    noise = model.dynamics.noise(1, 17, torch.Generator().manual_seed(0))
    one = episodes._replace(
        obs={key: x[:1, :17] for key, x in episodes.obs.items()},
        **{f: getattr(episodes, f)[:1, :17] for f in episodes._fields[1:]},
    )
    with torch.no_grad():
        states = model.observe(one, noise).states
        expected = model.decode(State(*(x[0] for x in states)))["camera"].mean[rows]
    np.testing.assert_allclose(seen.filtered, expected.numpy(), rtol=1e-4, atol=1e-3)
    assert np.ptp(seen.filtered, axis=0).max() > 1e-3
    assert evaluate(model, Objective(), episodes, context=2, horizon=3, samples=2, seed=0).reconstructions.keys() == {
        name
    }
