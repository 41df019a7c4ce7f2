"""Whole episodes of a policy as rows, those that `play` counts; and the bound on them."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.data.batches import select, trimmed
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import ScriptedPolicy
from worldmodel.evaluation import own_episodes
from worldmodel.evaluation.episodes import play
from worldmodel.evaluation.own_episodes import collect_episodes, ending, judge
from worldmodel.evaluation.rounds import first_start
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.seeding import Stream
from worlds import VECTOR_SPEC, make_batch, make_model, register


@pytest.fixture(autouse=True)
def _worlds():
    register()


def scripted():
    return ScriptedPolicy(np.full((1, 1), 0.5, np.float32))


def test_the_episodes_are_those_of_their_start_seeds_from_reset_to_end():
    with make_environments("Pendulum-v1", count=2, time_limit=7) as environments:
        found = collect_episodes(environments, scripted(), episodes=3, seed=4)
        played = play(environments, scripted(), episodes=3, seed=4)
    assert found.valid.shape == (3, 8) and found.valid.all()
    assert found.is_first[:, 0].all() and not found.is_first[:, 1:].any()
    assert found.is_last[:, -1].all() and not found.is_last[:, :-1].any()
    assert torch.equal(found.episode_step, torch.arange(8, dtype=torch.int32).expand(3, 8))
    assert (found.prev_action[:, 1:] == 0.5).all() and (found.prev_action[:, 0] == 0).all()
    for i in range(3):
        obs, _ = gymnasium.make("Pendulum-v1").reset(seed=first_start(4, Stream.CHOOSING) + i)
        np.testing.assert_array_equal(found.obs["obs"][i, 0].numpy(), obs)
    earned = found.reward.sum(1).tolist()
    assert not set(np.round(earned, 3)) & set(np.round(played.returns, 3)), "best weights are not judged by these"


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
    judged = judge(model, batch, seed=3, value=lambda state: state.deter.sum(-1), discount=0.5)
    assert judged.calibration is not None
    predicted, real = judged.calibration
    with torch.no_grad():
        values = model.filter(batch, model.noise(3, 6, torch.Generator().manual_seed(3))).states.deter.sum(-1)
    torch.testing.assert_close(predicted, values[:, 0])
    torch.testing.assert_close(real, torch.stack([5 + values[0, 5] / 32, torch.tensor(1.0), 3 + values[2, 3] / 8]))


def test_the_bound_of_a_few_at_a_time_is_weighted_by_their_steps(monkeypatch):
    model, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC, batch=3, length=6, first=())
    valid = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    batch = batch._replace(valid=valid)
    monkeypatch.setattr("worldmodel.evaluation.own_episodes.at_once", lambda numbers: 1)
    found = judge(model, batch, seed=3, discount=1.0).bound
    generator, total = torch.Generator().manual_seed(3), 0.0
    with torch.no_grad():
        for row in range(3):
            part = trimmed(select(batch, slice(row, row + 1)))
            bound = sampled_bound(model, part, generator)
            model.noise(1, int(part.valid.sum()) - 1, generator)  # of the predictions
            total += float(bound.elbo[bound.valid].sum())
    assert found["elbo"] == pytest.approx(total / 12, rel=1e-5)
    assert found["elbo"] == pytest.approx(found["obs"] + found["reward"] + found["continue"] - found["kl"], rel=1e-4)


def test_probabilities_of_ending_are_sorted_beside_what_came():
    probability = torch.tensor([0.0, 0.0005, 0.001, 0.2, 0.3, 0.5, 1.0])
    ended = torch.tensor([False, True, False, False, True, True, True])
    found = ending(probability, ended)
    assert [(one.least, one.steps) for one in found] == [(0.0, 2), (0.001, 1), (0.1, 2), (0.5, 2)]
    assert [one.happened for one in found] == [0.5, 0.0, 0.5, 1.0]
    np.testing.assert_allclose([one.predicted for one in found], [0.00025, 0.001, 0.25, 0.75])


def test_an_end_is_predicted_from_the_state_before_it(monkeypatch):
    """Each step's prediction is that of the state and action before its row, whose content does not matter."""
    model, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC, batch=2, length=4, first=())
    seen = []
    imagine = own_episodes.imagine

    def watched(model, start, act, horizon, **options):
        seen.append((start, act(None)))
        return imagine(model, start, own_episodes.scripted(seen[-1][1][None, :, None]), horizon, **options)

    monkeypatch.setattr(own_episodes, "imagine", watched)
    valid = torch.tensor([[True, True, True, True], [True, True, False, False]])
    is_terminal = torch.tensor([[False, False, False, True], [False, True, False, False]])
    batch = batch._replace(
        valid=valid, is_terminal=is_terminal, is_first=batch.is_first.index_fill(1, torch.tensor(0), True)
    )
    found = judge(model, batch, seed=3, discount=1.0).ending
    assert sum(one.steps for one in found) == 4
    assert sum(one.steps * one.happened for one in found) == pytest.approx(2)
    ((start, action),) = seen
    torch.testing.assert_close(action, batch.prev_action[:, 1:][valid[:, 1:]])
    with torch.no_grad():
        states = model.filter(batch, model.noise(2, 4, torch.Generator().manual_seed(3))).states
    torch.testing.assert_close(start.deter[0], states.deter[:, :-1][valid[:, 1:]])
