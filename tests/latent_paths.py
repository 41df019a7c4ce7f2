"""Expectations under q of what a LatentSequence says of whole paths z_1:T, exactly: by sigma points or by enumeration.

Only the Protocol is used, so the same lines hold for every model. The bound is the library's own, `sequence_elbo`, led
along given paths instead of drawn ones.
"""

import itertools
from dataclasses import dataclass

import torch

from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.types import Latent, LatentSequence, State


@dataclass(frozen=True)
class Led:
    """A distribution whose draw is decided; all else is the distribution's own."""

    latent: Latent
    z: torch.Tensor

    def sample(self, generator=None):
        return self.z

    def __getattr__(self, name):
        return getattr(self.latent, name)


@dataclass(frozen=True)
class LedAlong:
    """A LatentSequence whose N draws from its proposals are the paths z [N, B, T, Z]."""

    sequence: LatentSequence
    z: torch.Tensor

    def __getattr__(self, name):
        return getattr(self.sequence, name)

    def proposal(self, deter, t):
        return Led(self.sequence.proposal(deter, t), self.z[:, :, t])


def elbo_along(sequence, z):
    """log p(x_t | h_t, z_t) - KL(q(z_t | h_t, x) || p(z_t | h_t)) of every row of the library's bound, [N, B, T]."""
    return sequence_elbo(LedAlong(sequence, z), len(z)).elbo


def log_weights(sequence, z):
    """log p(x_t | h_t, z_t) + log p(z_t | h_t) - log q(z_t | h_t, x) along paths z [N, B, T, Z] -> [N, B, T]."""
    log_p, log_q = along(sequence, z)
    return log_p - log_q


def along(sequence, z):
    """log p(x_t, z_t | h_t) and log q(z_t | h_t, x) along given paths, zero where a row does not count. [N, B, T]."""
    carry, log_p, log_q = sequence.initial(len(z)), [], []
    for t in range(z.shape[2]):
        carry, deter, prior = sequence.step(carry, t)
        state = State(deter, z[:, :, t])
        carry = sequence.advance(carry, state)
        likelihood = sum(sequence.likelihood(state, t).values())
        valid = sequence.valid[:, t]
        log_p.append(torch.where(valid, likelihood + prior.log_prob(state.stoch).sum(-1), 0.0))
        log_q.append(torch.where(valid, sequence.proposal(deter, t).log_prob(state.stoch).sum(-1), 0.0))
    return torch.stack(log_p, -1), torch.stack(log_q, -1)


def sigma_points(joint, steps):
    """2 n points whose mean is the expectation of any cubic under a Gaussian over n = T * Z numbers: [2 n, B, T, Z].

    mean +- sqrt(n) L e_i for the columns e_i of the Cholesky factor L.
    """
    width = joint.mean.shape[-1]
    columns = width**0.5 * joint.scale_tril.mT.movedim(-2, 0)  # [n, B, n]
    points = torch.cat([joint.mean + columns, joint.mean - columns])
    return points.unflatten(-1, (steps, width // steps))


def gaussian_elbo(sequence, joint):
    """The bound of every row, [B, T], where q(z_1:T) is a Gaussian and all log-densities are quadratic."""
    return elbo_along(sequence, sigma_points(joint, sequence.valid.shape[1])).mean(0)


def all_paths(classes, batch, steps):
    """Every path of one-hot vectors, [K^T, B, T, K]."""
    indices = torch.tensor(list(itertools.product(range(classes), repeat=steps)))
    return torch.nn.functional.one_hot(indices, classes).double()[:, None].expand(-1, batch, -1, -1)


def enumerated(sequence, classes):
    """Every path [K^T, B, T, K], and log p(x, z) and log q(z | x) of it, [K^T, B]."""
    z = all_paths(classes, *sequence.valid.shape)
    log_p, log_q = along(sequence, z)
    return z, log_p.sum(-1), log_q.sum(-1)


def discrete_elbo_and_gap(sequence, classes):
    """The bound, KL(q || p(z | x)) and log p(x), from all K^T paths, [B] each."""
    z, log_p, log_q = enumerated(sequence, classes)
    evidence = log_p.logsumexp(0)
    bound = weighted(log_q, elbo_along(sequence, z).sum(-1))
    return bound, weighted(log_q, log_q - (log_p - evidence)), evidence


def weighted(log_q, values):
    """sum_paths q v, where a path of probability zero counts nothing, whatever its value."""
    q = log_q.exp()
    return torch.where(q > 0, q * torch.where(q > 0, values, 0.0), 0.0).sum(0)
