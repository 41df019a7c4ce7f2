"""A sample of the latent from what a head puts out, as formulas: plain torch, any device, any float dtype."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions.utils import clamp_probs

from worldmodel.kernels.kl_reference import mix_uniform, split_gaussian
from worldmodel.kernels.precision import full_precision


def gaussian_head(
    raw: Float[Tensor, "*batch P"], noise: Float[Tensor, "*batch S"], min_std: float
) -> Float[Tensor, "*batch S"]:
    """z = mean + std * noise, with std = min_std + softplus(second half of raw)."""
    mean, std = split_gaussian(full_precision(raw), min_std)
    return mean + std * noise


def categorical_head(
    logits: Float[Tensor, "*batch S K"], noise: Float[Tensor, "*batch S K"], unimix: float
) -> Float[Tensor, "*batch Z"]:
    """One class of each group, drawn from p = (1 - unimix) softmax(logits) + unimix / K."""
    return straight_through(mix_uniform(full_precision(logits), unimix), noise)


def straight_through(
    log_probs: Float[Tensor, "*batch S K"], noise: Float[Tensor, "*batch S K"]
) -> Float[Tensor, "*batch Z"]:
    """A one-hot sample by Gumbel-max from uniform noise u, with the gradient of the probabilities.

        z = onehot( argmax_k  log p_k - log(-log u_k) ),    dz/dp = 1

    The first of equals wins; u is kept one rounding step of its dtype away from 0 and 1.
    Source: Bengio et al. 2013, arXiv 1308.3432.
    """
    probs = log_probs.exp()
    gumbel = -torch.log(-torch.log(full_precision(clamp_probs(noise))))
    drawn = (log_probs + gumbel).argmax(-1, keepdim=True)
    hard = torch.zeros_like(probs).scatter_(-1, drawn, 1.0)  # one_hot reads the largest index back, even on a CPU
    return (hard + (probs - probs.detach())).flatten(-2)  # [..., S, K] -> [..., Z]
