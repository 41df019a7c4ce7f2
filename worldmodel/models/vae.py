"""A variational autoencoder: the world model of one row, without memory, actions or reward.

    z ~ N(0, 1),   x ~ p(x | z),   q(z | x) from a network

It is a `LatentSequence` with T = 1, so the bound and the estimators of a recurrent model are also those of this one.

Sources: Kingma and Welling 2014, arXiv 1312.6114; Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082.
"""

import math
from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.kernels.precision import full_precision
from worldmodel.models.decoder import GaussianHead
from worldmodel.models.latents import DiagonalGaussian, GaussianFamily
from worldmodel.models.likelihoods import Bernoullis
from worldmodel.models.networks import mlp
from worldmodel.types import Batch, Likelihood, State, Trajectory

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

    def likelihood(self, z: Float[Tensor, "*batch Z"]) -> Likelihood:
        """p(x | z)."""
        features = self.trunk(z)
        if isinstance(self.head, GaussianHead):
            return self.head(features, z)
        return Bernoullis(full_precision(self.head(features)))

    # What `objectives.batch_bound.TrainedModel` asks for, so that the learner of world models trains this one too.

    marginal_gradient = False

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"encoder": self.encoder, "decoder": nn.ModuleList([self.trunk, self.head])}

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T Z"]:
        """Standard normal noise."""
        return self.latent.noise(batch, steps, like=next(self.parameters()), generator=generator)

    def forward(self, batch: Batch, noise: Float[Tensor, "B T Z"]) -> tuple[Trajectory, dict[str, Likelihood]]:
        """Explain rows, each by itself: the batch's only leaf is x."""
        (x,) = batch.obs.values()
        posterior = self.posterior(x.to(noise.dtype))
        z = posterior.rsample(noise)
        trajectory = Trajectory(State(z[..., :0], z), posterior, self.prior(*z.shape[:2]), carry=())
        return trajectory, {NAME: self.likelihood(z)}

    def decode(self, state: State, names: Collection[str] | None = None) -> dict[str, Likelihood]:
        """p(x | z) by name; there is one name."""
        return {NAME: self.likelihood(state.stoch)}

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """x by name."""
        (x,) = batch.obs.values()
        return {NAME: x}

    def observed(self, batch: Batch) -> dict[str, Bool[Tensor, "B T"]]:
        """Every x is an observation."""
        return {}

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

    def initial(self, samples: int) -> Float[Tensor, "N B 0"]:
        """Nothing."""
        return self.x.new_zeros(samples, len(self.x), 0)

    def step(self, carry: Float[Tensor, "N B 0"], t: int) -> tuple[Tensor, Float[Tensor, "N B 0"], DiagonalGaussian]:
        """Nothing, no h, and the standard normal prior."""
        return carry, carry, self.model.prior(*carry.shape[:2])

    def advance(self, carry: Float[Tensor, "N B 0"], state: State) -> Float[Tensor, "N B 0"]:
        """Nothing."""
        return carry

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> DiagonalGaussian:
        """q(z | x)."""
        return self.model.latent.distribution(self._raw.expand(len(deter), -1, -1))

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x | z)."""
        return {NAME: self.model.likelihood(state.stoch).log_prob(self.x.expand(len(state.stoch), -1, -1))}
