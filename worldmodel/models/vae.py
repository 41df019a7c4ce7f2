"""A variational autoencoder: the world model of one row, without memory, actions or reward.

    z ~ N(0, 1),   x ~ p(x | z),   q(z | x) from a network

It is a `LatentSequence` with T = 1, so the bound and the estimators of a recurrent model are also those of this one.

Sources: Kingma and Welling 2014, arXiv 1312.6114; Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.kernels.precision import full_precision
from worldmodel.models.decoder import GaussianHead
from worldmodel.models.latents import DiagonalGaussian, GaussianFamily
from worldmodel.models.likelihoods import Bernoullis
from worldmodel.models.networks import mlp
from worldmodel.types import Likelihood, State

NAME = "x"  # of the observation


class VAE(nn.Module):
    """p(x, z) and q(z | x) for vectors x of n numbers, or of n zeros and ones."""

    def __init__(
        self,
        n: int,
        *,
        latents: int,
        hidden: int,
        layers: int = 1,
        observation: Literal["gaussian", "bernoulli"] = "gaussian",
        min_std: float = 1e-3,
        resolution: float = 1e-2,
    ) -> None:
        """Args:
        n: numbers of x.
        latents: numbers of z.
        hidden, layers: width and number of hidden layers of encoder and decoder.
        observation: the density, or mass, of x.
        min_std: floor of the standard deviations of q.
        resolution: floor of those of a Gaussian x.
        """
        super().__init__()
        self.latent = GaussianFamily(latents, min_std)
        self.encoder = nn.Sequential(mlp([n] + [hidden] * layers), nn.Linear(hidden, self.latent.parameters))
        self.trunk = mlp([latents] + [hidden] * layers)
        gaussian = observation == "gaussian"
        self.head = (
            GaussianHead(hidden, latents, n, std=None, resolution=resolution, skip=True)
            if gaussian
            else nn.Linear(hidden, n)
        )

    def prior(self, *shape: int) -> DiagonalGaussian:
        """N(0, 1) of every latent, with a leading shape."""
        like = next(self.parameters())
        mean = torch.zeros(*shape, self.latent.groups, dtype=like.dtype, device=like.device)
        raw_std = torch.full_like(mean, math.log(math.expm1(1 - self.latent.min_std)))
        return self.latent.distribution(torch.cat([mean, raw_std], -1))

    def posterior(self, x: Float[Tensor, "*batch n"]) -> DiagonalGaussian:
        """q(z | x)."""
        return self.latent.distribution(self.encoder(x))

    def decode(self, z: Float[Tensor, "*batch Z"]) -> Likelihood:
        """p(x | z)."""
        features = self.trunk(z)
        if isinstance(self.head, GaussianHead):
            return self.head(features, z)
        return Bernoullis(full_precision(self.head(features)))

    def forward(
        self, x: Float[Tensor, "B 1 n"], noise: Float[Tensor, "B 1 Z"]
    ) -> tuple[dict[str, Likelihood], DiagonalGaussian, DiagonalGaussian]:
        """Likelihood by name, posterior and prior for `objectives.elbo`, differentiable; noise is standard normal."""
        posterior = self.posterior(x)
        return {NAME: self.decode(posterior.rsample(noise))}, posterior, self.prior(*x.shape[:2])

    def given(self, x: Float[Tensor, "B n"]) -> "ConditionedVAE":
        """This model and B observations, as a `LatentSequence` of one row each."""
        return ConditionedVAE(self, x.to(next(self.parameters()).dtype))


class ConditionedVAE:
    """p(x, z) and q(z | x) of B observations. Nothing is carried from row to row: h has no width."""

    def __init__(self, model: VAE, x: Float[Tensor, "B n"]) -> None:
        """Args:
        model: the autoencoder.
        x: the observations, in the model's precision.
        """
        self.model, self.x = model, x
        with torch.no_grad():
            self._raw = model.posterior(x).raw  # [B, P]

    @property
    def valid(self) -> Bool[Tensor, "B 1"]:
        """Every row counts."""
        return torch.ones(len(self.x), 1, dtype=torch.bool, device=self.x.device)

    def initial(self, samples: int) -> State:
        """Nothing, [N, B, ...]."""
        shape = (samples, len(self.x))
        return State(self.x.new_zeros(*shape, 0), self.x.new_zeros(*shape, self.model.latent.width))

    def step(self, state: State, t: int) -> tuple[Float[Tensor, "N B D"], DiagonalGaussian]:
        """No h, and the standard normal prior."""
        return state.deter, self.model.prior(*state.deter.shape[:2])

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> DiagonalGaussian:
        """q(z | x)."""
        return self.model.latent.distribution(self._raw.expand(len(deter), -1, -1))

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x | z)."""
        return {NAME: self.model.decode(state.stoch).log_prob(self.x.expand(len(state.stoch), -1, -1))}
