"""The linear-Gaussian state-space model with actions and missing observations, in float64.

    z_1 ~ N(m, P)
    z_t = A z_{t-1} + B a_t + N(0, Q)
    x_t = C z_t + D a_t + d + N(0, R)

a_t is the action that led to x_t (`prev_action[t]` of a batch); on the first row it does not move the state. A NaN in x
is an entry that was not observed, such as the reward on an episode's first row. A row of NaN is padding.

| letter | meaning | letter | meaning          | letter | meaning            |
| B      | batch   | n      | width of a state | p      | width of a row x_t |
| T      | time    | A      | width of actions | N      | samples            |

Sources: Kalman 1960; Rauch, Tung and Striebel 1965; Särkkä, Bayesian Filtering and Smoothing (2013), chapters 4 and 8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.oracles.checks import as_rows, expect_covariance, expect_full_rank, expect_shape
from worldmodel.oracles.distributions import LOG_2PI, Gaussian, apply, half_log_det, stack, symmetric, whiten
from worldmodel.oracles.markov_gaussian import MarkovGaussian
from worldmodel.types import Latent, State


class Filtered(NamedTuple):
    """The Kalman filter's beliefs about z_t and the log evidence, at every row."""

    predicted: Gaussian  # p(z_t | x_<t), [B, T, ...]
    filtered: Gaussian  # p(z_t | x_<=t), [B, T, ...]
    log_evidence: Float[Tensor, "B T"]  # log p(x_t | x_<t) in nats; zero where nothing was observed


class Information(NamedTuple):
    """A likelihood of z_t up to a constant, exp(-z' J z / 2 + z' j)."""

    J: Float[Tensor, "*batch n n"]
    j: Float[Tensor, "*batch n"]


class Seen(NamedTuple):
    """p(x_t | z_t) on the entries that were observed: y = C z + N(0, R).

    An entry that was not observed has y = 0, a zero row of C and an independent unit variance in R. So it changes no
    belief and contributes nothing to the log-density, which counts log(2 pi) once for each observed entry.
    """

    y: Float[Tensor, "*batch p"]
    C: Float[Tensor, "*batch p n"]
    R: Float[Tensor, "*batch p p"]
    entries: Float[Tensor, "*batch"]  # how many were observed

    def log_prob(self, error: Float[Tensor, "*#batch p"], cov: Float[Tensor, "*#batch p p"]) -> Float[Tensor, "..."]:
        """log N(error; 0, cov) of the observed entries in nats."""
        scale_tril = torch.linalg.cholesky(cov)
        return -0.5 * (whiten(scale_tril, error).square().sum(-1) + self.entries * LOG_2PI) - half_log_det(scale_tril)


@dataclass(frozen=True)
class LinearGaussian:
    """The parameters in the module's equations, float64; `create` fills in those that a model does not need.

    Raises:
        ValueError: if a shape disagrees with the others, or a matrix is not a covariance.
    """

    A: Float[Tensor, "n n"]
    B: Float[Tensor, "n A"]
    C: Float[Tensor, "p n"]
    D: Float[Tensor, "p A"]
    d: Float[Tensor, " p"]
    Q: Float[Tensor, "n n"]  # may be singular; then only the bound is undefined
    R: Float[Tensor, "p p"]
    m: Float[Tensor, " n"]
    P: Float[Tensor, "n n"]  # may be singular, as Q

    def __post_init__(self) -> None:
        n, p, actions = self.m.numel(), self.d.numel(), self.B.shape[-1]
        expect_shape("m", self.m, n)
        expect_shape("d", self.d, p)
        expect_shape("A", self.A, n, n)
        expect_shape("B", self.B, n, actions)
        expect_shape("C", self.C, p, n)
        expect_shape("D", self.D, p, actions)
        expect_covariance("Q", self.Q, n, definite=False)
        expect_covariance("P", self.P, n, definite=False)
        expect_covariance("R", self.R, p)

    @classmethod
    def create(
        cls,
        *,
        A: Tensor,
        C: Tensor,
        Q: Tensor,
        R: Tensor,
        m: Tensor,
        P: Tensor,
        B: Tensor | None = None,
        D: Tensor | None = None,
        d: Tensor | None = None,
    ) -> "LinearGaussian":
        """A model whose B, D and d are zero unless given. B or D determines the width of the actions."""
        n, p = C.shape[-1], C.shape[0]
        actions = next((matrix.shape[-1] for matrix in (B, D) if matrix is not None), 0)
        B = A.new_zeros(n, actions) if B is None else B
        D = A.new_zeros(p, actions) if D is None else D
        return cls(A=A, B=B, C=C, D=D, d=A.new_zeros(p) if d is None else d, Q=Q, R=R, m=m, P=P)

    def rows(
        self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None
    ) -> tuple[Float[Tensor, "B T p"], Float[Tensor, "B T A"]]:
        """Rows and actions in float64, after a check; actions are zero if none are given.

        Raises:
            ValueError: if a shape does not fit the model, x is infinite, or an action is not finite.
        """
        x = as_rows("x", x, None, None, self.d.numel())
        if bool(torch.isinf(x).any()):
            raise ValueError("x: expected numbers, or NaN where an entry was not observed, got infinity")
        if action is None:
            return x, x.new_zeros(*x.shape[:2], self.B.shape[-1])
        action = as_rows("action", action, *x.shape[:2], self.B.shape[-1])
        if not bool(torch.isfinite(action).all()):
            raise ValueError("action: expected finite numbers, got NaN or infinity")
        return x, action

    def seen(self, x: Float[Tensor, "*batch p"], action: Float[Tensor, "*batch A"]) -> Seen:
        """p(x_t | z_t) as a likelihood of z_t, on the entries of x that are not NaN."""
        seen = ~torch.isnan(x)
        y = torch.where(seen, x - action @ self.D.mT - self.d, 0.0)
        both = seen[..., :, None] & seen[..., None, :]
        R = torch.where(both, self.R, 0.0) + torch.diag_embed((~seen).to(x.dtype))
        return Seen(y, seen[..., None] * self.C, R, seen.sum(-1).to(x.dtype))

    def predict(self, belief: Gaussian, action: Float[Tensor, "B A"]) -> Gaussian:
        """p(z_t | x_<t) from p(z_{t-1} | x_<t):  N(A m + B a_t,  A P A' + Q)."""
        mean = belief.mean @ self.A.mT + action @ self.B.mT
        return Gaussian(mean, symmetric(self.A @ belief.cov @ self.A.mT + self.Q))

    def update(
        self, belief: Gaussian, x: Float[Tensor, "B p"], action: Float[Tensor, "B A"]
    ) -> tuple[Gaussian, Float[Tensor, " B"]]:
        """p(z_t | x_<=t) and log p(x_t | x_<t) from p(z_t | x_<t).

        In Joseph's form, in which the result stays positive semi-definite despite rounding:

        S = C P C' + R,   K = P C' S^-1,   m + K (y - C m),   (I - K C) P (I - K C)' + K R K'
        """
        y, C, R, _ = seen = self.seen(x, action)
        error = y - apply(C, belief.mean)
        S = symmetric(C @ belief.cov @ C.mT + R)
        K = torch.linalg.solve(S, C @ belief.cov).mT
        keep = torch.eye(C.shape[-1]).to(x) - K @ C
        cov = symmetric(keep @ belief.cov @ keep.mT + K @ R @ K.mT)
        return Gaussian(belief.mean + apply(K, error), cov), seen.log_prob(error, S)

    def filter(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> Filtered:
        """The Kalman filter: beliefs before and after every row, and the log evidence of each row given the past."""
        x, action = self.rows(x, action)
        belief = self.first(len(x))
        predicted, filtered, log_evidence = [], [], []
        for t in range(x.shape[1]):
            belief = self.predict(belief, action[:, t]) if t else belief
            predicted.append(belief)
            belief, log_p = self.update(belief, x[:, t], action[:, t])
            filtered.append(belief)
            log_evidence.append(log_p)
        return Filtered(stack(predicted), stack(filtered), torch.stack(log_evidence, 1))

    def log_evidence(
        self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B T"]:
        """log p(x_t | x_<t) of every row in nats; the sum over t is log p(x_1:T || a_1:T)."""
        return self.filter(x, action).log_evidence

    def forecast(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> Gaussian:
        """p(x_t | x_<t) of every row, over all its entries, [B, T, ...]:  N(C m + D a_t + d, C P C' + R)."""
        x, action = self.rows(x, action)
        belief = self.filter(x, action).predicted
        mean = belief.mean @ self.C.mT + action @ self.D.mT + self.d
        return Gaussian(mean, symmetric(self.C @ belief.cov @ self.C.mT + self.R))

    def smooth(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> Gaussian:
        """p(z_t | x_1:T) at every row (Rauch, Tung and Striebel); the predicted covariances must not be singular.

        G = P_t A' P_{t+1|t}^-1,   m_t + G (m_{t+1|T} - m_{t+1|t}),   P_t + G (P_{t+1|T} - P_{t+1|t}) G'
        """
        x, action = self.rows(x, action)
        predicted, filtered, _ = self.filter(x, action)
        smoothed = [Gaussian(filtered.mean[:, -1], filtered.cov[:, -1])]
        for t in range(x.shape[1] - 2, -1, -1):
            mean, cov, ahead = filtered.mean[:, t], filtered.cov[:, t], predicted.cov[:, t + 1]
            G = torch.linalg.solve(ahead, self.A @ cov).mT
            change = apply(G, smoothed[-1].mean - predicted.mean[:, t + 1])
            smoothed.append(Gaussian(mean + change, symmetric(cov + G @ (smoothed[-1].cov - ahead) @ G.mT)))
        return stack(smoothed[::-1])

    def local(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> Information:
        """The likelihood of z_t given row t alone: J = C' R^-1 C, j = C' R^-1 (x_t - D a_t - d)."""
        y, C, R, _ = self.seen(*self.rows(x, action))
        weighted = torch.linalg.solve(R, C).mT
        return Information(symmetric(weighted @ C), apply(weighted, y))

    def future(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> Information:
        """The likelihood p(x_t+1:T | z_t) of z_t given the later rows, [B, T, ...]; zero at the last row.

        With J, j = local + future at t and M = (I + J Q)^-1:
        future at t-1:  J' = A' M J A,   j' = A' M (j - J B a_t)
        """
        x, action = self.rows(x, action)
        here = self.local(x, action)
        ahead = [Information(torch.zeros_like(here.J[:, 0]), torch.zeros_like(here.j[:, 0]))]
        for t in range(x.shape[1] - 1, 0, -1):
            J, j = here.J[:, t] + ahead[-1].J, here.j[:, t] + ahead[-1].j
            AM = torch.linalg.solve(torch.eye(len(self.A)).to(x) + self.Q @ J, self.A.expand_as(J)).mT
            j = apply(AM, j - apply(J, action[:, t] @ self.B.mT))
            ahead.append(Information(symmetric(AM @ J @ self.A), j))
        return Information(torch.stack([a.J for a in ahead[::-1]], 1), torch.stack([a.j for a in ahead[::-1]], 1))

    def tilted(
        self, J: Float[Tensor, "B T n n"], j: Float[Tensor, "B T n"], action: Float[Tensor, "B T A"]
    ) -> MarkovGaussian:
        """The chain q(z_t | z_{t-1}) proportional to p(z_t | z_{t-1}) exp(-z_t' J_t z_t / 2 + z_t' j_t).

        With M = (I + Q J)^-1:   F = M A,   f = M (B a_t + Q j),   V = M Q.
        At the first step, P takes the place of Q and m that of B a_t.
        """
        Q = torch.cat([self.P.expand(len(J), 1, -1, -1), self.Q.expand(len(J), J.shape[1] - 1, -1, -1)], 1)
        mean = torch.cat([self.m.expand(len(J), 1, -1), action[:, 1:] @ self.B.mT], 1)
        I_QJ = torch.eye(len(self.A)).to(J) + Q @ J
        F = torch.linalg.solve(I_QJ, self.A.expand_as(J)).clone()
        F[:, 0] = 0.0
        f = torch.linalg.solve(I_QJ, mean + apply(Q, j))
        return MarkovGaussian(F, f, symmetric(torch.linalg.solve(I_QJ, Q)))

    def posterior(self, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None) -> MarkovGaussian:
        """p(z_1:T | x_1:T) exactly, as the chain p(z_t | z_{t-1}, x_t:T): sample it, or take its marginals."""
        x, action = self.rows(x, action)
        (J, j), ahead = self.local(x, action), self.future(x, action)
        return self.tilted(J + ahead.J, j + ahead.j, action)

    @torch.no_grad()
    def simulate(
        self, action: Float[Tensor, "B T A"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B T n"], Float[Tensor, "B T p"]]:
        """States and rows drawn from the model under these actions, [B, T, 0] if it has none."""
        action = as_rows("action", action, None, None, self.B.shape[-1])
        z = [self.first(len(action)).sample(generator)]
        for t in range(1, action.shape[1]):
            mean = z[-1] @ self.A.mT + action[:, t] @ self.B.mT
            z.append(Gaussian(mean, self.Q).sample(generator))
        states = torch.stack(z, 1)
        return states, Gaussian(states @ self.C.mT + action @ self.D.mT + self.d, self.R).sample(generator)

    def elbo(
        self, q: MarkovGaussian, x: Float[Tensor, "B T p"], action: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B T"]:
        """The bound of every row under q, exactly.

        E_q[ log p(x_t | z_t) ] - E_q[ KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1})) ]

        Expectations of quadratics: E (G z + g)' W^-1 (G z + g) = its value at E z + tr(W^-1 G Cov(z) G').

        Raises:
            ValueError: if P or Q is singular: the prior of a z_t then has no density.
        """
        x, action = self.rows(x, action)
        for name, cov in (("P", self.P), ("Q", self.Q)):
            expect_full_rank(name, cov, "since the bound has a KL to a Gaussian with it (log_evidence has none)")
        z, seen = q.marginals(), self.seen(x, action)
        likelihood = seen.log_prob(seen.y - apply(seen.C, z.mean), seen.R)
        likelihood = likelihood - 0.5 * (self.local(x, action).J * z.cov).sum((-2, -1))
        mean = torch.cat([self.m.expand(len(x), 1, -1), z.mean[:, :-1] @ self.A.mT + action[:, 1:] @ self.B.mT], 1)
        Q = torch.cat([self.P.expand(len(x), 1, -1, -1), self.Q.expand(len(x), x.shape[1] - 1, -1, -1)], 1)
        change = q.F[:, 1:] - self.A
        spread = torch.linalg.solve(self.Q, change @ z.cov[:, :-1] @ change.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        kl = Gaussian(z.mean, q.V).kl(Gaussian(mean, Q))[..., 0]
        return likelihood - kl - torch.nn.functional.pad(0.5 * spread, (1, 0))

    def given(
        self,
        x: Float[Tensor, "B T p"],
        action: Float[Tensor, "B T A"] | None = None,
        *,
        valid: Bool[Tensor, "B T"] | None = None,
        proposal: Callable[[Tensor, int], Latent] | None = None,
    ) -> "LinearGaussianSequence":
        """The model together with its data, as a `worldmodel.types.LatentSequence`.

        Args:
            x: rows; NaN where an entry was not observed.
            action: a_t, the action that led to row t.
            valid: the rows that count, by default all. The others are treated as unobserved.
            proposal: q(z_t | z_{t-1}, x) as a function of z_{t-1} [N, B, n] and t, such as a `MarkovGaussian`; the
                exact posterior by default.
        """
        x, action = self.rows(x, action)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        if valid.shape != x.shape[:2]:
            raise ValueError(f"valid: expected shape {list(x.shape[:2])}, got {list(valid.shape)}")
        x = torch.where(valid[..., None], x, torch.nan)
        return LinearGaussianSequence(self, x, action, valid, proposal or self.posterior(x, action))

    def first(self, batch: int) -> Gaussian:
        """p(z_1) for every sequence of a batch, [B, ...]."""
        return Gaussian(self.m.expand(batch, -1), self.P.expand(batch, -1, -1))


@dataclass(frozen=True)
class LinearGaussianSequence:
    """The `LatentSequence` that `given` makes. Its carry and its h_t are both z_{t-1}, unread on the first row."""

    model: LinearGaussian
    x: Float[Tensor, "B T p"]  # NaN where an entry was not observed
    action: Float[Tensor, "B T A"]
    valid: Bool[Tensor, "B T"]
    q: Callable[[Tensor, int], Latent]

    def initial(self, samples: int) -> Float[Tensor, "N B n"]:
        """Zeros, which the first step does not read: it starts from N(m, P)."""
        return self.x.new_zeros(samples, len(self.x), len(self.model.m))

    def step(self, carry: Float[Tensor, "N B n"], t: int) -> tuple[Tensor, Float[Tensor, "N B n"], Gaussian]:
        """The carry z_{t-1}, h_t = z_{t-1}, and the prior p(z_t | z_{t-1}) = N(A z_{t-1} + B a_t, Q)."""
        if t == 0:
            return carry, carry, Gaussian(self.model.m.expand(carry.shape), self.model.P)
        mean = carry @ self.model.A.mT + self.action[:, t] @ self.model.B.mT
        return carry, carry, Gaussian(mean, self.model.Q)

    def advance(self, carry: Float[Tensor, "N B n"], state: State) -> Float[Tensor, "N B n"]:
        """The carry z_t."""
        return state.stoch

    def proposal(self, deter: Float[Tensor, "N B n"], t: int) -> Latent:
        """q(z_t | z_{t-1}, x)."""
        return self.q(deter, t)

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log N(x_t; C z_t + D a_t + d, R) of the entries that were observed, as `observation`."""
        seen = self.model.seen(self.x[:, t], self.action[:, t])
        return {"observation": seen.log_prob(seen.y - apply(seen.C, state.stoch), seen.R)}

    def error(self, state: State, t: int) -> Float[Tensor, "N B p"]:
        """L^-1 (x_t - C z_t - D a_t - d) for R = L L', zero for entries that were not observed."""
        seen = self.model.seen(self.x[:, t], self.action[:, t])
        return whiten(torch.linalg.cholesky(seen.R), seen.y - apply(seen.C, state.stoch))
