"""A random-effects model, in float64: groups that differ, and observations that differ within a group.

    z_g ~ N(mean, between I)                 the effect of group g, one latent for each group
    x_gi ~ N(z_g, within I),  i = 1 .. n     its observations; a row of NaN is no observation, so sizes may differ

| B | groups | n | observations in a group (rows) | D | width of z and of x | N | samples |

Source: Laird and Ware 1982.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.checks import as_rows, expect_positive, expect_shape
from worldmodel.oracles.distributions import LOG_2PI, Gaussian
from worldmodel.oracles.factor_analysis import one_step
from worldmodel.oracles.linear_gaussian import LinearGaussian, LinearGaussianSequence
from worldmodel.types import Latent


@dataclass(frozen=True)
class RandomEffects:
    """The parameters, float64.

    Raises:
        ValueError: if a shape disagrees, or a variance is not positive.
    """

    mean: Float[Tensor, " D"]
    between: Float[Tensor, ""]  # variance of the groups' effects
    within: Float[Tensor, ""]  # variance of observations around their group's effect

    def __post_init__(self) -> None:
        expect_shape("mean", self.mean, self.mean.numel())
        for name in ("between", "within"):
            expect_shape(name, getattr(self, name))
            expect_positive(name, getattr(self, name))

    def sizes(self, x: Float[Tensor, "B n D"]) -> tuple[Float[Tensor, "B n D"], Float[Tensor, " B"]]:
        """The data with zeros in place of NaN, and the number of observations in every group.

        Raises:
            ValueError: if a row is only partly NaN.
        """
        x = as_rows("x", x, None, None, self.mean.numel())
        absent = torch.isnan(x)
        if bool((absent.any(-1) != absent.all(-1)).any()):
            raise ValueError("x: expected rows of numbers, or of NaN where there is no observation, got a mixed row")
        return torch.where(absent, 0.0, x), (~absent[..., 0]).sum(-1).to(x.dtype)

    def log_evidence(self, x: Float[Tensor, "B n D"]) -> Float[Tensor, " B"]:
        """log p(x_g1, .., x_gn) of every group in nats.

        The n observations of one entry have the covariance within I + between 1 1'. Its eigenvalues are within (n - 1
        times) and, in the direction of the mean, within + n between.
        """
        filled, size = self.sizes(x)
        centre = filled.sum(1) / size.clamp(min=1)[:, None]  # [B, D], of the observations
        seen = ~torch.isnan(x[..., 0])
        inside = ((filled - centre[:, None]).square().sum(-1) * seen).sum(-1) / self.within
        total = self.within + size * self.between
        around = size * (centre - self.mean).square().sum(-1) / total
        log_det = (size - 1) * self.within.log() + total.log()
        log_det = torch.where(size > 0, log_det, 0.0)
        return -0.5 * (inside + around + self.mean.numel() * (log_det + size * LOG_2PI))

    def posterior(self, x: Float[Tensor, "B n D"]) -> Gaussian:
        """p(z_g | x_g): precision 1 / between + n / within, and the precision-weighted mean of group and prior."""
        filled, size = self.sizes(x)
        precision = (1 / self.between + size / self.within)[:, None]
        mean = (self.mean / self.between + filled.sum(1) / self.within) / precision
        return Gaussian(mean, torch.diag_embed((1 / precision).expand_as(mean)))

    @torch.no_grad()
    def simulate(
        self, groups: int, size: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B n D"]]:
        """Effects and observations drawn from the model."""
        z, x = self.chain(size).simulate(self.mean.new_zeros(groups, 1, 0), generator)
        return z[:, 0], x.view(groups, size, -1)

    def chain(self, size: int) -> LinearGaussian:
        """The same model as the first step of a linear-Gaussian one, whose row holds all observations of a group."""
        D = self.mean.numel()
        identity = torch.eye(D).to(self.mean)
        R = self.within * torch.eye(size * D).to(self.mean)
        start = {"m": self.mean, "P": self.between * identity}
        return LinearGaussian.create(A=identity, Q=identity, C=identity.repeat(size, 1), R=R, **start)

    def elbo(self, q: Gaussian, x: Float[Tensor, "B n D"]) -> Float[Tensor, " B"]:
        """The bound of every group under q(z_g), [B, D], exactly."""
        return self.chain(x.shape[1]).elbo(one_step(q), x.flatten(1)[:, None])[:, 0]

    def m_step(self, q: Gaussian, x: Float[Tensor, "B n D"]) -> "RandomEffects":
        """The M-step of EM: mean and variance of the effects, and variance around them, that maximise the bound."""
        filled, size = self.sizes(x)
        seen = ~torch.isnan(x[..., 0])
        mean, spread = q.mean.mean(0), q.cov.diagonal(dim1=-2, dim2=-1)  # [B, D]
        between = ((q.mean - mean).square() + spread).mean()
        around = (filled - q.mean[:, None]).square() + spread[:, None]
        return RandomEffects(mean, between, (around * seen[..., None]).sum() / (size.sum() * mean.numel()))

    def given(
        self, x: Float[Tensor, "B n D"], *, proposal: Callable[[Tensor, int], Latent] | Gaussian | None = None
    ) -> LinearGaussianSequence:
        """The model together with its data, as a `worldmodel.types.LatentSequence` of T = 1 with a group a sequence.

        Args:
            x: observations by group; a row of NaN is no observation.
            proposal: q(z_g) as a Gaussian [B, D], or as in `LinearGaussian.given`; the exact posterior by default.
        """
        self.sizes(x)
        q = one_step(proposal) if isinstance(proposal, Gaussian) else proposal
        return self.chain(x.shape[1]).given(x.flatten(1)[:, None], proposal=q)
