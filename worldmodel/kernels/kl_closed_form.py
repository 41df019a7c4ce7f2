"""The categorical KL without kernels: what `kl_reference` writes as formulas, with every quantity worked out once.

The balanced value, the raw KL and both entropies read the same mixed probabilities, and their gradients are known in
closed form. As formulas for autograd they mix the same logits with the uniform distribution eight times.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from worldmodel.kernels import kl_reference
from worldmodel.types import KL, BalancedKL


def categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"], prior_logits: Float[Tensor, "*batch S K"], unimix: float
) -> KL:
    """What `kl.categorical_kl` returns, for float32 or float64."""
    return KL(*_CategoricalKL.apply(posterior_logits, prior_logits, unimix, 0.0, 0.0, 0.0)[1:])


def balanced_categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"],
    prior_logits: Float[Tensor, "*batch S K"],
    unimix: float,
    dyn: float,
    rep: float,
    free_nats: float,
) -> BalancedKL:
    """What `kl.balanced_categorical_kl` returns, for float32 or float64."""
    return BalancedKL(*_CategoricalKL.apply(posterior_logits, prior_logits, unimix, dyn, rep, free_nats))


class _CategoricalKL(torch.autograd.Function):
    """q, p = (1 - unimix) softmax + unimix / K  ->  balanced KL, raw KL, both entropies.

    With s_q, s_p the softmaxes, u = log q - log p, and a_q, a_p what reaches the KL of a group from the raw and the
    balanced KL together:

        dKL/dq = u                        dH_q/dq = -log q             dH_p/dp = -log p
        dKL/dp = (p - q) / p              d(probabilities)/d(logits) g = (1 - unimix) s (g - <s, g>)

    Constants that are the same in every class are left out: they reach no logit. Gradients are exactly zero at q = p.
    """

    @staticmethod
    def forward(
        ctx: Any, q_logits: Tensor, p_logits: Tensor, unimix: float, dyn: float, rep: float, free_nats: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        soft_q, q, log_q = _mix(q_logits, unimix)
        soft_p, p, log_p = _mix(p_logits, unimix)
        u = log_q - log_p
        # p - q = q (exp(-u) - 1) = p (1 - exp(u)), by whichever exponential is at most one: exact near u = 0.
        difference = torch.maximum(q, p).mul_(u.abs().neg_().expm1_()).copysign_(u).neg_()
        kl = (q * u).add_(difference).sum(-1)
        step = kl.sum(-1)
        clamped = step < free_nats if free_nats else torch.zeros_like(step, dtype=torch.bool)
        held = step.clamp(min=free_nats) if free_nats else step
        ctx.save_for_backward(q_logits, p_logits, soft_q, soft_p, log_q, log_p, difference, clamped)
        ctx.settings = (unimix, dyn, rep, free_nats)
        ctx.set_materialize_grads(False)
        return dyn * held + rep * held, kl, -(q * log_q).sum(-1), -(p * log_p).sum(-1)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        q_logits, p_logits, soft_q, soft_p, log_q, log_p, difference, clamped = ctx.saved_tensors
        unimix, dyn, rep, _ = ctx.settings
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return (*_by_the_formulas(q_logits, p_logits, ctx.settings, cotangents), None, None, None, None)
        balanced, kl, q_entropy, p_entropy = cotangents
        q_gradient = p_gradient = None
        if ctx.needs_input_grad[0]:
            to_kl = _reaching(kl, balanced, rep, clamped)
            to_q = _sum(_times(to_kl, log_q - log_p), _times(_negative(q_entropy), log_q))
            q_gradient = _to_logits(to_q, soft_q, unimix)
        if ctx.needs_input_grad[1]:
            to_kl = _reaching(kl, balanced, dyn, clamped)
            to_entropy = _times(_negative(p_entropy), log_p)
            if unimix == 0:  # p may have vanished, but s = p
                p_gradient = _sum(_times(to_kl, difference), _to_logits(to_entropy, soft_p, unimix))
            else:
                to_p = _sum(_times(to_kl, log_p.exp().reciprocal_().mul_(difference)), to_entropy)
                p_gradient = _to_logits(to_p, soft_p, unimix)
        return q_gradient, p_gradient, None, None, None, None


def _mix(logits: Tensor, unimix: float) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax, mixed probabilities and their logarithms: `kl_reference.mix_uniform`, the probabilities first."""
    if unimix == 0:
        log_probs = log_softmax(logits, -1)
        soft = log_probs.exp()
        return soft, soft, log_probs
    soft = logits.softmax(-1)
    probs = (soft * (1 - unimix)).add_(unimix / logits.shape[-1])
    return soft, probs, probs.log()


def _reaching(kl: Tensor | None, balanced: Tensor | None, scale: float, clamped: Tensor) -> Tensor | None:
    """The cotangent [..., S] of a group's KL, for one side of the balance."""
    if balanced is None:
        return kl
    step = (scale * balanced).masked_fill(clamped, 0.0)[..., None]
    return step if kl is None else kl + step


def _times(cotangent: Tensor | None, derivative: Tensor) -> Tensor | None:
    return None if cotangent is None else cotangent[..., None] * derivative


def _negative(cotangent: Tensor | None) -> Tensor | None:
    return None if cotangent is None else -cotangent


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _to_logits(to_probs: Tensor | None, soft: Tensor, unimix: float) -> Tensor | None:
    if to_probs is None:
        return None
    return torch._softmax_backward_data(to_probs.mul_(1 - unimix), soft, -1, soft.dtype)


def _by_the_formulas(
    q: Tensor, p: Tensor, settings: tuple[float, float, float, float], cotangents: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The same gradients by autograd, which can be differentiated as often as one likes."""
    unimix, dyn, rep, free_nats = settings
    formula = functools.partial(kl_reference.categorical_kl, unimix=unimix)
    balanced = kl_reference.balance(formula, q, p, dyn, rep, free_nats)
    entropies = (kl_reference.categorical_entropy(logits, unimix) for logits in (q, p))
    outputs = (balanced, formula(q, p), *entropies)
    used = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if g is not None and y.requires_grad]
    wanted = [x for x in (q, p) if x.requires_grad]
    gradients = iter(
        torch.autograd.grad([y for y, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True)
    )
    return next(gradients) if q.requires_grad else None, next(gradients) if p.requires_grad else None
