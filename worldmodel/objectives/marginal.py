"""The exact gradient of a row's expected log-likelihoods with respect to a categorical posterior.

For a posterior of independent groups, and f(z) = log p(x_t | h_t, z), any group s may be summed over by itself:

    d E_q[f(z)]  =  E_q[ sum_s sum_k dq_s(k) f(z with class k in group s) ]

so that one sample and its S * K alternatives make an unbiased estimate; with one group it is exact. A straight-through
gradient puts the tangent f(z) + f'(z) (k - z_s) in the place of f. For a log-likelihood that goes wrong where it
matters most: at a code that explains the row, log p(x_t | h_t, z) is near its maximum and flat, and the tangent says
that nothing is lost by another code. The KL then pulls the code away, and the posterior forgets what it knew.

What z_t does to later rows is not summed over: that gradient stays the one of `rsample`.

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
    """The same bound, whose log-likelihoods have the gradient of their expectation over each group of z_t.

    Args:
        bound: at the samples; its log-likelihoods must have been computed at z_t without a gradient behind it.
        posterior: q(z_t | h_t, x).
        stoch: z_t, the samples.
        log_likelihood: log p(x_t | h_t, z_t) by name, as the bound has them, at other z_t [Z, B, T, Z]: -> [Z, B, T].
    """
    with torch.no_grad():
        alternatives = log_likelihood(posterior.alternatives(stoch))
    probs = posterior.log_probs.exp().flatten(-2)  # [B, T, Z]
    change = probs - probs.detach()  # zero, but not its gradient
    terms = {
        name: term + (change * alternatives[name].movedim(0, -1)).sum(-1) for name, term in bound.log_likelihood.items()
    }
    return replace(bound, log_likelihood=terms)
