"""What a run says of rows and actions of one's own: latents, branches, the KL of every step, the evidence."""

import gymnasium
import numpy as np
import pytest
import torch

from brief_runs import train_briefly
from worldmodel.runs.run import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(train_briefly(tmp_path_factory.mktemp("runs"), {"evaluation.context": 2}))


def test_latents_are_of_the_held_out_episodes_unless_others_are_given(run):
    found = run.latents()
    assert found.states.deter.shape[:2] == run.heldout().valid.shape
    assert torch.equal(found.kl.nan_to_num(), run.latents(run.heldout()).kl.nan_to_num())
    assert not torch.equal(found.states.stoch, run.latents(seed=1).states.stoch)
    other = run.heldout()
    with pytest.raises(ValueError, match=r"batch\.obs: expected leaves .*'obs': \(3,\).*, got .*'obs': \(2,\)"):
        run.latents(other._replace(obs={"obs": other.obs["obs"][..., :2]}))
    with pytest.raises(ValueError, match=r"batch\.prev_action: expected \[B, T, 1\]"):
        run.latents(other._replace(prev_action=other.prev_action.repeat(1, 1, 2)))


def test_branches_differ_by_their_actions_and_leave_from_one_state(run):
    start = run.latents().at(5)
    still, full = np.zeros((6, 1)), np.ones((6, 1))
    futures = run.imagine(start=start, actions=np.stack([still, full]), samples=4)
    assert futures.prediction["obs"].shape == (4, 2, 6, 3)
    assert not torch.equal(futures.states.deter[:, 0], futures.states.deter[:, 1])
    torque = gymnasium.make("Pendulum-v1").action_space
    same = run.imagine(start=start, actions=2 * np.stack([still, full]), action_space=torque, samples=4)
    torch.testing.assert_close(same.prediction["obs"], futures.prediction["obs"])


@pytest.mark.parametrize("given", [{"actions": [[0.0]]}, {"start": True}, {"start": True, "horizon": 3}])
def test_a_start_needs_actions_and_nothing_of_recorded_rows(run, given):
    if "start" in given:
        given = given | {"start": run.latents().at(0)}
    with pytest.raises(ValueError, match="start, actions: expected both"):
        run.imagine(**given)


def test_a_real_environment_is_filtered_by_hand_whoever_made_it(run):
    said = []
    for env in (gymnasium.make("Pendulum-v1"), None):
        filtered = run.filter(env, log=said.append)
        obs, _ = filtered.reset(seed=3)
        np.testing.assert_allclose(filtered.rows.obs["obs"][0], obs)
        filtered.step(filtered.choose(run.policy("random")))
        assert filtered.kl > 0
        assert run.imagine(start=filtered.start, actions=np.zeros((4, 1)), samples=2).states.deter.shape[2] == 4
    assert said == ["making Pendulum-v1, which imports gymnasium.envs.classic_control.pendulum"]
    with pytest.raises(ValueError, match="env: expected an environment of the rows"):
        run.filter(gymnasium.make("CartPole-v1"))
