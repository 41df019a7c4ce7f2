"""What a run says of rows and actions of one's own: latents, branches, the KL of every step, the evidence."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from brief_runs import train_briefly
from run_folder import nothing_sharpened
from worldmodel.behaviour.imagination import dream
from worldmodel.data.batches import select
from worldmodel.runs import run as runs_run
from worldmodel.runs.run import open_run
from worldmodel.types import Batch


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
    with pytest.raises(
        ValueError, match=r"batch\.obs: expected 'obs' as rows store it, vector of .*, got torch\.uint8"
    ):
        run.latents(other._replace(obs={"obs": other.obs["obs"].byte()}))
    with pytest.raises(ValueError, match=r"batch\.prev_action: expected \[B, T, 1\]"):
        run.latents(other._replace(prev_action=other.prev_action.repeat(1, 1, 2)))


def test_a_run_and_its_rows_say_what_they_are_in_a_line(run):
    count = sum(p.numel() for p in run.model.parameters())
    assert repr(run) == f"Run('{run.folder}': Pendulum-v1, a world model of {count:,} parameters)"
    assert repr(run.heldout()).startswith("Batch(obs[3, 13, 3], prev_action[3, 13, 1], reward[3, 13], ")


def test_branches_differ_by_their_actions_and_leave_from_one_state(run):
    start = run.latents().at(5)
    still, full = np.zeros((6, 1)), np.ones((6, 1))
    futures = run.imagine(start=start, actions=np.stack([still, full]), samples=4)
    assert futures.prediction["obs"].shape == (4, 2, 6, 3)
    assert not torch.equal(futures.states.deter[:, 0], futures.states.deter[:, 1])
    torque = gymnasium.make("Pendulum-v1").action_space
    same = run.imagine(start=start, actions=2 * np.stack([still, full]), action_space=torque, samples=4)
    torch.testing.assert_close(same.prediction["obs"], futures.prediction["obs"])


def test_rows_of_ones_own_are_imagined_on_from_on_the_models_device(run, monkeypatch):
    given, moved, dreamt = run.heldout(), run.heldout(), []
    monkeypatch.setattr(Batch, "to", lambda batch, device: moved)
    monkeypatch.setattr(
        runs_run, "dream", lambda model, batch, **rest: dreamt.append(batch) or dream(model, batch, **rest)
    )
    run.imagine(given, context=2, horizon=4, samples=1)
    assert dreamt[0] is moved


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


def test_the_kl_of_every_step_is_an_array_that_draws_itself(run):
    batch = run.heldout()
    found = run.kl()
    np.testing.assert_array_equal(np.asarray(found), run.latents(batch).kl.numpy())
    np.testing.assert_allclose(found.groups.sum(-1), found.steps, rtol=1e-5)
    assert np.array_equal(np.isnan(found.steps), ~batch.valid.numpy())
    assert np.array_equal(np.nan_to_num(found.optimised), np.nan_to_num(found.steps))  # the loss is the bound
    assert np.asarray(found, np.float64).dtype == np.float64
    (above, below), (line, *_) = found.plot(1).axes[:2], found.plot(1).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), found.steps[1][batch.valid[1].numpy()])
    assert below.images[0].get_array().shape == (3, 13) and above.get_xlabel() == below.get_xlabel()
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="episode: expected 0 to 2, got 3"):
        found.plot(3)


def test_what_the_loss_does_to_the_kl_stands_beside_it(run):
    settings = dataclasses.replace(run.config.loss, beta=0.5, free_nats=100.0)
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, loss=settings))
    np.testing.assert_array_equal(other.kl().steps, run.kl().steps)
    assert np.nanmin(other.kl().optimised) == np.nanmax(other.kl().optimised) == 50.0


def test_the_evidence_of_rows_of_ones_own_is_measured(run, monkeypatch):
    nothing_sharpened(monkeypatch)
    held_out = run.evidence([2], runs=1, context=0)
    again = run.evidence([2], batch=run.heldout(), runs=1, context=0)
    assert again.as_json() == held_out.as_json()
    shorter = run.heldout()._replace(valid=run.heldout().valid & (torch.arange(13) < 6))
    assert run.evidence([2], batch=shorter, runs=1, context=0).rows == 18
    with pytest.raises(ValueError, match="expected at least 2"):
        run.evidence([2], batch=select(run.heldout(), slice(1)), runs=1, context=0)
    with pytest.raises(ValueError, match=r"batch\.is_first"):
        run.evidence([2], batch=select(run.heldout(), rows=slice(2, 6)), runs=1, context=0)
