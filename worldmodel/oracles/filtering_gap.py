"""What a filtering posterior must lose: the best bound that any q(z_t | z_{t-1}, x_<=t) can reach, in closed form.

The exact posterior p(z_t | z_{t-1}, x_t:T) depends on later rows. It is proportional to
p(z_t | z_{t-1}) p(x_t | z_t) exp(-z' S_t z / 2 + z' s_t), where S_t is the information that x_t+1:T holds about z_t. A
filter knows S_t but not s_t, which depends on the later rows themselves. The best it can do is to replace s_t by its
expectation S_t m_t, with m_t the mean of the Kalman filter (certainty equivalence); its covariance is then that of the
exact posterior. Given x_<=t, the error s_t - S_t m_t has covariance S_t + S_t P_t S_t, so row t loses

    g_t = tr[ V_t (S_t + S_t P_t S_t) ] / 2    nats,   V_t = (Q^-1 + C' R^-1 C + S_t)^-1,   P_t the filter's covariance.

This loss depends on the choice of latents. `innovations` describes the same law of x by latents that also hold a share
of the observation's noise: the less noise they leave to the decoder, the smaller the loss and the larger the rate.

Related: Bayer, Soelch et al. 2021, arXiv 2101.07046 (partially conditioned posteriors).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.oracles.distributions import LOG_2PI, apply, half_log_det, symmetric
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian

SETTLED = 1e-13  # relative change at which the iteration of a Riccati equation, in float64, has converged
LIMIT = 10_000  # iterations after which a Riccati equation counts as having no fixed point


def best_filter(
    model: LinearGaussian, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None
) -> MarkovGaussian:
    """The q(z_t | z_{t-1}, x_<=t) with the greatest expected bound, as a proposal for `LinearGaussian.given`.

    Of later rows it knows which entries are observed, but not their values.
    """
    x, action = model.rows(x, action)
    here, ahead, belief = model.local(x, action), model.future(x, action), model.filter(x, action).filtered
    return model.tilted(here.J + ahead.J, here.j + apply(ahead.J, belief.mean), action)


def filtering_gap(model: LinearGaussian, observed: Bool[Tensor, "B T p"]) -> Float[Tensor, "B T"]:
    """g_t of every row in nats: the gap of `best_filter`, in expectation over rows that the model draws.

    Args:
        model: the model.
        observed: the entries of x that are observed; actions do not matter.
    """
    x = torch.where(observed, 0.0, torch.nan).to(model.A)
    S, P, V = model.future(x).J, model.filter(x).filtered.cov, best_filter(model, x).V
    return 0.5 * trace(V @ (S + S @ P @ S))


@dataclass(frozen=True)
class StationaryFilter:
    """q(w_t | h_t, x_<=t) = N(U i_t - Y e_t, V), where i_t = x_t - E[x_t | x_<t] and e_t = h_t - E[h_t | x_<t]."""

    U: Float[Tensor, "k p"]
    Y: Float[Tensor, "k n"]
    V: Float[Tensor, "k k"]


@dataclass(frozen=True)
class StationaryBound:
    """The bound and its parts, in expectation long after the start, in nats per step."""

    entropy_rate: float  # -E log p(x_t | x_<t)
    reconstruction: float  # E log p(x_t | h_t, w_t)
    rate: float  # E KL(q || p)

    @property
    def gap(self) -> float:
        """Log evidence minus bound."""
        return -self.entropy_rate - (self.reconstruction - self.rate)


@dataclass(frozen=True)
class StationaryForm:
    """A law of x_1, x_2, .. in terms of latent noise w_t and a state h_t, without actions, long after the start.

        h_{t+1} = A h_t + E w_t,    w_t ~ N(0, W)
        x_t     = C h_t + D w_t + N(0, N)

    Raises:
        ValueError: by the methods, if it has no steady state.
    """

    A: Float[Tensor, "n n"]
    E: Float[Tensor, "n k"]
    C: Float[Tensor, "p n"]
    D: Float[Tensor, "p k"]
    W: Float[Tensor, "k k"]
    N: Float[Tensor, "p p"]

    def belief(self) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n p"], Float[Tensor, "p p"]]:
        """P = Cov(h_t | x_<t), the gain K of E[h_{t+1} | x_<=t] = A E[h_t | x_<t] + K i_t, and the covariance of i_t.

        F = C P C' + D W D' + N,   K = (A P C' + E W D') F^-1
        P = (A - K C) P (A - K C)' + (E - K D) W (E - K D)' + K N K'
        """

        def gain(P: Tensor) -> tuple[Tensor, Tensor]:
            F = symmetric(self.C @ P @ self.C.mT + self.D @ self.W @ self.D.mT + self.N)
            return torch.linalg.solve(F, self.C @ P @ self.A.mT + self.D @ self.W @ self.E.mT).mT, F

        def later(P: Tensor) -> Tensor:
            K, _ = gain(P)
            carried, noise = self.A - K @ self.C, self.E - K @ self.D
            return symmetric(carried @ P @ carried.mT + noise @ self.W @ noise.mT + K @ self.N @ K.mT)

        P = fixed_point(later, self.E @ self.W @ self.E.mT)
        return P, *gain(P)

    def information(self) -> Float[Tensor, "n n"]:
        """S, the information that the rows x_t, x_{t+1}, .. hold about h_t.

        V = (W^-1 + D' N^-1 D + E' S E)^-1,   Y = V (D' N^-1 C + E' S A)
        S = (A - E Y)' S (A - E Y) + (C - D Y)' N^-1 (C - D Y) + Y' W^-1 Y
        """

        def earlier(S: Tensor) -> Tensor:
            Y = self.spread(S) @ self.cross(S)
            carried, seen = self.A - self.E @ Y, self.C - self.D @ Y
            likelihood = seen.mT @ self.precise(seen) + Y.mT @ torch.linalg.solve(self.W, Y)
            return symmetric(carried.mT @ S @ carried + likelihood)

        return fixed_point(earlier, torch.zeros_like(self.A))

    def best_filter(self) -> StationaryFilter:
        """The q(w_t | h_t, x_<=t) with the greatest bound."""
        K, S = self.belief()[1], self.information()
        V = self.spread(S)
        return StationaryFilter(V @ (self.precise(self.D).mT + self.E.mT @ S @ K), V @ self.cross(S), V)

    def greedy(self) -> StationaryFilter:
        """p(w_t | h_t, x_t): the exact posterior of one step, which ignores its effect on later steps."""
        V = self.spread(torch.zeros_like(self.A))
        U = V @ self.precise(self.D).mT
        return StationaryFilter(U, U @ self.C, V)

    def best_filtering_gap(self) -> float:
        """tr[ V E' (S + S P S) E ] / 2: the gap of `best_filter` in nats per step."""
        P, S = self.belief()[0], self.information()
        return float(0.5 * trace(self.spread(S) @ self.E.mT @ (S + S @ P @ S) @ self.E))

    def bound(self, q: StationaryFilter) -> StationaryBound:
        """The bound under q, term by term, from the stationary moments of e_t (a Lyapunov equation).

            e_{t+1} = (A - E Y) e_t + (E U - K) i_t + E N(0, V)

        Raises:
            ValueError: if e_t grows without limit under q.
        """
        _, K, F = self.belief()
        U, Y, V = q.U, q.Y, q.V
        noise = self.E @ U - K
        error = lyapunov(self.A - self.E @ Y, noise @ F @ noise.mT + self.E @ V @ self.E.mT)  # Cov e_t
        centre = U @ F @ U.mT + Y @ error @ Y.mT  # the second moment of q's mean
        rate = 0.5 * trace(torch.linalg.solve(self.W, V + centre)) - 0.5 * len(self.W)
        rate = rate + half_log_det(torch.linalg.cholesky(self.W)) - half_log_det(torch.linalg.cholesky(V))
        left = torch.eye(len(self.N)).to(V) - self.D @ U  # what q leaves of the innovation
        missed = self.C - self.D @ Y
        residual = left @ F @ left.mT + missed @ error @ missed.mT + self.D @ V @ self.D.mT
        surprise = 0.5 * trace(torch.linalg.solve(self.N, residual)) - 0.5 * len(self.N)
        return StationaryBound(entropy(F), -entropy(self.N) - float(surprise), float(rate))

    def precise(self, X: Float[Tensor, "p _"]) -> Float[Tensor, "p _"]:
        """N^-1 X."""
        return torch.linalg.solve(self.N, X)

    def cross(self, S: Float[Tensor, "n n"]) -> Float[Tensor, "k n"]:
        """D' N^-1 C + E' S A, the cross term of the information about (w_t, h_t)."""
        return self.D.mT @ self.precise(self.C) + self.E.mT @ S @ self.A

    def spread(self, S: Float[Tensor, "n n"]) -> Float[Tensor, "k k"]:
        """V = (W^-1 + D' N^-1 D + E' S E)^-1, the posterior covariance of w_t if later rows have information S."""
        information = self.D.mT @ self.precise(self.D) + self.E.mT @ S @ self.E
        return symmetric(torch.linalg.inv(torch.linalg.inv(self.W) + information))


def physical(model: LinearGaussian) -> StationaryForm:
    """The model's own latents: z_t = A z_{t-1} + w_t, carried as h_{t+1} = z_t."""
    identity = torch.eye(len(model.A)).to(model.A)
    return StationaryForm(model.A, identity, model.C @ model.A, model.C, model.Q, model.R)


def innovations(model: LinearGaussian, share: float) -> StationaryForm:
    """The same law of x with noisy observations as latents: z_t = C s_t + N(0, (1 - f) R),   x_t = z_t + N(0, f R).

    h_t is the Kalman prediction of s_t from z_<t, so that z_t = C h_t + w_t with white w_t. A model that chooses its
    own latents, such as a trained RSSM, can choose any f.

    Args:
        model: the law, whose states are s_t.
        share: f in (0, 1], the share of the observation's noise that is left to the decoder.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    one, nothing = torch.eye(len(model.A)).to(model.A), torch.zeros_like(model.C)
    states = StationaryForm(model.A, one, model.C, nothing, model.Q, (1 - share) * model.R)
    _, K, W = states.belief()  # of the Kalman filter that sees z
    return StationaryForm(model.A, K, model.C, torch.eye(len(model.d)).to(model.A), W, share * model.R)


def fixed_point(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The limit of start, step(start), step(step(start)), .. to rounding.

    Raises:
        ValueError: if it does not converge: the system is not detectable, or not stabilisable.
    """
    x = start
    for _ in range(LIMIT):
        x, last = step(x), x
        if not bool(torch.isfinite(x).all()):
            break
        if float((x - last).abs().max()) <= SETTLED * float(x.abs().max()):
            return x
    raise ValueError(f"model: expected a steady state, found none in {LIMIT} steps of its Riccati equation")


def lyapunov(A: Float[Tensor, "n n"], Q: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The covariance P = A P A' + Q that a stable A settles to.

    Raises:
        ValueError: if A is not stable.
    """
    radius = float(torch.linalg.eigvals(A).abs().max())
    if radius >= 1:
        raise ValueError(f"q: expected a stable error e_t, got one that grows by {radius:.3g} a step")
    identity = torch.eye(A.numel()).to(A)
    return symmetric(torch.linalg.solve(identity - torch.kron(A, A), Q.flatten()).unflatten(0, A.shape))


def entropy(cov: Float[Tensor, "p p"]) -> float:
    """log det(2 pi e cov) / 2, in nats."""
    return float(half_log_det(torch.linalg.cholesky(cov))) + 0.5 * len(cov) * (1 + LOG_2PI)


def trace(x: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """The sum of the diagonal."""
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)
