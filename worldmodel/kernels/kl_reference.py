"""The KL divergences as formulas: plain torch, any device, any float dtype, differentiable as often as one likes."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, softplus


def split_gaussian(
    raw: Float[Tensor, "*batch P"], min_std: float
) -> tuple[Float[Tensor, "*batch S"], Float[Tensor, "*batch S"]]:
    """Mean and standard deviation from a head's raw output, P = 2S: std = min_std + softplus(second half)."""
    mean, raw_std = raw.chunk(2, dim=-1)
    return mean, min_std + softplus(raw_std)


def split_full_gaussian(
    raw: Float[Tensor, "*batch P"], min_std: float
) -> tuple[Float[Tensor, "*batch Z"], Float[Tensor, "*batch Z Z"]]:
    """Mean m and lower Cholesky factor L of the covariance L L' from a head's raw output, P = Z (Z + 3) / 2.

        L = diag(s) (I + N),    s = min_std + softplus(raw std)

    raw holds Z means, Z raw stds, and the entries of N below its diagonal, row by row. s is the std of each entry of z
    given those before it. Without N this is `split_gaussian`.
    """
    Z = full_gaussian_width(raw.shape[-1])
    mean, std = split_gaussian(raw[..., : 2 * Z], min_std)
    unit = torch.diag_embed(torch.ones_like(std))
    row, column = torch.tril_indices(Z, Z, -1, device=raw.device)
    unit[..., row, column] = raw[..., 2 * Z :]
    return mean, std[..., None] * unit


def full_gaussian_width(parameters: int) -> int:
    """Z of a Gaussian with a full covariance that has P = Z (Z + 3) / 2 parameters; the nearest below if none has."""
    return (math.isqrt(9 + 8 * parameters) - 3) // 2


def mix_uniform(logits: Float[Tensor, "*batch K"], unimix: float) -> Float[Tensor, "*batch K"]:
    """log((1 - unimix) softmax(logits) + unimix / K): the log-probabilities that are sampled and compared."""
    log_probs = log_softmax(logits, dim=-1)
    if unimix == 0.0:
        return log_probs
    uniform = torch.full_like(log_probs, math.log(unimix / logits.shape[-1]))
    return torch.logaddexp(log_probs + math.log1p(-unimix), uniform)


def mix_uniform_probs(logits: Float[Tensor, "*batch K"], unimix: float) -> Float[Tensor, "*batch K"]:
    """(1 - unimix) softmax(logits) + unimix / K: the same probabilities without a logarithm."""
    probs = logits.softmax(-1)
    return probs if unimix == 0.0 else (1 - unimix) * probs + unimix / logits.shape[-1]


def gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"], prior_raw: Float[Tensor, "*batch P"], min_std: float
) -> Float[Tensor, "*batch S"]:
    """KL( N(m_q, s_q^2) || N(m_p, s_p^2) ) of each of the S groups, in nats.

        1/2 ((m_q - m_p) / s_p)^2 + 1/2 (r^2 - 1) - log r,    r = s_q / s_p

    written in r - 1 so that nearly equal distributions lose few digits and equal ones give exactly zero.
    """
    q_mean, q_std = split_gaussian(posterior_raw, min_std)
    p_mean, p_std = split_gaussian(prior_raw, min_std)
    excess = (q_std - p_std) / p_std
    return 0.5 * ((q_mean - p_mean) / p_std).square() + _cost_of_ratio(excess, q_std, p_std)


def gaussian_entropy(raw: Float[Tensor, "*batch P"], min_std: float) -> Float[Tensor, "*batch S"]:
    """Differential entropy of each of the S groups, in nats: 1/2 log(2 pi e) + log s."""
    return 0.5 * math.log(2 * math.pi * math.e) + split_gaussian(raw, min_std)[1].log()


def full_gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"], prior_raw: Float[Tensor, "*batch P"], min_std: float
) -> Float[Tensor, "*batch 1"]:
    """KL( N(m_q, L_q L_q') || N(m_p, L_p L_p') ) in nats. The entries of z are dependent: they are one group.

        1/2 |d|^2 + 1/2 sum_{i>j} E_ij^2 + sum_i ( 1/2 (r_i^2 - 1) - log r_i ),    r_i = 1 + E_ii
        (d, E) = L_p^-1 (m_q - m_p, L_q - L_p)

    which is the usual formula, with L_p^-1 L_q = I + E, whose squared entries sum to the trace and whose diagonal has
    the log-determinant. In E nearly equal distributions lose few digits and equal ones give exactly zero.
    """
    q_mean, q_factor = split_full_gaussian(posterior_raw, min_std)
    p_mean, p_factor = split_full_gaussian(prior_raw, min_std)
    difference = torch.cat([q_factor - p_factor, (q_mean - p_mean)[..., None]], -1)
    whitened = torch.linalg.solve_triangular(p_factor, difference, upper=False)
    E, d = whitened[..., :-1], whitened[..., -1]
    q_std, p_std = (factor.diagonal(dim1=-2, dim2=-1) for factor in (q_factor, p_factor))
    ratio = _cost_of_ratio(E.diagonal(dim1=-2, dim2=-1), q_std, p_std)
    beside = 0.5 * E.tril(-1).square().sum(-1)
    return (0.5 * d.square() + beside + ratio).sum(-1, keepdim=True)


def full_gaussian_entropy(raw: Float[Tensor, "*batch P"], min_std: float) -> Float[Tensor, "*batch 1"]:
    """Differential entropy in nats: Z/2 log(2 pi e) + log det L, whose determinant is that of diag(s)."""
    Z = full_gaussian_width(raw.shape[-1])
    return gaussian_entropy(raw[..., : 2 * Z], min_std).sum(-1, keepdim=True)


def _cost_of_ratio(excess: Tensor, q_std: Tensor, p_std: Tensor) -> Tensor:
    """1/2 (r^2 - 1) - log r of r = q_std / p_std, from excess = r - 1."""
    # log1p is exact near r = 1 and useless near r = 0, where r - 1 has lost r.
    log_ratio = torch.where(excess < -0.5, torch.log(q_std / p_std), torch.log1p(excess.clamp(min=-0.5)))
    return 0.5 * excess * (excess + 2) - log_ratio


def categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"], prior_logits: Float[Tensor, "*batch S K"], unimix: float
) -> Float[Tensor, "*batch S"]:
    """KL between the unimix categoricals of each group, in nats.

        sum_k q_k (log q_k - log p_k)  =  sum_k q_k u_k + (p_k - q_k),    u = log q - log p

    The probabilities of both sum to one, so adding p_k - q_k to each term changes the sum by rounding only. No term is
    then below zero by more than rounding. So nearly equal distributions lose few digits, and equal ones have a KL and
    a gradient of exactly zero.
    """
    log_q, log_p = mix_uniform(posterior_logits, unimix), mix_uniform(prior_logits, unimix)
    q, p, u = log_q.exp(), log_p.exp(), log_q - log_p
    # p - q = q (exp(-u) - 1), which is exact near u = 0, and infinity times zero far from it.
    difference = torch.where(u.abs() < 1, q * torch.expm1(-u.clamp(-1, 1)), p - q)
    return (q * u + difference).sum(-1)


def categorical_entropy(logits: Float[Tensor, "*batch S K"], unimix: float) -> Float[Tensor, "*batch S"]:
    """Entropy of each unimix categorical, in nats: -sum_k p_k log p_k."""
    log_probs = mix_uniform(logits, unimix)
    return -(log_probs.exp() * log_probs).sum(-1)


def balance(
    kl: Callable[[Tensor, Tensor], Tensor], posterior: Tensor, prior: Tensor, dyn: float, rep: float, free_nats: float
) -> Float[Tensor, "*batch"]:
    """The KL of each step as it is optimised; a step whose KL is below the free nats has no gradient.

        dyn max(KL( sg(q) || p ), free) + rep max(KL( q || sg(p) ), free),    each KL a sum over groups

    Args:
        kl: the KL of each group, a function of the posterior's and the prior's parameters.
        posterior, prior: those parameters.
        dyn, rep: scales of the prior's and of the posterior's gradient.
        free_nats: nats per step that are not punished; zero clamps nothing.
    Source: DreamerV3, arXiv 2301.04104, equations 4 and 5.
    """
    to_prior = kl(posterior.detach(), prior).sum(-1)
    to_posterior = kl(posterior, prior.detach()).sum(-1)
    if free_nats == 0:
        return dyn * to_prior + rep * to_posterior
    return dyn * to_prior.clamp(min=free_nats) + rep * to_posterior.clamp(min=free_nats)
