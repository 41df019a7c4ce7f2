"""Exact evidence of recorded rows: through the real rollout and replay, against one dense Gaussian an episode."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dense_gaussian import moments_of_rows
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.oracles.worlds import exact_evidence
from worldmodel_envs.linear_gaussian import LinearGaussian


def collected(folder, *, rows=120, **kwargs):
    """Episodes of two environments under a random policy, as a run stores and reads them, and their law."""
    generator = torch.Generator().manual_seed(0)
    env = make_environments("worldmodel/LinearGaussian-v0", count=2, kwargs=kwargs, time_limit=9)
    with env, Replay(folder, env.spec, capacity=1000, streams=2) as replay:
        rollout = Rollout(env, RandomPolicy(env.spec.action, generator), 0)
        for _ in range(rows):
            replay.append(rollout.step())
    return read_episodes(folder, 100), LinearGaussian(**kwargs).law


def dense_log_density(law, x, reward, action):
    """log p of one episode's rows, from the mean and covariance of all of them at once. No reward in the first row."""
    rows = np.concatenate([x, reward[:, None]], 1)
    centre, wide = moments_of_rows(law, action)
    seen = np.arange(rows.size) != rows.shape[1] - 1
    return scipy.stats.multivariate_normal(centre[seen], wide[np.ix_(seen, seen)]).logpdf(rows.ravel()[seen])


@pytest.mark.parametrize("kwargs", [{}, {"oscillators": 3, "reward_noise": 0.2, "termination": 0.15}])
def test_the_evidence_of_collected_rows_is_that_of_the_dense_gaussian(tmp_path, kwargs):
    episodes, law = collected(tmp_path / "rows", **kwargs)
    parts = exact_evidence(law, episodes)
    lengths = episodes.valid.sum(1).tolist()
    assert len(lengths) > 10 and (len(set(lengths)) > 3) == ("termination" in kwargs)
    for b, T in enumerate(lengths):
        rows = (episodes.obs["obs"][b, :T], episodes.reward[b, :T], episodes.prev_action[b, :T])
        expected = dense_log_density(law, *(x.double().numpy() for x in rows))
        got = parts["observation_and_reward"][b]
        assert got[:T].sum().item() == pytest.approx(expected, rel=1e-9, abs=1e-9) and not got[T:].any()
        p, over = law["termination"], bool(episodes.is_terminal[b].any())
        flags = (T - 1 - over) * math.log1p(-p) + (math.log(p) if over else 0.0)
        assert parts["continue"][b].sum().item() == pytest.approx(flags, abs=1e-12)
    torch.testing.assert_close(parts["total"], parts["observation_and_reward"] + parts["continue"])


@pytest.mark.parametrize("field", ["prev_action", "reward"])
def test_an_action_or_reward_that_is_one_row_off_costs_evidence(tmp_path, field):
    """So the index convention of the rows is that of the law, and a shift of either would be seen."""
    episodes, law = collected(tmp_path / "rows", rows=400, force_noise=0.05, reward_noise=0.05)
    shifted = episodes._replace(**{field: getattr(episodes, field).roll(1, 1)})
    right, wrong = (exact_evidence(law, rows)["total"].sum() / rows.valid.sum() for rows in (episodes, shifted))
    assert right > wrong + 0.05


def test_what_the_law_cannot_have_written_is_impossible_or_refused(tmp_path):
    episodes, law = collected(tmp_path / "rows")
    ended = episodes._replace(is_terminal=episodes.is_last)
    assert exact_evidence(law, ended)["total"].sum() == -math.inf  # a world that never terminates
    with pytest.raises(ValueError, match=r"law: expected one of the kinds .*'linear_gaussian'.*, got 'pendulum'"):
        exact_evidence({"kind": "pendulum"}, episodes)
    with pytest.raises(ValueError, match="expected one episode a sequence"):
        exact_evidence(law, episodes._replace(is_first=torch.ones_like(episodes.is_first)))
    with pytest.raises(ValueError, match=r"batch.obs: expected a single vector of 3 numbers, got \{'obs': \[2\]\}"):
        exact_evidence(LinearGaussian(oscillators=3).law, episodes)
