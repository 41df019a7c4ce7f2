"""Whole episodes of a policy as rows, those that `play` counts; and the bound on them."""

import numpy as np
import pytest
import torch

from worldmodel.data.batches import select, trimmed
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import ScriptedPolicy
from worldmodel.evaluation.episodes import play
from worldmodel.evaluation.own_episodes import bound_per_step, calibration, collect_episodes
from worldmodel.objectives.batch_bound import sampled_bound
from worlds import VECTOR_SPEC, make_batch, make_model, register


@pytest.fixture(autouse=True)
def _worlds():
    register()


def scripted():
    return ScriptedPolicy(np.full((1, 1), 0.5, np.float32))


def test_the_episodes_are_those_that_are_played_from_their_reset_to_their_end():
    with make_environments("Pendulum-v1", count=2, time_limit=7) as environments:
        found = collect_episodes(environments, scripted(), episodes=3, seed=4)
        played = play(environments, scripted(), episodes=3, seed=4)
    assert found.valid.shape == (3, 8) and found.valid.all()
    np.testing.assert_allclose(found.reward.sum(1).numpy(), played.returns, rtol=1e-5)
    assert len(set(found.reward.sum(1).tolist())) == 3
    assert found.is_first[:, 0].all() and not found.is_first[:, 1:].any()
    assert found.is_last[:, -1].all() and not found.is_last[:, :-1].any()
    assert torch.equal(found.episode_step, torch.arange(8, dtype=torch.int32).expand(3, 8))
    assert (found.prev_action[:, 1:] == 0.5).all() and (found.prev_action[:, 0] == 0).all()


def test_episodes_end_where_each_ends_and_are_padded_behind():
    with make_environments("CartPole-v1", count=3) as environments:
        found = collect_episodes(environments, ScriptedPolicy(np.array([[1.0, 0.0]])), episodes=3, seed=0)
    lengths = found.valid.sum(1)
    assert lengths.max() == found.valid.shape[1] and len(set(lengths.tolist())) > 1
    for row, length in enumerate(lengths.tolist()):
        assert found.is_terminal[row, length - 1] and not found.is_terminal[row, : length - 1].any()
        assert found.valid[row, :length].all() and not found.valid[row, length:].any()


def test_behind_a_truncated_episode_the_critic_stands_for_the_rewards_to_come():
    model, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC, batch=3, length=6, first=())
    steps = torch.arange(6, dtype=torch.int32).expand(3, 6)
    is_terminal = torch.zeros(3, 6, dtype=torch.bool)
    is_terminal[1, 1] = True
    batch = batch._replace(
        valid=steps < torch.tensor([6, 2, 4])[:, None],
        episode_step=steps,
        reward=torch.tensor([[0.0, 1.0, 2.0, 4.0, 8.0, 16.0]]).expand(3, 6),  # halved at each step, they are all ones
        is_terminal=is_terminal,
    )
    predicted, real = calibration(model, lambda state: state.deter.sum(-1), batch, discount=0.5, seed=3)
    with torch.no_grad():
        values = model.filter(batch, model.noise(3, 6, torch.Generator().manual_seed(3))).states.deter.sum(-1)
    torch.testing.assert_close(predicted, values[:, 0])
    torch.testing.assert_close(real, torch.stack([5 + values[0, 5] / 32, torch.tensor(1.0), 3 + values[2, 3] / 8]))


def test_the_bound_of_a_few_at_a_time_is_weighted_by_their_steps(monkeypatch):
    model, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC, batch=3, length=6, first=())
    valid = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    batch = batch._replace(valid=valid)
    monkeypatch.setattr("worldmodel.evaluation.own_episodes.at_once", lambda numbers: 1)
    found = bound_per_step(model, batch, seed=3)
    generator, total = torch.Generator().manual_seed(3), 0.0
    with torch.no_grad():
        for row in range(3):
            bound = sampled_bound(model, trimmed(select(batch, slice(row, row + 1))), generator)
            total += float(bound.elbo[bound.valid].sum())
    assert found["elbo"] == pytest.approx(total / 12, rel=1e-5)
    assert found["elbo"] == pytest.approx(found["obs"] + found["reward"] + found["continue"] - found["kl"], rel=1e-4)
