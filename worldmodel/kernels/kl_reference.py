"""The KL divergences as formulas: plain torch, any device, any float dtype, differentiable as often as one likes."""

import math

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


def gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"], prior_raw: Float[Tensor, "*batch P"], min_std: float
) -> Float[Tensor, "*batch S"]:
    """KL( N(m_q, s_q^2) || N(m_p, s_p^2) ) of each of the S groups, in nats.

        1/2 ((m_q - m_p) / s_p)^2 + 1/2 (r^2 - 1) - log r,    r = s_q / s_p

    written in r - 1 so that nearly equal distributions lose no digits and equal ones give exactly zero.
    """
    q_mean, q_std = split_gaussian(posterior_raw, min_std)
    p_mean, p_std = split_gaussian(prior_raw, min_std)
    excess = (q_std - p_std) / p_std
    # log1p is exact near r = 1 and useless near r = 0, where r - 1 has lost r.
    log_ratio = torch.where(excess < -0.5, torch.log(q_std / p_std), torch.log1p(excess.clamp(min=-0.5)))
    return 0.5 * ((q_mean - p_mean) / p_std).square() + 0.5 * excess * (excess + 2) - log_ratio


def categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"], prior_logits: Float[Tensor, "*batch S K"], unimix: float
) -> Float[Tensor, "*batch S"]:
    """KL between the unimix categoricals of each group: sum_k q_k (log q_k - log p_k), in nats."""
    log_q = mix_uniform(posterior_logits, unimix)
    log_p = mix_uniform(prior_logits, unimix)
    return (log_q.exp() * (log_q - log_p)).sum(-1)
