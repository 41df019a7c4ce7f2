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
from worldmodel.oracles import cart_pole, quadrature, random_start
from worldmodel.oracles.classic_control import DYNAMICS
from worldmodel.oracles.episodes import Episode
from worldmodel.oracles.quadrature import Frame, focused
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


def test_other_frames_and_rules_give_the_same_evidence(monkeypatch):
    """Wider frames, other cells and other numbers of points, where the fall of the pole cuts the starts near a face."""
    episodes = [recorded("cart_pole", seed, 60) for seed in (2, 4, 7)]
    found = [evidence(*one) for one in episodes]
    assert all(episode.terminated for _, episode in episodes)
    monkeypatch.setitem(random_start.WIDER, 2, 2.2)
    monkeypatch.setattr(random_start, "SMOOTH", 70)
    monkeypatch.setattr(quadrature, "BEGIN", 5)
    monkeypatch.setattr(cart_pole, "ORDER", 45)
    cart_pole._rule.cache_clear()
    assert [evidence(*one) for one in episodes] == pytest.approx(found, abs=EXACT, rel=0)
    cart_pole._rule.cache_clear()


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


def whole_start(name, law, episode):
    """log p(s_1) p(first t rows | s_1) over all random entries of the start, by the dynamics in torch, and its box."""
    low, high, std = (torch.as_tensor(law[key]) for key in ("start_low", "start_high", "observation_std"))
    density = log_density(DYNAMICS[name], law["constants"], low, high, std, law["reward_std"], episode)
    return lambda start, t: density(start, [t])[:, 0], low, high


def over_the_box(density, low, high, count):
    """A Gauss-Legendre rule in the axes of the box, for rows that leave much of it likely."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(count))
    unit = torch.cartesian_prod(*[(nodes + 1) / 2] * 4)
    weight = torch.cartesian_prod(*[weights.log()] * 4).sum(-1) - 4 * math.log(2)
    value = torch.cat([density(part) for part in (low + unit * (high - low)).split(2**16)])
    return (value + weight).logsumexp(0).item() + (high - low).log().sum().item()


@pytest.mark.parametrize(("name", "steps", "counts"), [("cart_pole", 6, (20, 24)), ("acrobot", 3, (12, 15))])
def test_four_dimensions_are_those_of_a_rule_over_the_whole_box(name, steps, counts):
    law, episode = recorded(name, seed=3, steps=steps)
    density, low, high = whole_start(name, law, episode)
    coarse, fine = (over_the_box(lambda start: density(start, steps + 1), low, high, count) for count in counts)
    assert coarse == pytest.approx(fine, abs=EXACT)
    assert evidence(law, episode) == pytest.approx(fine, abs=EXACT)


def importance_sampled(density, low, high, rows, samples):
    """log of the integral by importance sampling from a Gaussian over all four numbers, and its standard error."""
    frame = Frame.whole(low, high)
    for t in [*(2**k for k in range(10) if 2**k < rows - 1), rows - 1]:  # before the flag that ends the episode
        frame = focused(lambda start, t=t: density(start, t), frame, 10)
    draw = torch.Generator().manual_seed(0)
    normal = torch.distributions.MultivariateNormal(frame.mean, scale_tril=1.15 * frame.scale)
    start = frame.mean + torch.randn(samples, 4, generator=draw, dtype=torch.float64) @ normal.scale_tril.T
    inside = ((start >= low) & (start <= high)).all(-1)
    value = torch.cat([density(part, rows) for part in start.clamp(low, high).split(2**15)])
    weight = torch.where(inside, value - normal.log_prob(start), -torch.inf)
    share = (weight - weight.max()).exp()
    return (weight.logsumexp(0) - math.log(samples)).item(), (share.std() / share.mean()).item() / samples**0.5


@pytest.mark.parametrize(("name", "seed", "steps"), [("cart_pole", 2, 60), ("cart_pole", 4, 60), ("acrobot", 0, 5)])
def test_whole_episodes_agree_with_importance_sampling(name, seed, steps):
    """Two of these end with the fall of the pole, which cuts the starts. The standard errors are below 0.01 nats."""
    law, episode = recorded(name, seed, steps)
    assert episode.terminated == (name == "cart_pole")
    density, low, high = whole_start(name, law, episode)
    estimate, error = importance_sampled(density, low, high, len(episode.action), samples=200_000)
    assert error < 0.01
    assert evidence(law, episode) == pytest.approx(estimate, abs=4 * error)
