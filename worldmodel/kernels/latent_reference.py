"""A sample of the latent from what a head puts out, as formulas: plain torch, any device, any float dtype."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions.utils import clamp_probs

from worldmodel.kernels.kl_reference import mix_uniform_probs, split_gaussian
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
    return straight_through(mix_uniform_probs(full_precision(logits), unimix), rates(noise)).flatten(-2)


def straight_through(probs: Float[Tensor, "*batch K"], rates: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """A one-hot sample with the gradient of the probabilities.

        z = onehot( argmax_k  p_k rates_k ),    dz/dp = 1

    The first of equals wins.
    Source: Bengio et al. 2013, arXiv 1308.3432.
    """
    return one_hot_draw(probs, rates) + (probs - probs.detach())


def one_hot_draw(probs: Float[Tensor, "*batch K"], rates: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """onehot( argmax_k  p_k rates_k ), without a gradient."""
    drawn = (probs.detach() * rates).argmax(-1, keepdim=True)
    # torch's one_hot reads the largest index back, even on a CPU.
    return torch.zeros_like(probs, requires_grad=False).scatter_(-1, drawn, 1.0)


def rates(noise: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """-1 / log u of uniform noise u: with these, class k is drawn with probability p_k.

    It is the Gumbel-max draw, argmax_k log p_k - log(-log u_k), without its logarithms. u is kept one rounding step of
    its dtype away from 0 and 1.
    """
    return full_precision(clamp_probs(noise)).log_().reciprocal_().neg_()
