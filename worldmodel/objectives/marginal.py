"""The exact gradient of a row's expected log-likelihoods with respect to a categorical posterior.

With independent groups in the posterior and f(z) = log p(x_t | h_t, z), the sum over any one group s is exact:

    d E_q[f(z)]  =  E_q[ sum_s sum_k dq_s(k) f(z with class k in group s) ]

One sample and its S * K alternatives therefore give an unbiased estimate, which is exact if there is one group. A
straight-through gradient replaces f by its tangent f(z) + f'(z) (k - z_s). This fails where it matters most: if z
explains the row, log p(x_t | h_t, z) is near its maximum and flat, so by the tangent another class would lose nothing.
The KL then pulls the posterior away from z, and the posterior forgets it.

The effect of z_t on later rows is not summed over; its gradient is still that of `rsample`.

Source: Titsias and Lazaro-Gredilla 2015, Local expectation gradients for black box variational inference, NeurIPS 28.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.models.latents import OneHotCategorical
from worldmodel.objectives.elbo import Bound

LogLikelihoods = Mapping[str, Float[Tensor, "*batch"]]


def with_marginal_gradient(
    bound: Bound,
    posterior: OneHotCategorical,
    stoch: Float[Tensor, "B T Z"],
    log_likelihood: Callable[[Float[Tensor, "Z B T Z"]], LogLikelihoods],
) -> Bound:
    """The same bound, with the gradient of each log-likelihood's expectation over every group of z_t.

    Args:
        bound: the bound at the samples; its log-likelihoods must not have a gradient through z_t.
        posterior: q(z_t | h_t, x).
        stoch: z_t, the samples.
        log_likelihood: other z_t [Z, B, T, Z] -> log p(x_t | h_t, z_t) by name [Z, B, T]; the bound's names, but for
            those whose gradient nobody needs.
    """
    with torch.no_grad():
        alternatives = log_likelihood(posterior.alternatives(stoch))
    probs = posterior.log_probs.exp().flatten(-2)  # [B, T, Z]
    change = probs - probs.detach()  # zero, but not its gradient
    terms = {
        name: bound.log_likelihood[name] + (change * other.movedim(0, -1)).sum(-1)
        for name, other in alternatives.items()
    }
    return replace(bound, log_likelihood={**bound.log_likelihood, **terms})
