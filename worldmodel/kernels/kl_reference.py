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
    # log1p is exact near r = 1 and useless near r = 0, where r - 1 has lost r.
    log_ratio = torch.where(excess < -0.5, torch.log(q_std / p_std), torch.log1p(excess.clamp(min=-0.5)))
    return 0.5 * ((q_mean - p_mean) / p_std).square() + 0.5 * excess * (excess + 2) - log_ratio


def gaussian_entropy(raw: Float[Tensor, "*batch P"], min_std: float) -> Float[Tensor, "*batch S"]:
    """Differential entropy of each of the S groups, in nats: 1/2 log(2 pi e) + log s."""
    return 0.5 * math.log(2 * math.pi * math.e) + split_gaussian(raw, min_std)[1].log()


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
