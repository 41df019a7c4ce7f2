"""The dynamics of classic control in torch, step by step beside Gymnasium's own."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.oracles.classic_control import DYNAMICS
from worldmodel_envs.stock_laws import law_of_noisy

STOCK = {
    "acrobot": "Acrobot-v1",
    "cart_pole": "CartPole-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
# Hundreds of steps with the same operations in float64; the continuous car rounds its state to float32 at every step.
TOLERANCE = {"mountain_car_continuous": 2e-6, "acrobot": 1e-9}


def pushed(env, state):
    """An action that drives the environment far: with its velocity, so that ends, walls and speed limits are met."""
    if env.spec.id == "CartPole-v1":
        return env.action_space.sample()
    along = np.sign(state[-1] if len(state) == 2 else state[3]) or 1
    return np.array([along * env.action_space.high[0]], np.float32) if env.action_space.shape else int(1 + along)


def walked(name, seed, steps=400):
    """Of one episode of Gymnasium's: states, observations, actions as numbers, rewards and ends."""
    env = gymnasium.make(STOCK[name])
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    rows = [(np.array(env.unwrapped.state, np.float64), obs, np.nan, 0.0, False)]
    while not rows[-1][-1] and len(rows) < steps:
        action = pushed(env, rows[-1][0])
        obs, reward, ended, _, _ = env.step(action)
        state = np.array(env.unwrapped.state, np.float64)
        rows.append((state, obs, float(np.reshape(action, ())), float(reward), ended))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.filterwarnings("ignore:.*truncated.*")
@pytest.mark.parametrize("name", STOCK)
def test_steps_are_those_of_gymnasium(name):
    law = law_of_noisy(gymnasium.make(STOCK[name]), {})
    dynamics, tolerance = DYNAMICS[name], TOLERANCE.get(name, 1e-10)
    episodes = [walked(name, seed) for seed in range(4)]
    assert name == "pendulum" or any(ended[-1] for *_, ended in episodes)
    for states, seen, actions, rewards, ends in episodes:
        state = torch.as_tensor(states[:1])
        for t in range(1, len(states)):
            state, reward, ended = dynamics.step(state, float(actions[t]), law["constants"])
            turns = (state[0].numpy() - states[t]) / (2 * np.pi) if name == "acrobot" else np.zeros(4)
            whole = 2 * np.pi * np.round(turns)[: len(states[t])] * ([1, 1, 0, 0] if name == "acrobot" else 1)
            np.testing.assert_allclose(state[0].numpy() - whole, states[t], atol=tolerance, rtol=tolerance)
            np.testing.assert_allclose(dynamics.observe(state)[0], seen[t], atol=tolerance + 1e-6, rtol=1e-6)
            assert reward.item() == pytest.approx(rewards[t], abs=1e-6, rel=1e-9)
            assert bool(ended) == ends[t]


def test_several_starts_at_once_are_the_starts_one_by_one():
    for name, dynamics in DYNAMICS.items():
        constants = law_of_noisy(gymnasium.make(STOCK[name]), {})["constants"]
        starts = torch.rand(5, len(dynamics.circle), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        together = dynamics.step(starts, 1.0, constants)
        for n, start in enumerate(starts):
            for got, expected in zip(together, dynamics.step(start[None], 1.0, constants), strict=True):
                torch.testing.assert_close(got[n : n + 1], expected, rtol=0, atol=1e-14)
