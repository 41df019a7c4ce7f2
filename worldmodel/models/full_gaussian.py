"""The family of z_t whose entries depend on each other: one Gaussian with a full covariance, by its Cholesky factor.

All of z_t is one latent group (S = 1): densities, entropies and KL are those of the step, and have a last dimension of
size one. What dtype things have is as in `models.latents`. Kernels have no part in it; neither have `models.scan` and
`models.imagine_loop`, so that a block GRU runs its plain loops.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.kernels import kl_reference
from worldmodel.kernels.kl import balanced_full_gaussian_kl, full_gaussian_kl
from worldmodel.kernels.precision import full_precision
from worldmodel.types import KL, BalancedKL

LOG_2PI = math.log(2 * math.pi)


class FullGaussian:
    """N(mean, L L'), with L lower triangular."""

    reparameterised: ClassVar[bool] = True  # whether the gradient of `rsample` is exact

    def __init__(self, raw: Float[Tensor, "*batch P"], min_std: float) -> None:
        """Args:
        raw: Z means, Z unconstrained stds, and what is below the diagonal: see `kl_reference.split_full_gaussian`.
        min_std: floor of L's diagonal, the std of each entry given those before it.
        """
        self.raw, self.min_std = raw, min_std
        self._mean_and_factor: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Float[Tensor, "*batch Z"]:
        """Mean of z."""
        return self._split()[0]

    @property
    def scale_tril(self) -> Float[Tensor, "*batch Z Z"]:
        """L, the Cholesky factor of the covariance."""
        return self._split()[1]

    def rsample(self, noise: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch Z"]:
        """mean + L noise, for standard normal noise."""
        # A product would run in bfloat16 under autocast.
        return self.mean + (self.scale_tril * noise[..., None, :]).sum(-1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw, with no gradient behind it."""
        return self.rsample(self.noise(generator))

    def noise(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """Standard normal noise for `rsample`, the numbers that a diagonal Gaussian of this width would draw."""
        mean = self.mean
        return torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch 1"]:
        """log N(z; mean, L L') in nats."""
        factor = self.scale_tril
        white = torch.linalg.solve_triangular(factor, (z - self.mean)[..., None], upper=False)[..., 0]
        log_std = factor.diagonal(dim1=-2, dim2=-1).log()
        return -(0.5 * white.square() + log_std + 0.5 * LOG_2PI).sum(-1, keepdim=True)

    def entropy(self) -> Float[Tensor, "*batch 1"]:
        """Differential entropy in nats."""
        return kl_reference.full_gaussian_entropy(full_precision(self.raw), self.min_std)

    def kl(self, other: "FullGaussian") -> Float[Tensor, "*batch 1"]:
        """KL(self || other) in nats."""
        return self.divergence(other).kl

    def divergence(self, other: "FullGaussian") -> KL:
        """KL(self || other) and the entropies of both, in nats."""
        return full_gaussian_kl(self.raw, other.raw, min_std=self.min_std)

    def balanced_kl(self, other: "FullGaussian", *, dyn: float, rep: float, free_nats: float) -> BalancedKL:
        """The KL as training optimises it: dyn scales other's gradient, rep one's own."""
        return balanced_full_gaussian_kl(
            self.raw, other.raw, min_std=self.min_std, dyn=dyn, rep=rep, free_nats=free_nats
        )

    def detach(self) -> "FullGaussian":
        """The same distribution with no gradient behind it."""
        return FullGaussian(self.raw.detach(), self.min_std)

    @property
    def parameters(self) -> int:
        """P = Z (Z + 3) / 2."""
        return self.raw.shape[-1]

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "FullGaussian":
        """Another of the family: raw parameters moved by an offset."""
        return FullGaussian(self.raw + offset, self.min_std)

    def _split(self) -> tuple[Tensor, Tensor]:
        if self._mean_and_factor is None:  # not a cached_property, as in `DiagonalGaussian`
            self._mean_and_factor = kl_reference.split_full_gaussian(full_precision(self.raw), self.min_std)
        return self._mean_and_factor


@dataclass(frozen=True)
class FullGaussianFamily:
    """z_t in R^Z, one Gaussian. A head puts out P = Z (Z + 3) / 2 numbers, the first 2Z those of a diagonal one."""

    width: int  # Z
    min_std: float
    gradient: ClassVar[str] = "reparameterised"

    @property
    def parameters(self) -> int:
        """P, the numbers a head puts out."""
        return self.width * (self.width + 3) // 2

    @property
    def beside_the_diagonal(self) -> slice:
        """Which of them make entries depend on each other: with zeros there, the Gaussian is diagonal."""
        return slice(2 * self.width, None)

    def distribution(self, raw: Float[Tensor, "*batch P"]) -> FullGaussian:
        """The distribution that a head's output stands for."""
        return FullGaussian(raw, self.min_std)

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "*shape Z"]:
        """Standard normal noise for `rsample`."""
        return torch.randn(*shape, self.width, generator=generator, device=like.device, dtype=like.dtype)
