"""EM for the linear-Gaussian model: coordinate ascent on the bound `LinearGaussian.elbo`.

The E-step is q = `model.posterior(x, action)`, which closes the gap. The M-step is below: the parameters that maximise
the bound under q, by two linear regressions on expected moments. Entries that were not observed are latent variables
too, completed from z_t and the observed entries of their row under the old parameters; the bound still never falls.

Sources: Shumway and Stoffer 1982; Ghahramani and Hinton 1996.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.oracles.distributions import Gaussian, apply, symmetric
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian


class Regression(NamedTuple):
    """Summed moments of y and of its regressors r, in expectation, from which y = W r + N(0, Sigma) is fitted."""

    rr: Float[Tensor, "k k"]
    yr: Float[Tensor, "m k"]
    yy: Float[Tensor, "m m"]
    rows: int

    def fit(self) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m m"]]:
        """The W and Sigma of greatest expected log-likelihood: W = yr rr^-1, Sigma = E (y - W r)(y - W r)'."""
        W = torch.linalg.solve(self.rr, self.yr.mT).mT
        residual = self.yy - W @ self.yr.mT - self.yr @ W.mT + W @ self.rr @ W.mT
        return W, symmetric(residual) / self.rows


def m_step(
    model: LinearGaussian,
    q: MarkovGaussian,
    x: Float[Tensor, "B T p"],
    action: Float[Tensor, "B T A"] | None = None,
) -> LinearGaussian:
    """The M-step of EM: all parameters that maximise the bound under q, or raise it if entries are missing.

    Args:
        model: the old parameters.
        q: p(z_1:T | x_1:T) under them.
        x, action: B sequences of at least two rows.
    Raises:
        ValueError: if there are too few rows, or the actions too alike, to fit every parameter.
    """
    x, action = model.rows(x, action)
    if x.shape[1] < 2:
        raise ValueError(f"x: expected at least two rows a sequence, got {x.shape[1]}")
    z, n = q.marginals(), len(model.m)
    try:
        dynamics, Q = transitions(q, z, action).fit()
        emission, R = emissions(model, z, x, action).fit()
    except torch.linalg.LinAlgError as error:
        raise ValueError("x: expected rows and actions that determine every parameter, got a singular fit") from error
    A, B = dynamics.split([n, action.shape[-1]], -1)
    C, D, d = emission.split([n, action.shape[-1], 1], -1)
    m = z.mean[:, 0].mean(0)
    apart = z.mean[:, 0] - m
    P = symmetric(z.cov[:, 0].mean(0) + apart.mT @ apart / len(x))
    return LinearGaussian(A=A, B=B, C=C, D=D, d=d[:, 0], Q=Q, R=R, m=m, P=P)


def transitions(q: MarkovGaussian, z: Gaussian, action: Float[Tensor, "B T A"]) -> Regression:
    """Moments of y = z_t and r = (z_{t-1}, a_t) under q; Cov(z_t, z_{t-1}) = F_t Cov(z_{t-1})."""
    before, now = z.mean[:, :-1], z.mean[:, 1:]
    r = torch.cat([before, action[:, 1:]], -1)
    rr, yr = outer(r, r), outer(now, r)
    n = now.shape[-1]
    rr[:n, :n] += z.cov[:, :-1].sum((0, 1))
    yr[:, :n] += (q.F[:, 1:] @ z.cov[:, :-1]).sum((0, 1))
    return Regression(rr, yr, outer(now, now) + z.cov[:, 1:].sum((0, 1)), now.shape[:2].numel())


def emissions(
    model: LinearGaussian, z: Gaussian, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"]
) -> Regression:
    """Moments of y = x_t and r = (z_t, a_t, 1) under q, with x_t completed as N(G z_t + g, H)."""
    G, g, H = completion(model, x, action)
    r = torch.cat([z.mean, action, torch.ones_like(x[..., :1])], -1)
    y = apply(G, z.mean) + g
    n = z.mean.shape[-1]
    rr, yr = outer(r, r), outer(y, r)
    rr[:n, :n] += z.cov.sum((0, 1))
    yr[:, :n] += (G @ z.cov).sum((0, 1))
    return Regression(rr, yr, outer(y, y) + (G @ z.cov @ G.mT + H).sum((0, 1)), x.shape[:2].numel())


def completion(
    model: LinearGaussian, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"]
) -> tuple[Float[Tensor, "B T p n"], Float[Tensor, "B T p"], Float[Tensor, "B T p p"]]:
    """G, g, H of p(x_t | z_t, the entries of x_t that were observed) = N(G z_t + g, H).

    With u = D a_t + d, e = C z_t + u the mean of x_t, o the observed and m the missing entries:
    x_o is as observed;   x_m = e_m + R_mo R_oo^-1 (x_o - e_o) + N(0, R_mm - R_mo R_oo^-1 R_om)
    """
    y, C, R, _ = model.seen(x, action)
    missing = torch.isnan(x)
    u = action @ model.D.mT + model.d
    R_o = torch.where(missing[..., None, :], 0.0, model.R)  # the columns of what was observed
    gain = torch.where(missing[..., None], torch.linalg.solve(R, R_o.mT).mT, 0.0)
    G = torch.where(missing[..., None], model.C - gain @ C, 0.0)
    g = torch.where(missing, u + apply(gain, y), x)
    both = missing[..., :, None] & missing[..., None, :]
    return G, g, symmetric(torch.where(both, model.R - gain @ model.R, 0.0))


def outer(x: Float[Tensor, "B T m"], y: Float[Tensor, "B T k"]) -> Float[Tensor, "m k"]:
    """sum x y' over sequences and rows."""
    return torch.einsum("btm,btk->mk", x, y)
