"""The linear-Gaussian world: its law is what it does, and its own discretisation is exact."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.integrate import quad_vec
from scipy.linalg import expm, solve_discrete_lyapunov

from worldmodel_envs.linear_gaussian import LinearGaussian, oscillator, stationary_covariance


@pytest.mark.filterwarnings("ignore:.*infinity")  # a Gaussian observation has no bounds to declare
@pytest.mark.parametrize("kwargs", [{}, {"oscillators": 1, "termination": 0.2}, {"oscillators": 3, "damping": 1.5}])
def test_gymnasium_finds_nothing_wrong_with_it(kwargs):
    check_env(gymnasium.make("worldmodel/LinearGaussian-v0", **kwargs).unwrapped)


def test_an_interval_is_the_integral_of_the_stochastic_differential_equation():
    k, c, dt, noise = 1.7, 0.4, 0.35, 0.6
    drift, push = np.array([[0.0, 1.0], [-k, -c]]), np.array([[0.0], [1.0]])
    transition, control, covariance = oscillator(k, c, dt, noise)
    spread = quad_vec(lambda s: noise**2 * expm(drift * s) @ push @ push.T @ expm(drift * s).T, 0, dt)[0]
    np.testing.assert_allclose(transition, expm(drift * dt), rtol=1e-12)
    np.testing.assert_allclose(control, quad_vec(lambda s: expm(drift * s) @ push, 0, dt)[0], rtol=1e-10)
    np.testing.assert_allclose(covariance, spread, rtol=1e-10)


def test_the_stationary_covariance_is_scipys():
    transition, control, covariance = oscillator(1.0, 0.3, 0.3, 0.5)
    driven = covariance + control @ control.T / 3
    expected = solve_discrete_lyapunov(transition, driven)
    np.testing.assert_allclose(stationary_covariance(transition, driven), expected, rtol=1e-9)


def rollouts(env, episodes, steps):
    """[episodes, steps + 1, n + 1] observations and rewards (0 in the first row), and actions [episodes, steps, n]."""
    random, n = np.random.default_rng(1), env.action_space.shape[0]
    rows, actions = np.zeros((episodes, steps + 1, n + 1)), random.uniform(-1, 1, (episodes, steps, n))
    for e in range(episodes):
        rows[e, 0, :n] = env.reset(seed=0 if e == 0 else None)[0]
        for t in range(steps):
            obs, reward, *_ = env.step(actions[e, t])
            rows[e, t + 1] = [*obs, reward]
    return rows, actions


def moments(law, actions):
    """Mean given the actions, and covariance, of all rows of an episode as one big Gaussian."""
    steps, width = actions.shape[0], len(law["initial_mean"])
    emit = np.vstack([law["observation"], law["reward"]])
    noise = np.diag([*np.diag(law["observation_covariance"]), law["reward_variance"]])
    mean, covariance = [law["initial_mean"]], np.zeros((steps + 1, width, steps + 1, width))
    covariance[0, :, 0] = law["initial_covariance"]
    for t in range(1, steps + 1):
        mean.append(law["transition"] @ mean[-1] + law["control"] @ actions[t - 1])
        covariance[t, :, :t] = np.einsum("ij,jsk->isk", law["transition"], covariance[t - 1, :, :t])
        covariance[:t, :, t] = np.einsum("isk->ski", covariance[t, :, :t])
        before = covariance[t - 1, :, t - 1]
        covariance[t, :, t] = law["transition"] @ before @ law["transition"].T + law["transition_covariance"]
    rows = np.einsum("ij,tjsk,lk->tisl", emit, covariance, emit)
    for t in range(steps + 1):
        rows[t, :, t] += noise
    return np.array(mean) @ emit.T, rows


def test_its_rows_have_the_law_it_states():
    """Whitened by the dense Gaussian of the law, 4000 episodes are standard normal: mean, covariance and all lags."""
    env, episodes, steps = LinearGaussian(), 4000, 6
    rows, actions = rollouts(env, episodes, steps)
    law = env.law
    size = 3 * (steps + 1)
    seen = np.arange(size) != 2  # no reward in the first row
    means = np.stack([moments(law, a)[0].reshape(size) for a in actions])
    covariance = moments(law, actions[0])[1].reshape(size, size)
    centred = (rows.reshape(episodes, size) - means)[:, seen]
    white = np.linalg.solve(np.linalg.cholesky(covariance[np.ix_(seen, seen)]), centred.T)
    bound = 4.5 / np.sqrt(episodes)  # 4.5 standard errors, of about 210 numbers
    assert np.abs(white.mean(1)).max() < bound
    assert np.abs(white @ white.T / episodes - np.eye(len(white))).max() < 2**0.5 * bound


def test_no_row_differs_from_another_under_random_actions():
    rows, _ = rollouts(LinearGaussian(oscillators=1, damping=1.0), 6000, 12)
    variance = rows[..., 0].var(0)
    assert np.abs(variance / variance.mean() - 1).max() < 4 * np.sqrt(2 / 6000)


def test_it_ends_with_its_fixed_probability_whatever_the_state():
    env, p = LinearGaussian(termination=0.25), 0.25
    env.reset(seed=3)
    ends = np.array([env.step(np.zeros(2))[2:4] for _ in range(4000)])
    assert not ends[:, 1].any()
    assert abs(ends[:, 0].mean() - p) < 4 * np.sqrt(p * (1 - p) / 4000)
    assert LinearGaussian().law["termination"] == 0 and not LinearGaussian().step(np.zeros(2))[2]


def test_a_force_beyond_the_space_counts_as_the_largest():
    one, other = LinearGaussian(), LinearGaussian()
    one.reset(seed=0), other.reset(seed=0)
    np.testing.assert_array_equal(one.step(np.array([5.0, -5.0]))[0], other.step(np.array([1.0, -1.0]))[0])


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"oscillators": 0}, "oscillators: expected a number greater than zero, got 0"),
        ({"observation_noise": 0.0}, "observation_noise: expected a number greater than zero, got 0.0"),
        ({"damping": 2.0}, r"damping: expected less than 2 sqrt\(stiffness\) = 2, got 2.0"),
        ({"termination": 1.0}, r"termination: expected a probability in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_numbers_are_refused_by_name(kwargs, words):
    with pytest.raises(ValueError, match=words):
        LinearGaussian(**kwargs)
