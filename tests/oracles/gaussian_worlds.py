"""Random linear-Gaussian models, and everything about them from one dense Gaussian over (z_1:T, x_1:T)."""

import torch
from torch.distributions import MultivariateNormal

from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def covariance(generator, size, scale=1.0):
    root = normal(generator, size, size)
    return scale * (root @ root.mT / size + 0.2 * torch.eye(size, dtype=torch.float64))


def random_model(generator, n=3, p=2, actions=2):
    """A stable model with every part in use."""
    A = normal(generator, n, n)
    A = 0.9 * A / torch.linalg.eigvals(A).abs().max()
    B, D = normal(generator, n, actions), normal(generator, p, actions)
    C, d, m = normal(generator, p, n), normal(generator, p), normal(generator, n)
    Q, R, P = covariance(generator, n, 0.3), covariance(generator, p, 0.5), covariance(generator, n)
    return LinearGaussian(A=A, B=B, C=C, D=D, d=d, Q=Q, R=R, m=m, P=P)


def random_rows(model, generator, B=4, T=5, missing=True):
    """Rows from the model, the last of them with gaps: an entry, a row, a whole end."""
    action = normal(generator, B, T, model.B.shape[-1])
    _, x = model.simulate(action, generator)
    if missing:
        x[0, 0, -1] = x[1, 2, 0] = torch.nan
        x[2, 1] = x[3, 3:] = torch.nan
    return x, action


def random_chain(generator, B, T, n):
    """An arbitrary q."""
    V = torch.stack([covariance(generator, n) for _ in range(B * T)]).unflatten(0, (B, T))
    return MarkovGaussian(0.5 * normal(generator, B, T, n, n), normal(generator, B, T, n), V)


def dense(model, action):
    """Mean and covariance of z_1:T and of x_1:T given z_1:T, by multiplying the equations out for one sequence.

    Returns mean_z [T n], cov_z [T n, T n], C [T p, T n], offset [T p], R [T p, T p].
    """
    T, n = len(action), len(model.m)
    means, powers = [model.m], [[torch.eye(n, dtype=torch.float64)]]
    for t in range(1, T):
        means.append(model.A @ means[-1] + model.B @ action[t])
        powers.append([model.A @ block for block in powers[-1]] + [torch.eye(n, dtype=torch.float64)])
    zero = torch.zeros(n, n, dtype=torch.float64)
    G = torch.cat([torch.cat(row + [zero] * (T - len(row)), 1) for row in powers])  # from all the noise to all states
    cov_z = G @ torch.block_diag(model.P, *[model.Q] * (T - 1)) @ G.mT
    offset = (action @ model.D.mT + model.d).flatten()
    return torch.cat(means), cov_z, torch.block_diag(*[model.C] * T), offset, torch.block_diag(*[model.R] * T)


def dense_evidence(model, x, action):
    """log p(x_1:T) of one sequence, from the covariance of everything that was observed."""
    mean_z, cov_z, C, offset, R = dense(model, action)
    seen = ~torch.isnan(x.flatten())
    mean, cov = C @ mean_z + offset, C @ cov_z @ C.mT + R
    return MultivariateNormal(mean[seen], cov[seen][:, seen]).log_prob(x.flatten()[seen])


def dense_posterior(model, x, action):
    """Mean [T n] and covariance [T n, T n] of z_1:T given x_1:T, by conditioning the joint Gaussian."""
    mean_z, cov_z, C, offset, R = dense(model, action)
    seen = ~torch.isnan(x.flatten())
    error = x.flatten()[seen] - offset[seen] - C[seen] @ mean_z
    C, R = C[seen], R[seen][:, seen]
    gain = torch.linalg.solve(C @ cov_z @ C.mT + R, C @ cov_z).mT
    return mean_z + gain @ error, cov_z - gain @ C @ cov_z


def gaussian_kl(mean, cov, other_mean, other_cov):
    """KL between two Gaussians, from torch's own."""
    p, q = MultivariateNormal(mean, cov), MultivariateNormal(other_mean, other_cov)
    return torch.distributions.kl_divergence(p, q)
