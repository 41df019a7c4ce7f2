"""A Gaussian Markov chain, the form of the exact posterior of a linear-Gaussian model and of its approximations.

q(z_1:T) = prod_t N(z_t; F_t z_{t-1} + f_t, V_t),    with F_1 = 0
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.distributions import Gaussian, apply, stack


@dataclass(frozen=True)
class MarkovGaussian:
    """q(z_t | z_{t-1}) = N(F_t z_{t-1} + f_t, V_t) for B sequences of T steps. Calling it gives a proposal."""

    F: Float[Tensor, "B T n n"]  # not read at the first step
    f: Float[Tensor, "B T n"]
    V: Float[Tensor, "B T n n"]  # positive definite

    def __call__(self, previous: Float[Tensor, "N B n"], t: int) -> Gaussian:
        """q(z_t | z_{t-1}) for z_{t-1} = previous."""
        mean = self.f[:, t].expand(previous.shape)
        return Gaussian(mean + apply(self.F[:, t], previous) if t else mean, self.V[:, t])

    def marginals(self) -> Gaussian:
        """q(z_t) at every step, [B, T, ...]."""
        beliefs = [Gaussian(self.f[:, 0], self.V[:, 0])]
        for t in range(1, self.f.shape[1]):
            F, last = self.F[:, t], beliefs[-1]
            beliefs.append(Gaussian(apply(F, last.mean) + self.f[:, t], F @ last.cov @ F.mT + self.V[:, t]))
        return stack(beliefs)

    def joint(self) -> Gaussian:
        """q(z_1:T) as one Gaussian over T * n numbers, [B, T * n].

        z_1:T = L^-1 (f_1:T + noise), noise ~ N(0, diag(V_1, .., V_T)), L = I with the blocks -F_t below its diagonal
        """
        B, T, n = self.f.shape
        L = torch.eye(T * n, dtype=self.f.dtype, device=self.f.device).repeat(B, 1, 1)
        V = torch.zeros_like(L)
        for t in range(T):
            rows = slice(t * n, (t + 1) * n)
            V[:, rows, rows] = self.V[:, t]
            if t:
                L[:, rows, (t - 1) * n : t * n] = -self.F[:, t]
        inverse = torch.linalg.inv(L)
        return Gaussian(apply(inverse, self.f.flatten(1)), inverse @ V @ inverse.mT)

    def sample(self, samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "N B T n"]:
        """Draws of z_1:T, first step first."""
        z = [self(self.f[:, 0].expand(samples, -1, -1), 0).sample(generator)]
        for t in range(1, self.f.shape[1]):
            z.append(self(z[-1], t).sample(generator))
        return torch.stack(z, 2)

    def log_prob(self, z: Float[Tensor, "N B T n"]) -> Float[Tensor, "N B"]:
        """log q(z_1:T) in nats."""
        steps = [self(z[:, :, max(t - 1, 0)], t).log_prob(z[:, :, t])[..., 0] for t in range(z.shape[2])]
        return torch.stack(steps).sum(0)

    def entropy(self) -> Float[Tensor, "B T"]:
        """Entropy of q(z_t | z_{t-1}) at every step, in nats; their sum is that of q(z_1:T)."""
        return Gaussian(self.f, self.V).entropy()[..., 0]
