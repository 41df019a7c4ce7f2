"""Exact evidence of recorded rows of the hidden Markov world: through the real rollout and replay, over all paths."""

import itertools
import math

import pytest
import scipy.stats
import torch

from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.oracles.worlds import exact_evidence
from worldmodel_envs.hidden_markov import HiddenMarkov


def collected(folder, *, rows=35, **kwargs):
    """Episodes of two environments under a random policy, as a run stores and reads them, and their law."""
    generator = torch.Generator().manual_seed(0)
    env = make_environments("worldmodel/HiddenMarkov-v0", count=2, kwargs=kwargs, time_limit=5)
    with env, Replay(folder, env.spec, capacity=1000, streams=2) as replay:
        rollout = Rollout(env, RandomPolicy(env.spec.action, generator), 0)
        for _ in range(rows):
            replay.append(rollout.step())
    return read_episodes(folder, 100), HiddenMarkov(**kwargs).law


def over_all_paths(law, colours, rewards, actions, ended):
    """p of one episode's rows, as a sum over every path of hidden states."""
    density = scipy.stats.norm.pdf(rewards[:, None], law["reward_mean"], law["reward_std"])
    total = 0.0
    for path in itertools.product(range(len(law["initial"])), repeat=len(colours)):
        p = law["initial"][path[0]] * law["emission"][path[0], colours[0]]
        for t in range(1, len(path)):
            s, stop = path[t], law["termination"][path[t]]
            p *= law["transition"][actions[t], path[t - 1], s] * law["emission"][s, colours[t]]
            p *= density[t, s] * (stop if ended and t == len(path) - 1 else 1 - stop)
        total += p
    return total


@pytest.mark.parametrize(
    "kwargs", [{"states": 3, "colours": 2}, {"states": 3, "colours": 3, "slip": 0.4, "noise": 0.2, "termination": 0.3}]
)
def test_the_evidence_of_collected_rows_is_the_sum_over_all_paths(tmp_path, kwargs):
    episodes, law = collected(tmp_path / "rows", **kwargs)
    parts = exact_evidence(law, episodes)
    lengths = episodes.valid.sum(1).tolist()
    assert len(lengths) > 9 and bool(episodes.is_terminal.any()) == ("termination" in kwargs)
    for b, T in enumerate(lengths):
        colours, rewards = episodes.obs["obs"][b, :T, 0].numpy(), episodes.reward[b, :T].double().numpy()
        actions, ended = episodes.prev_action[b, :T].argmax(-1).numpy(), bool(episodes.is_terminal[b].any())
        expected = math.log(over_all_paths(law, colours, rewards, actions, ended))
        assert parts["total"][b].sum().item() == pytest.approx(expected, rel=1e-10)
        assert not parts["total"][b, T:].any()
    torch.testing.assert_close(parts["total"], parts["observation_and_reward"] + parts["continue"])
    if "termination" not in kwargs:
        torch.testing.assert_close(parts["continue"], torch.zeros_like(parts["continue"]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("field", ["prev_action", "reward"])
def test_an_action_or_reward_that_is_one_row_off_costs_evidence(tmp_path, field):
    """So the index convention of the rows is that of the law, and a shift of either would be seen."""
    episodes, law = collected(tmp_path / "rows", rows=400, slip=0.05, reward_std=0.1)
    moved = getattr(episodes, field).clone()
    moved[:, 2:] = getattr(episodes, field)[:, 1:-1]  # the first row has neither
    shifted = episodes._replace(**{field: torch.where(_like(episodes.valid, moved), moved, 0.0)})
    right, wrong = (exact_evidence(law, rows)["total"].sum() / rows.valid.sum() for rows in (episodes, shifted))
    assert right > wrong + 0.05


def test_rows_that_the_law_does_not_have_are_refused(tmp_path):
    episodes, _ = collected(tmp_path / "rows", colours=4)
    with pytest.raises(ValueError, match=r"batch.obs: expected a single category of 3, got \{'obs': \(\[1\]"):
        exact_evidence(HiddenMarkov(colours=3).law, episodes)


def test_an_end_in_a_world_that_never_terminates_is_impossible(tmp_path):
    episodes, law = collected(tmp_path / "rows", colours=4)
    ended = episodes.is_last & episodes.valid & ~episodes.is_first
    found = exact_evidence(law, episodes._replace(is_terminal=ended))
    assert ended.any() and torch.equal(found["continue"] == -torch.inf, ended)
    assert found["observation_and_reward"].isfinite().all()


def _like(mask, x):
    return mask[..., None] if x.dim() == 3 else mask


def test_what_the_law_forbids_has_no_evidence_and_spoils_no_other_row(tmp_path):
    episodes, law = collected(tmp_path / "rows", states=3, colours=2, termination=0.3)
    blind = torch.as_tensor(law["emission"]).clone()
    blind[:, 0], blind[:, 1] = 0.0, 1.0
    found = exact_evidence({**law, "emission": blind.numpy()}, episodes)
    forbidden = (episodes.obs["obs"][..., 0] == 0) & episodes.valid
    assert forbidden.any() and not forbidden.all()
    assert torch.equal(found["total"] == -torch.inf, forbidden)
    assert all(part.isfinite().logical_or(part == -torch.inf).all() for part in found.values())
