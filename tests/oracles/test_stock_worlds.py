"""Exact evidence of recorded rows of stock environments: through the real rollout and replay.

The table environments against every path of cells, by their own `P`; the pendulum against the same rows as one episode.
"""

import math
from dataclasses import replace

import gymnasium
import pytest
import scipy.stats
import torch

from worldmodel.build import build_law
from worldmodel.config_io import read_config
from worldmodel.data.environment import environment_law, make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.oracles.worlds import exact_evidence


def collected(folder, env_id, *, rows, time_limit, **kwargs):
    """Episodes of two environments under a random policy, as a run stores and reads them, and their law."""
    generator = torch.Generator().manual_seed(0)
    env = make_environments(env_id, count=2, kwargs=kwargs, time_limit=time_limit)
    with env, Replay(folder, env.spec, capacity=1000, streams=2) as replay:
        rollout = Rollout(env, RandomPolicy(env.spec.action, generator), 0)
        for _ in range(rows):
            replay.append(rollout.step())
    return read_episodes(folder, 100), environment_law(env_id, kwargs)


def over_all_paths(table, start, shown, rewards, actions, ended, error, reward_std):
    """p of one episode's rows, as a sum over every path through Gymnasium's table of steps."""
    cells = len(table)

    def emission(cell, t):
        return 1 - error if cell == shown[t] else error / (cells - 1)

    def after(cell, t):
        if t == len(shown):
            return 1.0
        total = 0.0
        for p, reached, reward, over in table[cell][actions[t]]:
            if over == (ended and t == len(shown) - 1):
                density = scipy.stats.norm.pdf(rewards[t], reward, reward_std)
                total += p * density * emission(reached, t) * after(reached, t + 1)
        return total

    return sum(p * emission(cell, 0) * after(cell, 1) for cell, p in enumerate(start) if p)


@pytest.mark.parametrize(
    ("name", "stock", "kwargs"),
    [
        ("FrozenLake", "FrozenLake-v1", {}),
        ("FrozenLake", "FrozenLake-v1", {"success_rate": 0.8, "reward_schedule": (5, -2, 0.5)}),
        ("CliffWalking", "CliffWalking-v1", {}),
        ("CliffWalking", "CliffWalking-v1", {"is_slippery": True}),
    ],
)
def test_the_evidence_of_a_table_is_the_sum_over_all_paths(tmp_path, name, stock, kwargs):
    noise = {"error": 0.2, "reward_std": 0.7}
    env_id = f"worldmodel/Noisy{name}-v0"
    episodes, law = collected(tmp_path / "rows", env_id, rows=60, time_limit=6, **noise, **kwargs)
    real = gymnasium.make(stock, **kwargs).unwrapped
    found = exact_evidence(law, episodes)["total"]
    lengths = episodes.valid.sum(1).tolist()
    assert len(lengths) > 8 and bool(episodes.is_terminal.any()) == (name == "FrozenLake")
    for b, T in enumerate(lengths):
        shown, rewards = episodes.obs["obs"][b, :T, 0].tolist(), episodes.reward[b, :T].tolist()
        actions, ended = episodes.prev_action[b, :T].argmax(-1).tolist(), bool(episodes.is_terminal[b].any())
        p = over_all_paths(real.P, real.initial_state_distrib, shown, rewards, actions, ended, *noise.values())
        assert found[b].sum().item() == pytest.approx(math.log(p), rel=1e-10)
        assert not found[b, T:].any()


@pytest.mark.parametrize("field", ["prev_action", "reward"])
def test_an_action_or_reward_that_is_one_row_off_costs_evidence(tmp_path, field):
    """So the index convention of the rows is that of the law, and a shift of either would be seen."""
    episodes, law = collected(tmp_path / "rows", "worldmodel/NoisyPendulum-v0", rows=18, time_limit=8)
    moved = getattr(episodes, field).clone()
    moved[:, 2:] = getattr(episodes, field)[:, 1:-1]
    right, wrong = (exact_evidence(law, rows)["total"] for rows in (episodes, episodes._replace(**{field: moved})))
    assert (right.sum() - wrong.sum()) / episodes.valid.sum() > 0.02
    assert not right[~episodes.valid].any()


def test_the_rows_of_an_episode_are_those_of_its_beginnings(tmp_path):
    """Each sum of first rows is the evidence of the episode cut there, to the tolerance of single rows."""
    episodes, law = collected(tmp_path / "rows", "worldmodel/NoisyPendulum-v0", rows=14, time_limit=12)
    rows = exact_evidence(law, episodes)["total"][0]
    for t in (1, 2, 5, 9):
        valid = torch.arange(rows.numel()).expand_as(episodes.valid) < t
        cut = exact_evidence(law, episodes._replace(valid=valid & episodes.valid))["total"][0]
        assert rows[:t].sum().item() == pytest.approx(cut.sum().item(), abs=1e-3)


def test_an_end_where_no_start_can_end_is_impossible(tmp_path):
    episodes, law = collected(tmp_path / "rows", "worldmodel/NoisyPendulum-v0", rows=14, time_limit=12)
    ended = exact_evidence(law, episodes._replace(is_terminal=episodes.is_last))["total"]
    assert (ended.sum(1) == -math.inf).all()


def test_rows_and_dynamics_that_the_law_does_not_have_are_refused(tmp_path):
    episodes, law = collected(tmp_path / "rows", "worldmodel/NoisyPendulum-v0", rows=14, time_limit=12)
    with pytest.raises(ValueError, match=r"batch.obs: expected a single vector of 2 numbers, got \{'obs': \[3\]\}"):
        exact_evidence({**law, "observation_std": [0.1, 0.1]}, episodes)
    with pytest.raises(ValueError, match=r"law: expected dynamics of \['acrobot', .*, got 'boat'"):
        exact_evidence({**law, "dynamics": "boat"}, episodes)


def test_the_preset_has_its_law_without_leave_to_run_other_code():
    """So `worldmodel evidence` prints the exact line; a wrapper that the settings name takes the law away."""
    config = read_config("noisy_pendulum")
    law = build_law(config)
    assert law is not None and (law["kind"], law["dynamics"]) == ("random_start", "pendulum")
    wrapped = replace(config, env=replace(config.env, wrappers=["worldmodel_envs.wrappers:ActionRepeat"]))
    assert build_law(wrapped) is None
