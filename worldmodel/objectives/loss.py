"""What is optimised: the negative bound, unless a usual trick is asked for. The ledger prices each trick.

    loss = -E[ sum_terms scale * log p(x_t | h_t, z_t) ] + E[ beta * KL_t ]

with, where balancing is on, KL_t replaced by two halves that have each other's value but only one gradient each,

    KL_t -> dyn * KL( sg(q) || p ) + rep * KL( q || sg(p) )

and free nats applied to each KL, per step on its sum over groups (one kernel on a GPU). Sources: PlaNet (arXiv
1811.04551, section 4 and its released code), DreamerV1 (1912.01603), V2 (2010.02193, equation 3), V3 (2301.04104,
equations 4 and 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.objectives.elbo import Bound, Total, masked_mean, own
from worldmodel.types import KL, BalancedKL, BalancedLatent

FreeNatsRule = Literal["step", "mean", "excess"]


@dataclass(frozen=True)
class Objective:
    """Departures from the bound; the defaults make none. Fields as in `LossConfig`, names of terms as in the bound."""

    beta: float = 1.0
    kl_warmup: int = 0
    dyn_rep: tuple[float, float] | None = None
    free_nats: float = 0.0
    free_nats_rule: FreeNatsRule = "step"
    scales: Mapping[str, float] = field(default_factory=dict)

    def at(self, update: int) -> "Objective":
        """The objective of update 0, 1, ...: beta rises linearly over the warm-up, from almost nothing.

        Source: Bowman et al. 2016, arXiv 1511.06349, section 3.1.
        """
        if update >= self.kl_warmup:
            return self
        return replace(self, beta=self.beta * (update + 1) / self.kl_warmup)


@dataclass(frozen=True)
class Loss:
    """The optimised value and what it is made of, in nats per step."""

    value: Float[Tensor, ""]
    optimised_kl: Float[Tensor, "B T"]  # beta * KL after clipping and balancing, beside the raw one in the bound
    ledger: dict[str, Float[Tensor, ""]]  # negative_elbo, then one entry a departure; they sum to the value
    latent: dict[str, Float[Tensor, ""]]  # both entropies, in nats per step, and the share of steps under free nats


def divergence(posterior: BalancedLatent, prior: BalancedLatent, objective: Objective) -> KL | BalancedKL:
    """KL(posterior || prior) for the bound and for the loss, in one call: balanced where the objective says so.

    Of free nats it has those by step; the other rules know all rows, and `loss` applies them.
    """
    if objective.dyn_rep is None:
        return posterior.divergence(prior)
    dyn, rep = objective.dyn_rep
    free = objective.free_nats if objective.free_nats_rule == "step" else 0.0
    return posterior.balanced_kl(prior, dyn=dyn, rep=rep, free_nats=free)


def loss(bound: Bound, each: KL | BalancedKL, objective: Objective) -> Loss:
    """The optimised loss for a bound.

    Args:
        bound: the bound at these states.
        each: the `divergence` for this objective, whose raw KL the bound holds.
        objective: the departures from it.
    Returns:
        The loss, and the ledger that leads from the negative bound to it.
    Raises:
        ValueError: if the divergence is balanced and the objective does not balance, or the other way round.
    """
    free, rule = objective.free_nats, objective.free_nats_rule
    _check_balance(each, objective)
    clipped = balanced = with_free_nats(bound.kl, bound.valid, free, rule, bound.total)
    if isinstance(each, BalancedKL) and objective.dyn_rep is not None:
        # The other rules clamp the sum of the halves instead: both are clamped at once, dyn and rep not being negative.
        total = sum(objective.dyn_rep) * free
        balanced = each.balanced
        if rule != "step":
            balanced = with_free_nats(balanced, bound.valid, total, rule, bound.total)
    weighted = objective.beta * balanced
    scaled = {name: objective.scales.get(name, 1.0) * term for name, term in bound.log_likelihood.items()}
    value = bound.mean(weighted - torch.stack(list(scaled.values())).sum(0))
    with torch.no_grad():
        departures = {
            "free_nats": clipped - bound.kl,
            "balancing": balanced - clipped,
            "beta": weighted - balanced,
            **{f"scale_{name}": bound.log_likelihood[name] - scaled[name] for name in scaled},
        }
        ledger = {"negative_elbo": -bound.mean(bound.elbo)}
        ledger |= {name: bound.mean(term) for name, term in departures.items()}
        latent = {
            "posterior_entropy": bound.mean(each.posterior_entropy.sum(-1)),
            "prior_entropy": bound.mean(each.prior_entropy.sum(-1)),
            "under_free_nats": bound.mean((bound.kl < free).to(bound.kl.dtype)),
        }
    return Loss(value, weighted, ledger, latent)


def optimised_kl(kl: Float[Tensor, "B T"], valid: Tensor, objective: Objective) -> Float[Tensor, "B T"]:
    """The value, though not the gradient, that the loss makes of a raw KL: clipped, balanced and weighted."""
    weight = objective.beta * (1.0 if objective.dyn_rep is None else sum(objective.dyn_rep))
    return weight * with_free_nats(kl, valid, objective.free_nats, objective.free_nats_rule)


def with_free_nats(
    kl: Float[Tensor, "B T"], valid: Tensor, free_nats: float, rule: FreeNatsRule, total: Total = own
) -> Float[Tensor, "B T"]:
    """The KL with its first `free_nats` not punished.

    step    max(KL_t, free)                DreamerV2 and V3
    mean    max(mean KL, free), everywhere DreamerV1
    excess  max(KL_t - free, 0)            PlaNet; not a bound, since it can exceed the evidence
    """
    if free_nats == 0.0:
        return kl
    if rule == "step":
        return kl.clamp(min=free_nats)
    if rule == "excess":
        return (kl - free_nats).clamp(min=0)
    return masked_mean(kl, valid, total).clamp(min=free_nats).expand_as(kl)


def _check_balance(each: KL | BalancedKL, objective: Objective) -> None:
    expected = KL if objective.dyn_rep is None else BalancedKL
    if not isinstance(each, expected):
        raise ValueError(
            f"each: expected {expected.__name__} for dyn_rep = {objective.dyn_rep}, got {type(each).__name__}"
        )
