"""KL divergence of each latent group, from what the heads put out; loss, bound and diagnostics all take it from here.

Half-precision inputs are computed in float32, whatever the autocast, and may lie beside float32 ones. Reference and
Triton kernels return the same.
"""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels import kl_closed_form, kl_reference
from worldmodel.kernels.backend import Backend, runs_on_triton
from worldmodel.kernels.precision import full_precision
from worldmodel.types import KL, BalancedKL


def gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"],
    prior_raw: Float[Tensor, "*batch P"],
    *,
    min_std: float,
    backend: Backend = "auto",
) -> KL:
    """KL(posterior || prior) of S diagonal Gaussian groups, and their entropies, in nats.

    Args:
        posterior_raw: means, then unconstrained stds; P = 2S. std = min_std + softplus(unconstrained).
        prior_raw: the same layout and shape; its dtype may differ where neither is float64.
        min_std: floor of both stds, greater than zero.
        backend: "reference", "triton", or "auto": triton for tensors on a GPU, where it is installed and knows the
            dtype. The kernels can be differentiated once, backward; the reference any way and as
            often as one likes.
    Returns:
        Three tensors [*batch S], float32 or float64, each differentiable in both inputs.
    Raises:
        ValueError: if shapes, dtypes or devices disagree, P is odd, min_std is not a positive number, or "triton"
            cannot run here.
        NotImplementedError: if a forward-mode derivative is asked of the kernels.
    """
    _check_gaussian(posterior_raw, prior_raw, min_std)
    if runs_on_triton(backend, posterior_raw, prior_raw):
        from worldmodel.kernels import kl_triton

        return KL(*kl_triton.gaussian_kl(posterior_raw, prior_raw, min_std, 0.0, 0.0, 0.0)[:3])
    return _gaussian_reference(full_precision(posterior_raw), full_precision(prior_raw), min_std)


def balanced_gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"],
    prior_raw: Float[Tensor, "*batch P"],
    *,
    min_std: float,
    dyn: float,
    rep: float,
    free_nats: float,
    backend: Backend = "auto",
) -> BalancedKL:
    """What `gaussian_kl` returns, and the KL of each step as training optimises it.

        balanced = dyn max(KL( sg(q) || p ), free_nats) + rep max(KL( q || sg(p) ), free_nats)

    Args:
        posterior_raw, prior_raw, min_std, backend: as in `gaussian_kl`.
        dyn, rep: scales of the prior's and of the posterior's gradient, not negative.
        free_nats: nats per step, on the sum over groups, that are not punished; not negative.
    Returns:
        Its value and gradients are those of the formula; it is one launch forward and one backward on a GPU.
    Raises:
        ValueError: as `gaussian_kl`; if a scale is not a number or is negative; or if, where gradients are wanted, one
            input takes none although its scale is not zero.
    """
    _check_gaussian(posterior_raw, prior_raw, min_std)
    _check_balance(("posterior_raw", posterior_raw), ("prior_raw", prior_raw), dyn, rep, free_nats)
    if runs_on_triton(backend, posterior_raw, prior_raw):
        from worldmodel.kernels import kl_triton

        outputs = kl_triton.gaussian_kl(posterior_raw, prior_raw, min_std, dyn, rep, free_nats)
        return BalancedKL(outputs[3], *outputs[:3])
    q, p = full_precision(posterior_raw), full_precision(prior_raw)
    formula = functools.partial(kl_reference.gaussian_kl, min_std=min_std)
    balanced = kl_reference.balance(formula, q, p, dyn, rep, free_nats)
    return BalancedKL(balanced, *_gaussian_reference(q, p, min_std))


def full_gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"],
    prior_raw: Float[Tensor, "*batch P"],
    *,
    min_std: float,
    backend: Backend = "auto",
) -> KL:
    """KL(posterior || prior) of Gaussians with full covariances, and their entropies, in nats.

    Args:
        posterior_raw: means, unconstrained stds, and what lies below the diagonal of the covariance's Cholesky factor,
            as `kl_reference.split_full_gaussian` reads them; P = Z (Z + 3) / 2.
        prior_raw: the same layout and shape; its dtype may differ where neither is float64.
        min_std: floor of both factors' diagonals, greater than zero.
        backend: "auto" or "reference", which are one: there are no kernels. It can be differentiated any way.
    Returns:
        Three tensors [*batch 1], since the entries of z are dependent and so one group; float32 or float64.
    Raises:
        ValueError: if shapes, dtypes or devices disagree, P is no such number, min_std is not a positive number, or
            the backend is "triton" or unknown.
    """
    _check_full_gaussian(posterior_raw, prior_raw, min_std, backend)
    return _full_gaussian_reference(full_precision(posterior_raw), full_precision(prior_raw), min_std)


def balanced_full_gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"],
    prior_raw: Float[Tensor, "*batch P"],
    *,
    min_std: float,
    dyn: float,
    rep: float,
    free_nats: float,
    backend: Backend = "auto",
) -> BalancedKL:
    """What `full_gaussian_kl` returns, and the KL of each step as training optimises it.

    Arguments as in `full_gaussian_kl` and `balanced_gaussian_kl`, errors too; the value is the latter's formula.
    """
    _check_full_gaussian(posterior_raw, prior_raw, min_std, backend)
    _check_balance(("posterior_raw", posterior_raw), ("prior_raw", prior_raw), dyn, rep, free_nats)
    q, p = full_precision(posterior_raw), full_precision(prior_raw)
    formula = functools.partial(kl_reference.full_gaussian_kl, min_std=min_std)
    balanced = kl_reference.balance(formula, q, p, dyn, rep, free_nats)
    return BalancedKL(balanced, *_full_gaussian_reference(q, p, min_std))


def categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"],
    prior_logits: Float[Tensor, "*batch S K"],
    *,
    unimix: float,
    backend: Backend = "auto",
) -> KL:
    """KL(posterior || prior) of S categorical groups of K classes, both mixed with the uniform distribution, in nats.

    Args:
        posterior_logits: unnormalised log-probabilities before mixing.
        prior_logits: the same shape, as in `gaussian_kl`.
        unimix: share of the uniform distribution, in [0, 1).
        backend: as in `gaussian_kl`. Without kernels "auto" works everything out once and gives the gradients in closed
            form, which torch.func and forward mode cannot take; "reference" is the formulas, which they can.
    Returns:
        The KL and both entropies [*batch S], float32 or float64, each differentiable in both inputs.
    Raises:
        ValueError: if shapes, dtypes or devices disagree, there is no class, unimix is out of range, or "triton" cannot
            run here.
        NotImplementedError: as `gaussian_kl`.
    """
    _check_categorical(posterior_logits, prior_logits, unimix)
    if runs_on_triton(backend, posterior_logits, prior_logits):
        from worldmodel.kernels import kl_triton

        return KL(*kl_triton.categorical_kl(posterior_logits, prior_logits, unimix, 0.0, 0.0, 0.0)[:3])
    q, p = full_precision(posterior_logits), full_precision(prior_logits)
    if _in_one_function(backend):
        return kl_closed_form.categorical_kl(q, p, unimix)
    return _categorical_reference(q, p, unimix)


def balanced_categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"],
    prior_logits: Float[Tensor, "*batch S K"],
    *,
    unimix: float,
    dyn: float,
    rep: float,
    free_nats: float,
    backend: Backend = "auto",
) -> BalancedKL:
    """What `categorical_kl` returns, and the KL of each step as training optimises it.

    Arguments as in `categorical_kl` and `balanced_gaussian_kl`, errors too; the value is the latter's formula.
    """
    _check_categorical(posterior_logits, prior_logits, unimix)
    _check_balance(("posterior_logits", posterior_logits), ("prior_logits", prior_logits), dyn, rep, free_nats)
    if runs_on_triton(backend, posterior_logits, prior_logits):
        from worldmodel.kernels import kl_triton

        outputs = kl_triton.categorical_kl(posterior_logits, prior_logits, unimix, dyn, rep, free_nats)
        return BalancedKL(outputs[3], *outputs[:3])
    q, p = full_precision(posterior_logits), full_precision(prior_logits)
    if _in_one_function(backend):
        return kl_closed_form.balanced_categorical_kl(q, p, unimix, dyn, rep, free_nats)
    formula = functools.partial(kl_reference.categorical_kl, unimix=unimix)
    balanced = kl_reference.balance(formula, q, p, dyn, rep, free_nats)
    return BalancedKL(balanced, *_categorical_reference(q, p, unimix))


def _in_one_function(backend: Backend) -> bool:
    """Whether a categorical KL without kernels is one autograd function: unless asked otherwise, or being compiled."""
    return backend == "auto" and not torch.compiler.is_compiling()


def _gaussian_reference(q: Tensor, p: Tensor, min_std: float) -> KL:
    entropies = (kl_reference.gaussian_entropy(raw, min_std) for raw in (q, p))
    return KL(kl_reference.gaussian_kl(q, p, min_std), *entropies)


def _full_gaussian_reference(q: Tensor, p: Tensor, min_std: float) -> KL:
    entropies = (kl_reference.full_gaussian_entropy(raw, min_std) for raw in (q, p))
    return KL(kl_reference.full_gaussian_kl(q, p, min_std), *entropies)


def _categorical_reference(q: Tensor, p: Tensor, unimix: float) -> KL:
    entropies = (kl_reference.categorical_entropy(logits, unimix) for logits in (q, p))
    return KL(kl_reference.categorical_kl(q, p, unimix), *entropies)


def _check_gaussian(posterior_raw: Tensor, prior_raw: Tensor, min_std: float) -> None:
    _check_pair(posterior_raw, prior_raw, "posterior_raw", "prior_raw")
    shape = tuple(posterior_raw.shape)
    if not shape or shape[-1] % 2:
        raise ValueError(f"posterior_raw: expected an even last dimension (means and stds), got {shape}")
    _check_min_std(min_std)


def _check_full_gaussian(posterior_raw: Tensor, prior_raw: Tensor, min_std: float, backend: Backend) -> None:
    if backend not in ("auto", "reference"):
        raise ValueError(
            f'backend: expected "auto" or "reference" for full covariances, which have no kernels, got {backend!r}'
        )
    _check_pair(posterior_raw, prior_raw, "posterior_raw", "prior_raw")
    shape = tuple(posterior_raw.shape)
    Z = kl_reference.full_gaussian_width(shape[-1]) if shape else 0
    if Z < 1 or shape[-1] != Z * (Z + 3) // 2:
        raise ValueError(f"posterior_raw: expected a last dimension of Z (Z + 3) / 2 for a width Z, got {shape}")
    _check_min_std(min_std)


def _check_min_std(min_std: float) -> None:
    if isinstance(min_std, Tensor) or not 0 < min_std < math.inf:
        raise ValueError(f"min_std: expected a number greater than zero, got {min_std!r}")


def _check_categorical(posterior_logits: Tensor, prior_logits: Tensor, unimix: float) -> None:
    _check_pair(posterior_logits, prior_logits, "posterior_logits", "prior_logits")
    shape = tuple(posterior_logits.shape)
    if len(shape) < 2 or shape[-1] < 1:
        raise ValueError(f"posterior_logits: expected [..., S, K] with K of at least one, got {shape}")
    if isinstance(unimix, Tensor) or not 0 <= unimix < 1:
        raise ValueError(f"unimix: expected a share in [0, 1), got {unimix!r}")


def _check_pair(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name}: expected one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    computed = {torch.promote_types(x.dtype, torch.float32) for x in (first, second)}
    if not (first.is_floating_point() and second.is_floating_point()) or len(computed) > 1:
        raise ValueError(
            f"{first_name} and {second_name}: expected float dtypes up to float32, or float64 twice, got {first.dtype},"
            f" {second.dtype}"
        )
    if first.device != second.device:
        raise ValueError(f"{first_name} and {second_name}: expected one device, got {first.device}, {second.device}")


def _check_balance(
    posterior: tuple[str, Tensor], prior: tuple[str, Tensor], dyn: float, rep: float, free_nats: float
) -> None:
    for name, number in (("dyn", dyn), ("rep", rep), ("free_nats", free_nats)):
        if isinstance(number, Tensor) or not 0 <= number < math.inf:
            raise ValueError(f"{name}: expected a number, zero or more, got {number!r}")
    if not torch.is_grad_enabled() or posterior[1].requires_grad == prior[1].requires_grad:
        return
    for (name, x), key, scale in ((posterior, "rep", rep), (prior, "dyn", dyn)):
        if scale and not x.requires_grad:
            raise ValueError(
                f"{name}: expected a tensor that takes a gradient, as the other one does, got one that takes none:"
                f" {key} = {scale} would do nothing. Set {key} to 0 if that is meant"
            )
