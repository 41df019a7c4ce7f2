"""The probe of memory: its script sees the cue and ends every episode, and its two numbers are what they are called."""

from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from scripts.memory_probe import KEY, ROWS, TO_THE_CUE, LooksFirst, linear_accuracy, order, require_memory_task
from worldmodel.config_io import read_config

TASK = read_config("minigrid").env


def test_the_script_sees_the_cue_and_ends_on_either_side_wherever_it_begins():
    pytest.importorskip("minigrid")
    env, policy, began, sides = gymnasium.make(TASK.id, **TASK.kwargs), LooksFirst(0), set(), set()
    for seed in range(40):
        observation, _ = env.reset(seed=seed)
        began.add(int(env.unwrapped.agent_pos[0]))
        is_key, ended = env.unwrapped.grid.get(1, 2).type == "key", False
        for step in range(ROWS - 1):
            assert not ended
            if step == len(TO_THE_CUE):
                assert (observation["image"][..., 0] == KEY).any() == is_key
            action = policy(SimpleNamespace(is_first=np.array([step == 0]), episode_step=np.array([step])))
            observation, _, ended, _, _ = env.step(int(action.argmax()))
        assert ended
        sides.add(int(env.unwrapped.agent_pos[1]))
    assert began == {1, 2, 3, 4} and sides == {2, 4}


def test_linear_accuracy_is_high_where_classes_are_apart_and_a_half_on_noise():
    generator = torch.Generator().manual_seed(0)
    is_true = torch.rand(900, generator=generator) < 0.5
    noise = torch.randn(900, 6, generator=generator)
    assert linear_accuracy(noise + 6 * is_true[:, None], is_true) > 0.99
    assert abs(linear_accuracy(noise, is_true) - 0.5) < 0.1


def test_order_counts_the_pairs_in_order_and_half_of_the_ties():
    is_true = torch.tensor([True, True, False, False])
    assert order(torch.tensor([3.0, 2.0, 1.0, 0.0]), is_true) == 1
    assert order(torch.tensor([0.0, 2.0, 1.0, 3.0]), is_true) == 0.25
    assert order(torch.tensor([1.0, 1.0, 1.0, 0.0]), is_true) == 0.75


def test_runs_of_other_tasks_and_models_that_read_the_reward_are_refused():
    config = read_config("minigrid")
    require_memory_task(config)
    others = [
        replace(config, env=replace(config.env, kwargs={})),
        replace(config, encoder=replace(config.encoder, reward=True)),
        read_config("cartpole"),
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"^RUN: expected env.id MiniGrid-MemoryS7-v0, .*agent_view_size"):
            require_memory_task(other)
