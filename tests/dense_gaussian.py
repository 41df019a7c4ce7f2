"""The law of all rows of a linear-Gaussian episode at once: one dense Gaussian, which no filter was used for."""

import numpy as np


def moments_of_rows(law, action):
    """Mean [T * n] and covariance [T * n, T * n] of the rows (x_t, r_t), n numbers each, under actions [T, A]."""
    T, n = len(action), len(law["initial_mean"])
    mean, cov = [law["initial_mean"]], np.zeros((T, T, n, n))
    cov[0, 0] = law["initial_covariance"]
    for t in range(1, T):
        mean.append(law["transition"] @ mean[-1] + law["control"] @ action[t])
        cov[t, :t] = law["transition"] @ cov[t - 1, :t]
        cov[:t, t] = cov[t, :t].swapaxes(-1, -2)
        cov[t, t] = law["transition"] @ cov[t - 1, t - 1] @ law["transition"].T + law["transition_covariance"]
    emit = np.vstack([law["observation"], law["reward"]])
    noise = np.diag([*np.diag(law["observation_covariance"]), law["reward_variance"]])
    of_rows = emit @ cov @ emit.T + np.eye(T)[..., None, None] * noise
    size = T * len(emit)
    return (np.array(mean) @ emit.T).ravel(), of_rows.swapaxes(1, 2).reshape(size, size)
