"""The evidence of stock environments seen through noise, against other integrals over the start.

The start of the cars is integrated with Gymnasium's own steps; that of the pendulum on a plain grid of starts that
Gymnasium steps together; that of the cart and pole, and of the acrobot, by other rules over all four numbers.
"""

import math

import gymnasium
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from worldmodel.data.environment import environment_law
from worldmodel.oracles.classic_control import DYNAMICS
from worldmodel.oracles.episodes import Episode
from worldmodel.oracles.random_start import integral_of, log_density, row_evidence

NAMES = {
    "acrobot": "NoisyAcrobot",
    "cart_pole": "NoisyCartPole",
    "mountain_car": "NoisyMountainCar",
    "mountain_car_continuous": "NoisyMountainCarContinuous",
    "pendulum": "NoisyPendulum",
}
EXACT = 1e-6  # nats per episode, of what both methods claim


def recorded(name, seed, steps):
    """An episode under random actions, and the law that its environment states."""
    env_id = f"worldmodel/{NAMES[name]}-v0"
    env = gymnasium.make(env_id, max_episode_steps=steps)
    env.action_space.seed(seed)
    x, _ = env.reset(seed=seed)
    rows, terminated, truncated = [(x, 0.0, 0.0)], False, False
    while not (terminated or truncated):
        action = env.action_space.sample()
        x, reward, terminated, truncated, _ = env.step(action)
        rows.append((x, reward, float(np.reshape(action, ()))))
    observation, rewards, actions = zip(*rows, strict=True)
    seen = torch.from_numpy(np.array(observation, np.float64))
    return environment_law(env_id, {}), Episode(seen, torch.tensor(rewards).double(), actions, terminated)


def evidence(law, episode):
    return row_evidence(integral_of(law, episode), len(episode.action)).sum().item()


def log_likelihood_by_gymnasium(env, start, law, episode):
    """log p(rows | start) by Gymnasium's own steps; `start` may be [n, N] where its formulas take arrays."""
    env.reset(seed=0)
    env.state = start
    total = gaussian(seen_by(env), episode.observation[0], law["observation_std"])
    for t, action in enumerate(episode.action[1:], 1):
        continuous = isinstance(env.action_space, gymnasium.spaces.Box)
        _, reward, terminated, _, _ = env.step(np.array([action]) if continuous else int(action))
        if terminated != episode.ends(t):
            return -math.inf
        total = total + gaussian(seen_by(env), episode.observation[t], law["observation_std"])
        total = total + scipy.stats.norm.logpdf(episode.reward[t].item(), reward, law["reward_std"])
    return total


def seen_by(env):
    """The observation of the state in float64, which Gymnasium's own rounds to float32."""
    if len(env.observation_space.low) == 3:
        return np.array([np.cos(env.state[0]), np.sin(env.state[0]), env.state[1]])
    return np.array(env.state)


def gaussian(mean, x, std):
    return sum(scipy.stats.norm.logpdf(x[i].item(), mean[i], std[i]) for i in range(len(std)))


@pytest.mark.parametrize(("name", "stock"), [("mountain_car", "MountainCar-v0")])
def test_the_car_is_an_integral_of_one_dimension(name, stock):
    """Over the start by adaptive Gauss-Kronrod of scipy, with Gymnasium's own steps."""
    law, episode = recorded(name, seed=1, steps=15)
    env = gymnasium.make(stock).unwrapped
    found = evidence(law, episode)

    def density(position):
        return math.exp(log_likelihood_by_gymnasium(env, np.array([position, 0.0]), law, episode) - found) / 0.2

    total, error = scipy.integrate.quad(density, -0.6, -0.4, epsabs=1e-9, epsrel=1e-9, points=[-0.55, -0.5, -0.45])
    assert error < EXACT and math.log(total) == pytest.approx(0, abs=EXACT)


def midpoints(low, high, count):
    step = (high - low) / count
    return low + step * (np.arange(count) + 0.5), step


def test_the_pendulum_is_an_integral_of_two_dimensions():
    """Over a plain grid around the mode, of starts that Gymnasium's own formulas step together."""
    law, episode = recorded("pendulum", seed=2, steps=20)
    env = gymnasium.make("Pendulum-v1").unwrapped
    angle, wide = midpoints(-np.pi, np.pi, 400)
    speed, deep = midpoints(-1.0, 1.0, 100)
    for _ in range(2):  # the second time only where there is mass
        starts = np.stack([x.ravel() for x in np.meshgrid(angle, speed, indexing="ij")])
        value = log_likelihood_by_gymnasium(env, starts, law, episode) - math.log(4 * np.pi)
        total = scipy.special.logsumexp(value) + math.log(wide * deep)
        likely = starts[:, value > value.max() - 30]
        (first, low), (last, high) = likely.min(1), likely.max(1)
        angle, wide = midpoints(first - 0.05, last + 0.05, 400)
        speed, deep = midpoints(max(low - 0.1, -1.0), min(high + 0.1, 1.0), 400)
    assert evidence(law, episode) == pytest.approx(total, abs=EXACT)
