"""The loss: the negative bound, with the usual tricks as options, and a ledger of what each trick adds to it.

    loss = -E[ sum_terms scale * log p(x_t | h_t, z_t) ] + E[ beta * KL_t ]

With balancing, KL_t is replaced by two terms of the same KL, of which one has the gradient of p and one that of q:

    KL_t -> dyn * KL( sg(q) || p ) + rep * KL( q || sg(p) )

Overshooting (`objectives.overshooting`) and auxiliary losses are added as they are, with an entry each in the ledger.

Free nats apply to each KL, per step and to the sum over groups (one kernel on a GPU). Sources: PlaNet (arXiv
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
from worldmodel.objectives.overshooting import Overshooting
from worldmodel.types import KL, BalancedKL, BalancedLatent

FreeNatsRule = Literal["step", "mean", "excess"]


@dataclass(frozen=True)
class Objective:
    """How the loss departs from the bound, by default not at all. Fields as in `LossConfig`; `scales` by term."""

    beta: float | Float[Tensor, ""] = 1.0
    kl_warmup: int = 0
    dyn_rep: tuple[float, float] | None = None
    free_nats: float = 0.0
    free_nats_rule: FreeNatsRule = "step"
    scales: Mapping[str, float] = field(default_factory=dict)
    overshooting: Overshooting | None = None

    def at(self, update: int) -> "Objective":
        """The objective of update 0, 1, ...: over the warm-up, beta rises linearly from beta / kl_warmup.

        Source: Bowman et al. 2016, arXiv 1511.06349, section 3.1.
        """
        if update >= self.kl_warmup:
            return self
        return replace(self, beta=self.beta * (update + 1) / self.kl_warmup)


@dataclass(frozen=True)
class Loss:
    """The value that is optimised, and its parts, in nats per step."""

    value: Float[Tensor, ""]
    optimised_kl: Float[Tensor, "B T"]  # beta * KL after free nats and balancing; the bound has the raw KL
    ledger: dict[str, Float[Tensor, ""]]  # negative_elbo, then an entry for each departure; they sum to the value
    latent: dict[str, Float[Tensor, ""]]  # both entropies in nats per step, and the share of steps under free nats


def divergence(posterior: BalancedLatent, prior: BalancedLatent, objective: Objective) -> KL | BalancedKL:
    """KL(posterior || prior) for both the bound and the loss, balanced if the objective asks for it.

    A balanced KL includes free nats if their rule is "step". The other rules depend on all rows or on the balanced sum,
    and `loss` applies them.
    """
    if objective.dyn_rep is None:
        return posterior.divergence(prior)
    dyn, rep = objective.dyn_rep
    free = objective.free_nats if objective.free_nats_rule == "step" else 0.0
    return posterior.balanced_kl(prior, dyn=dyn, rep=rep, free_nats=free)


def loss(
    bound: Bound,
    each: KL | BalancedKL,
    objective: Objective,
    added: Mapping[str, Float[Tensor, "B T"]] | None = None,
) -> Loss:
    """The optimised loss for a bound.

    Args:
        bound: the bound at the sampled states.
        each: the `divergence` of these states under the objective; the bound holds its raw KL.
        objective: how the loss departs from the bound.
        added: what is added to it at every row, by its name in the ledger, in nats.
    Returns:
        The loss, with the ledger of its differences from the negative bound.
    Raises:
        ValueError: if only one of divergence and objective is balanced.
    """
    free, rule = objective.free_nats, objective.free_nats_rule
    _check_balance(each, objective)
    clipped = balanced = with_free_nats(bound.kl, bound.valid, free, rule, bound.total)
    if isinstance(each, BalancedKL) and objective.dyn_rep is not None:
        # The other rules clamp the sum of the two terms, which have one value and so reach the threshold together.
        total = sum(objective.dyn_rep) * free
        balanced = each.balanced
        if rule != "step":
            balanced = with_free_nats(balanced, bound.valid, total, rule, bound.total)
    weighted = objective.beta * balanced
    scaled = {name: objective.scales.get(name, 1.0) * term for name, term in bound.log_likelihood.items()}
    value = bound.mean(weighted - torch.stack(list(scaled.values())).sum(0))
    added = added or {}
    if added:
        value = value + bound.mean(torch.stack(list(added.values())).sum(0))
    with torch.no_grad():
        departures = {
            "free_nats": clipped - bound.kl,
            "balancing": balanced - clipped,
            "beta": weighted - balanced,
            **{f"scale_{name}": bound.log_likelihood[name] - scaled[name] for name in scaled},
            **added,
        }
        latent = {
            "posterior_entropy": each.posterior_entropy.sum(-1),
            "prior_entropy": each.prior_entropy.sum(-1),
            "under_free_nats": (bound.kl < free).to(bound.kl.dtype),
        }
        means = bound.means({"negative_elbo": -bound.elbo, **departures, **latent})
    ledger = {name: means[name] for name in ("negative_elbo", *departures)}
    return Loss(value, weighted, ledger, {name: means[name] for name in latent})


def optimised_kl(kl: Float[Tensor, "B T"], valid: Tensor, objective: Objective) -> Float[Tensor, "B T"]:
    """The value (not the gradient) of a raw KL in the loss: with free nats, balanced and weighted."""
    weight = objective.beta * (1.0 if objective.dyn_rep is None else sum(objective.dyn_rep))
    return weight * with_free_nats(kl, valid, objective.free_nats, objective.free_nats_rule)


def with_free_nats(
    kl: Float[Tensor, "B T"], valid: Tensor, free_nats: float, rule: FreeNatsRule, total: Total = own
) -> Float[Tensor, "B T"]:
    """The KL without a penalty on its first `free_nats`, by one of three rules.

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
