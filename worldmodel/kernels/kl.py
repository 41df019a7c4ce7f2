"""KL divergence per latent group, from what the heads put out. The one door to it: loss, bound and diagnostics agree.

Densities want float32 or better whatever the autocast, so half-precision inputs are computed in float32.
"""

from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels import kl_reference
from worldmodel.kernels.precision import full_precision


def gaussian_kl(
    posterior_raw: Float[Tensor, "*batch P"], prior_raw: Float[Tensor, "*batch P"], *, min_std: float
) -> Float[Tensor, "*batch S"]:
    """KL(posterior || prior) of S diagonal Gaussian groups, in nats.

    Args:
        posterior_raw: means, then unconstrained stds; P = 2S. std = min_std + softplus(unconstrained).
        prior_raw: the same layout and shape.
        min_std: floor of both stds, greater than zero.
    Returns:
        The raw KL of each group, float32 or float64; its sum over S is the step's KL.
    Raises:
        ValueError: if shapes or dtypes disagree, P is odd, or min_std is not positive.
    """
    _check_pair(posterior_raw, prior_raw, "posterior_raw", "prior_raw")
    if posterior_raw.shape[-1] % 2:
        raise ValueError(f"posterior_raw: expected an even last dimension (means and stds), got {posterior_raw.shape}")
    if not min_std > 0:
        raise ValueError(f"min_std: expected a number greater than zero, got {min_std!r}")
    return kl_reference.gaussian_kl(full_precision(posterior_raw), full_precision(prior_raw), min_std)


def categorical_kl(
    posterior_logits: Float[Tensor, "*batch S K"], prior_logits: Float[Tensor, "*batch S K"], *, unimix: float
) -> Float[Tensor, "*batch S"]:
    """KL(posterior || prior) of S categorical groups of K classes, both mixed with the uniform distribution, in nats.

    Args:
        posterior_logits: unnormalised log-probabilities before mixing.
        prior_logits: the same shape.
        unimix: share of the uniform distribution, in [0, 1).
    Returns:
        The raw KL of each group, float32 or float64; its sum over S is the step's KL.
    Raises:
        ValueError: if shapes or dtypes disagree, or unimix is out of range.
    """
    _check_pair(posterior_logits, prior_logits, "posterior_logits", "prior_logits")
    if not 0 <= unimix < 1:
        raise ValueError(f"unimix: expected a share in [0, 1), got {unimix!r}")
    return kl_reference.categorical_kl(full_precision(posterior_logits), full_precision(prior_logits), unimix)


def _check_pair(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name}: expected one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.dtype != second.dtype or not first.is_floating_point():
        raise ValueError(f"{first_name} and {second_name}: expected one float dtype, got {first.dtype}, {second.dtype}")
