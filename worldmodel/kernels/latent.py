"""A sample of the latent, from what a head puts out and noise: the end of every step of the recurrent loop.

Written out in torch it is up to thirteen small operations forward and three backward, at each step (docs/kernels.md);
the kernels make it one and one. `gaussian_head_on_triton` and `categorical_head_on_triton` say which of the two runs.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels import latent_reference
from worldmodel.kernels.backend import Backend, runs_on_triton


def gaussian_head(
    raw: Float[Tensor, "*batch P"], noise: Float[Tensor, "*batch S"], *, min_std: float, backend: Backend = "auto"
) -> Float[Tensor, "*batch S"]:
    """mean + std * noise, with std = min_std + softplus(unconstrained std).

    Args:
        raw: means, then unconstrained stds; P = 2S.
        noise: standard normal; no gradient reaches it.
        min_std: floor of the stds, greater than zero.
        backend: "reference" or "triton"; "auto" is the reference, which is cheaper to call. The kernels can be
            differentiated once, backward, and not by torch.func.
    Returns:
        The sample, float32 or float64, differentiable in `raw`.
    Raises:
        ValueError: if shapes, dtypes or devices disagree, P is odd, noise wants a gradient, min_std is not positive,
            or "triton" cannot run here.
        NotImplementedError: if a forward-mode derivative is asked of the kernels.
    """
    if raw.ndim < 1 or raw.shape[-1] % 2:
        raise ValueError(f"raw: expected an even last dimension (means and stds), got {tuple(raw.shape)}")
    _check_noise(noise, raw, (*raw.shape[:-1], raw.shape[-1] // 2))
    if isinstance(min_std, Tensor) or not 0 < min_std < math.inf:
        raise ValueError(f"min_std: expected a number greater than zero, got {min_std!r}")
    if gaussian_head_on_triton(backend, raw, noise):
        from worldmodel.kernels import latent_triton

        return latent_triton.gaussian_head(raw, noise, min_std)
    return latent_reference.gaussian_head(raw, noise, min_std)


def categorical_head(
    logits: Float[Tensor, "*batch S K"],
    noise: Float[Tensor, "*batch S K"],
    *,
    unimix: float,
    backend: Backend = "auto",
) -> Float[Tensor, "*batch Z"]:
    """One class of every group by Gumbel-max, with the straight-through gradient of the probabilities.

    Args:
        logits: unnormalised log-probabilities before mixing.
        noise: uniform in [0, 1); no gradient reaches it.
        unimix: share of the uniform distribution that is mixed in, in [0, 1).
        backend: "reference", "triton", or "auto", see `categorical_head_on_triton`; else as for `gaussian_head`.
    Returns:
        The S one-hot samples, flat (Z = S * K), float32 or float64, with the gradient of the mixed probabilities.
    Raises:
        ValueError: if shapes, dtypes or devices disagree, there is no class, noise wants a gradient, unimix is out of
            range, or "triton" cannot run here.
    """
    if logits.ndim < 2 or logits.shape[-1] < 1:
        raise ValueError(f"logits: expected [..., S, K] with K of at least one, got {tuple(logits.shape)}")
    _check_noise(noise, logits, tuple(logits.shape))
    if isinstance(unimix, Tensor) or not 0 <= unimix < 1:
        raise ValueError(f"unimix: expected a share in [0, 1), got {unimix!r}")
    if categorical_head_on_triton(backend, logits, noise):
        from worldmodel.kernels import latent_triton

        return latent_triton.categorical_head(logits, noise, unimix)
    return latent_reference.categorical_head(logits, noise, unimix)


def gaussian_head_on_triton(backend: Backend, raw: Tensor, noise: Tensor) -> bool:
    """Whether the kernels draw a Gaussian sample: where they are asked for, since the formula is cheaper to call.

    Raises:
        ValueError: as `categorical_head_on_triton`.
    """
    return backend != "auto" and categorical_head_on_triton(backend, raw, noise)


def categorical_head_on_triton(backend: Backend, logits: Tensor, noise: Tensor) -> bool:
    """Whether the kernels draw a categorical sample: by "auto" on a GPU, unless a compiler is at work.

    Inside `torch.compile` the compiler fuses the formula with what is around it.
    Raises:
        ValueError: as `runs_on_triton`, and if "triton" is asked for inside `torch.compile`.
    """
    if not torch.compiler.is_compiling():
        return runs_on_triton(backend, logits, noise)
    if backend == "triton":
        raise ValueError('backend: expected "auto" or "reference" inside torch.compile, got "triton"')
    return False


def _check_noise(noise: Tensor, source: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(noise.shape) != shape:
        raise ValueError(f"noise: expected the shape {shape}, got {tuple(noise.shape)}")
    if not (noise.is_floating_point() and source.is_floating_point()):
        raise ValueError(f"noise: expected two float dtypes, got {noise.dtype} beside {source.dtype}")
    if noise.device != source.device:
        raise ValueError(f"noise: expected it on {source.device}, got {noise.device}")
    if noise.requires_grad and torch.is_grad_enabled():
        raise ValueError("noise: expected a tensor without a gradient, got one that requires it; none would reach it")
