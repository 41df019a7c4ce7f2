"""An environment that is stepped by hand and filtered: the same states, rows and KL as the batched path gives."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.behaviour.acting import FilteringPolicy, Reflexes
from worldmodel.behaviour.filtering import FilteredEnv
from worldmodel.behaviour.imagination import branch
from worldmodel.data.batches import stacked
from worldmodel.data.environment import make_environments
from worldmodel.data.rollout import Rollout
from worldmodel.models.latents import GaussianFamily
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, Rows
from worlds import Bytes, Counting, make_model, register

READING = {"image_size": 16, "drop_text": True, "integers": "mass", "hide": {}}
SPEC = EnvSpec(
    {"count": ObservationSpec("vector", (3,)), "action": ObservationSpec("vector", (1,))}, ActionSpec("continuous", 1)
)
EPISODE = (0.5, -5.0, 1.25)  # of actions; the second episode of Counting has four rows


def filtered(env=None, spec=SPEC, **model):
    made = make_model(spec, GaussianFamily(4, 0.05), **model)
    return FilteredEnv(env or Counting(), made, reading=READING, generator=torch.Generator().manual_seed(0))


def played(env):
    env.env.episode = 0
    env.reset(seed=7)
    rows, kls, states = [env.rows], [env.kl], [env.state]
    for action in EPISODE:
        env.step(np.array([action], np.float32))
        rows, kls, states = [*rows, env.rows], [*kls, env.kl], [*states, env.state]
    return rows, kls, states


@pytest.mark.parametrize("settings", [{}, {"smoothing": True}, {"read_reward": True}])
def test_states_and_kl_are_those_of_the_batched_filter_on_the_same_noise(settings):
    env = filtered(**settings)
    rows, kls, states = played(env)
    draws = torch.Generator().manual_seed(0)
    noise = torch.cat([env.model.noise(1, 1, draws) for _ in rows], 1)
    found = env.model.filter(stacked(rows), noise)
    torch.testing.assert_close(torch.cat([state.stoch for state in states]), found.states.stoch[0])
    torch.testing.assert_close(torch.tensor(kls), found.posterior.kl(found.prior).sum(-1)[0])
    torch.testing.assert_close(env.start.carry[0], found.carry[0])


def test_rows_are_those_that_a_rollout_writes():
    register()

    def scripted(newest):
        step = int(newest.episode_step[0])
        return np.array([[EPISODE[step] / 5 if step < 3 else 0.0]], np.float32)

    with make_environments("Counting-v0", count=1) as environments:
        rollout = Rollout(environments, scripted, seed=7)
        written = [rollout.step() for _ in range(7)]  # episodes of three and of four rows
    for mine, theirs in zip(played(filtered())[0], written[3:], strict=True):
        for name in Rows._fields[1:]:
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-6)
            assert getattr(mine, name).dtype == getattr(theirs, name).dtype
        for path, x in mine.obs.items():
            np.testing.assert_allclose(x, theirs.obs[path], rtol=1e-6)


def test_an_episode_that_ends_says_so_and_the_next_one_begins_without_memory():
    env = filtered()
    env.reset(seed=1)
    first = env.model.dynamics.step(env.model.dynamics.initial(1), torch.zeros(1, 1), torch.tensor([True]))[1]
    _, _, terminated, truncated, _ = env.step(env.action_space.sample())
    assert not terminated and not truncated
    _, reward, terminated, _, _ = env.step(env.action_space.sample())
    assert terminated and env.rows.is_terminal.all() and env.rows.is_last.all() and env.rows.reward == reward
    env.reset()
    torch.testing.assert_close(env.state.deter, first)
    assert env.rows.is_first.all() and env.rows.reward == 0 and not env.rows.prev_action.any()


def test_it_imagines_on_from_where_it_is_and_predicts_what_it_has_not_looked_at():
    env = filtered()
    env.reset(seed=0)
    futures = branch(env.model, env.start, torch.zeros(1, 5, 1), samples=3)
    assert futures.prediction["count"].shape == (3, 1, 5, 3)
    prediction, seen = env.prediction(samples=400), env.reconstruction()
    assert prediction.keys() == seen.keys() == {"count", "action", "reward", "continue"}
    assert prediction["count"].shape == seen["count"].shape == (3,)
    before = env.rows.obs["count"].copy()
    env.rows = env.rows._replace(obs={"count": before + 9, "action": env.rows.obs["action"]})
    np.testing.assert_allclose(env.prediction(samples=400)["count"], prediction["count"], atol=0.1)


def test_a_policy_acts_in_the_environments_own_units():
    env = filtered(spec=SPEC)
    policy = FilteringPolicy(
        env.model, Reflexes(lambda state: torch.full((1, 1), 0.5)), torch.Generator().manual_seed(0)
    )
    env.reset(seed=0)
    np.testing.assert_allclose(env.choose(policy), [2.5])
    env.step(env.choose(policy))
    np.testing.assert_allclose(env.rows.prev_action, [[0.5]])


def test_an_environment_of_other_rows_is_refused_and_so_is_a_step_before_a_reset():
    with pytest.raises(ValueError, match="env: expected an environment of the rows"):
        filtered(Bytes())
    env = filtered()
    for early in (lambda: env.step([0.0]), lambda: env.state, lambda: env.start, lambda: env.kl):
        with pytest.raises(ValueError, match="env: expected a reset before anything else"):
            early()
    env.reset()
    with pytest.raises(ValueError, match="action: expected the shape"):
        env.step([0.0, 1.0])


def test_the_environment_stays_as_it_is():
    env, plain = filtered(gymnasium.wrappers.TimeLimit(Counting(), 9)), Counting()
    obs, _ = env.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    assert {name: x.tolist() for name, x in obs.items()} == {name: x.tolist() for name, x in expected.items()}
    assert env.observation_space == plain.observation_space and env.action_space == plain.action_space
