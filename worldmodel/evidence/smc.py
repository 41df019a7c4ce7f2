"""Sequential Monte Carlo: an unbiased estimate of the evidence of a sequence, in nats.

    p^(x_1:T) = prod_t  sum_i W_{t-1}^i w_t^i,     w_t = p(x_t | h_t, z_t) p(z_t | h_t) / r(z_t),    z_t ~ r

N particles carry (h, z) with normalised weights W; where their effective number falls below a threshold they are
resampled in proportion to W. E[p^] = p(x_1:T) for any proposal r and any threshold, so E[log p^] is a lower bound. One
particle gives the ELBO, no resampling the importance-weighted bound (`iwae`).

The proposal r mixes the posterior q(z_t | h_t, x), which every model has, with its prior: share 0 is the guided filter,
1 the bootstrap filter, and a small share between them bounds every weight from above.

With a draw from the exact posterior at hand, as on data simulated from the model, `path` makes it conditional SMC:
particle 0 follows the path for ever. Then E[1 / p^] = 1 / p(x_1:T), and E[log p^] is an upper bound.

Sources: Doucet and Johansen 2009, "A tutorial on particle filtering and smoothing", section 4; Maddison et al. 2017
(FIVO), arXiv 1705.09279; Andrieu, Doucet and Holenstein 2010, JRSS B 72, section 4.3 (conditional SMC); Grosse,
Ghahramani and Adams 2015, arXiv 1511.02543 (sandwich).
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from worldmodel.checks import require_positive, require_share
from worldmodel.evidence.reliability import Descent, pareto_k
from worldmodel.types import Carry, ParticleSequence, Proposal, State

Resampling = Literal["systematic", "multinomial"]
THRESHOLD = 0.5  # share of effective particles below which they are resampled


@dataclass(frozen=True)
class ParticleEvidence:
    """One estimate of the evidence of B sequences, row by row, in float64; zero where a row is not valid or unseen."""

    increment: Float[Tensor, "B T"]  # log p^(x_t | x_<t), nats
    log_likelihood: dict[str, Float[Tensor, "B T"]]  # E[log p(x_t | h_t, z_t) | x_<=t] by name, nats
    ess: Float[Tensor, "B T"]  # effective number of particles after row t and before resampling, of those of the row
    resampled: Bool[Tensor, "B T"]  # whether the particles were resampled after row t
    pareto_k: Float[Tensor, "B T"]  # of the weights after row t and before resampling: `reliability.pareto_k`
    relative_variance: Float[Tensor, " B"]  # of p^(x_1:T), by this run: `reliability`; NaN after systematic resampling

    @property
    def log_evidence(self) -> Float[Tensor, " B"]:
        """log p^(x_1:T), nats."""
        return self.increment.sum(-1)

    @property
    def so_far(self) -> Float[Tensor, "B T"]:
        """log p^(x_1:t), nats; p^(x_1:t) is unbiased at every t, so that one run shows how errors grow with it."""
        return self.increment.cumsum(-1)

    @property
    def information(self) -> Float[Tensor, "B T"]:
        """What row t told about the latents, in nats: the filter's own KL.

            log p(x_t | x_<t) = E[ log p(x_t | h_t, z_t) | x_<=t ] - KL( p(z_1:t | x_<=t) || p(z_1:t | x_<t) )

        The bound's split into reconstruction and KL, with the exact posterior in the place of q. In every estimate the
        log-likelihoods less this are the increment; each alone has an error that vanishes with the particles.
        """
        return torch.stack(list(self.log_likelihood.values())).sum(0) - self.increment


class Start(NamedTuple):
    """More particles on the first rows: none is lost before the last of them, and then N are drawn by their weights.

    What is carried before row 0 is a constant, so that its proposal may have looked ahead (`look_ahead`). Weights that
    have not seen the rows ahead would throw away what it found.
    """

    rows: int
    particles: int


class Weighed(NamedTuple):
    """Particles moved to row t, and what the row says of them, in nats."""

    carry: Carry  # led by [N, B]
    log_likelihood: dict[str, Float[Tensor, "N B"]]
    log_weight: Float[Tensor, "N B"]  # log w_t, float64


@torch.no_grad()
def smc(
    sequence: ParticleSequence,
    particles: int,
    *,
    generator: torch.Generator | None = None,
    prior_share: float = 0.0,
    threshold: float = THRESHOLD,
    path: Float[Tensor, "B T Z"] | None = None,
    unseen: Collection[int] = (),
    first: Start | None = None,
    resampling: Resampling = "systematic",
) -> ParticleEvidence:
    """Estimate log p(x_1:T) of every sequence, and its increments.

    Args:
        sequence: the model and its B sequences.
        particles: N for each sequence; the variance of log p^ is about c T / N.
        generator: source of all draws.
        prior_share: of the prior in the proposal: 0 guided, 1 bootstrap, between them a defensive mixture.
        threshold: resample where fewer than threshold * N particles are effective: 0 never does, 1 always. Where the
            posterior has seen the future, 0 or a small number: weights that have not seen it throw good particles away.
        path: z_1:T of a draw from the exact posterior, which makes the estimate an upper bound in the mean.
        unseen: rows that are passed over by the prior alone, without weights; the increment at a later row is then
            log p^(x_t | the rows before it that were seen), a prediction several steps ahead.
        first: more particles on the first rows, where most is still unknown, of which N then go on.
        resampling: systematic has the least noise; after multinomial a single run can tell its own variance.
    Raises:
        ValueError: if an argument is out of range.
    """
    require_positive(particles=particles)
    require_share(prior_share=prior_share, threshold=threshold)
    B, T = (valid := sequence.valid).shape
    seen = _seen(valid, path, unseen)
    ahead = torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], 1)  # whether a row that counts follows
    start = Start(0, particles) if first is None else first
    require_positive(start_particles=start.particles)
    count = start.particles if start.rows > 0 else particles
    carry = sequence.initial(count)
    log_weight = torch.full((count, B), -math.log(count), dtype=torch.float64, device=valid.device)
    descent = Descent.begin(log_weight, free=path is None)
    rows = []
    for t in range(T):
        fixed = None if path is None else path[:, t]
        share = 1.0 if t in unseen else prior_share
        carry, log_likelihood, row_weight = move(sequence, carry, t, share, generator, fixed)
        increment, reweighed = _reweigh(log_weight, row_weight)
        log_weight = torch.where(seen[:, t], reweighed, log_weight)
        ess = 1 / (weight := log_weight.exp()).square().sum(0)
        terms = {name: torch.where(seen[:, t], _mean(x, weight), 0.0) for name, x in log_likelihood.items()}
        started = t + 1 >= start.rows
        fewer = started and len(weight) != particles
        resample = (ahead[:, t] & (ess < threshold * len(weight)) & started) | fewer
        tail = torch.where(valid[:, t], pareto_k(log_weight), 0.0)
        rows.append((torch.where(seen[:, t], increment, 0.0), terms, ess * valid[:, t], resample, tail))
        if resample.any():
            keep, count = path is not None, particles if fewer else len(weight)
            ancestors = _ancestors(weight, count, generator, keep_first=keep, resampling=resampling)
            carry, log_weight = _resampled(carry, log_weight, ancestors, resample)
            descent = descent.after(ancestors, resample, independent=resampling == "multinomial")
    return _collected(rows, descent.relative_variance(log_weight.exp()))


def move(
    sequence: ParticleSequence,
    carry: Carry,
    t: int,
    prior_share: float,
    generator: torch.Generator | None,
    fixed: Float[Tensor, "B Z"] | None = None,
) -> Weighed:
    """Propose z_t for every particle and weigh it with row t; `fixed`, where given, is the z_t of particle 0."""
    carry, deter, prior = sequence.step(carry, t)
    posterior = prior if prior_share == 1.0 else sequence.proposal(deter, t)
    z = _propose(posterior, prior, prior_share, generator)
    if fixed is not None:
        z = torch.cat([fixed[None].to(z.dtype), z[1:]])
    state = State(deter, z)
    log_likelihood = {name: term.double() for name, term in sequence.likelihood(state, t).items()}
    log_weight = torch.stack(list(log_likelihood.values())).sum(0)
    if prior_share < 1.0:
        log_prior = prior.log_prob(z).double().sum(-1)
        log_weight = log_weight + log_prior - _log_mixture(posterior, log_prior, prior_share, z)
    return Weighed(sequence.advance(carry, state), log_likelihood, log_weight)


def _propose(posterior: Proposal, prior: Proposal, prior_share: float, generator: torch.Generator | None) -> Tensor:
    """z ~ (1 - share) q + share p, [N, B, Z]; every particle tosses its own coin."""
    if prior_share in (0.0, 1.0):
        return posterior.sample(generator)  # which is the prior where its share is 1
    guided, blind = posterior.sample(generator), prior.sample(generator)
    coin = torch.rand(guided.shape[:-1], generator=generator, device=guided.device)
    return torch.where((coin < prior_share)[..., None], blind, guided)


def _log_mixture(posterior: Proposal, log_prior: Tensor, prior_share: float, z: Tensor) -> Float[Tensor, "N B"]:
    """log( (1 - share) q(z) + share p(z) ), float64."""
    log_posterior = posterior.log_prob(z).double().sum(-1)
    if prior_share == 0.0:
        return log_posterior
    return torch.logaddexp(math.log1p(-prior_share) + log_posterior, math.log(prior_share) + log_prior)


def _reweigh(
    log_weight: Float[Tensor, "N B"], row_weight: Float[Tensor, "N B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, "N B"]]:
    """log sum_i W_i w_i, and the new normalised log W. Where every particle is impossible they stay equally likely."""
    joint = log_weight + row_weight
    increment = joint.logsumexp(0)
    return increment, torch.where(increment == -math.inf, -math.log(len(joint)), joint - increment)


def _mean(x: Float[Tensor, "N B"], weight: Float[Tensor, "N B"]) -> Float[Tensor, " B"]:
    """Mean under the weights; what has no weight may be anything, minus infinity too."""
    return torch.where(weight > 0, weight * x, 0.0).sum(0)


def _ancestors(
    weight: Float[Tensor, "N B"],
    count: int,
    generator: torch.Generator | None,
    *,
    keep_first: bool,
    resampling: Resampling = "systematic",
) -> Int[Tensor, "count B"]:
    """Indices, `count` of them, drawn in proportion to the weights of each sequence.

    Systematic: one uniform number u for all of them, the least noise; index j is the particle at (j + u) / count of the
    cumulative weights. With `keep_first`, as conditional SMC asks, the law is that of a random rotation of such indices
    given that the first of them is particle 0: u is likelier where particle 0 is drawn more often.
    Multinomial: a uniform number for each; with `keep_first`, for all but the first, which is particle 0.
    Source: Chopin and Singh 2015, Bernoulli 21, section 3.4.
    """
    N, B = weight.shape
    cumulative = weight.T.cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]
    if resampling == "multinomial":
        points = torch.rand(B, count, generator=generator, device=weight.device, dtype=weight.dtype)
        ancestors = torch.searchsorted(cumulative, points, right=True).clamp(max=N - 1)
        if keep_first:
            ancestors[:, 0] = 0
        return ancestors.T
    noise = torch.rand(3, B, 1, generator=generator, device=weight.device, dtype=weight.dtype)
    uniform = noise[0]
    if keep_first:
        expected = count * cumulative[:, :1]  # copies of particle 0
        least, rest = expected.floor(), expected % 1
        one_more = noise[1] * expected < rest * (least + 1)
        uniform = torch.where(one_more, noise[0] * rest, rest + noise[0] * (1 - rest))
    points = (torch.arange(count, device=weight.device) + uniform) / count
    ancestors = torch.searchsorted(cumulative, points, right=True).clamp(max=N - 1)
    if keep_first:
        copies = (ancestors == 0).sum(-1, keepdim=True).clamp(min=1)
        turn = (noise[2] * copies).long()
        ancestors = ancestors.gather(-1, (torch.arange(count, device=weight.device) + turn) % count)
        ancestors[:, 0] = 0
    return ancestors.T


def _resampled(
    carry: Carry, log_weight: Float[Tensor, "N B"], ancestors: Int[Tensor, "count B"], chosen: Bool[Tensor, " B"]
) -> tuple[Carry, Float[Tensor, "count B"]]:
    """Particles and log W after resampling the chosen sequences; all of them where the number of particles changes."""
    count = len(ancestors)
    stay = torch.arange(count, device=chosen.device)[:, None]
    weight = torch.where(chosen, -math.log(count), log_weight[:count] if count <= len(log_weight) else log_weight[:1])
    return _choose(carry, torch.where(chosen, ancestors, stay)), weight


def _choose(carry: Carry, ancestors: Int[Tensor, "N B"]) -> Carry:
    sequences = torch.arange(ancestors.shape[1], device=ancestors.device)
    return tree_map(lambda x: x[ancestors, sequences], carry)


def _collected(rows: list[tuple[Any, ...]], variance: Float[Tensor, " B"]) -> ParticleEvidence:
    """What was found row by row, as [B, T]."""
    increments, all_terms, *others = zip(*rows, strict=True)
    by_name = {name: torch.stack([terms[name] for terms in all_terms], 1) for name in all_terms[0]}
    ess, resampled, tails = (torch.stack(x, 1) for x in others)
    return ParticleEvidence(torch.stack(increments, 1), by_name, ess, resampled, tails, variance)


def _seen(valid: Bool[Tensor, "B T"], path: Tensor | None, unseen: Collection[int]) -> Bool[Tensor, "B T"]:
    """The rows that count and are looked at; ValueError for a path of other rows, or a row that is not there."""
    if path is not None and path.shape[:2] != valid.shape:
        raise ValueError(f"path: expected a draw of {list(valid.shape)} latents, got {list(path.shape[:2])}")
    T = valid.shape[1]
    if not all(0 <= t < T for t in unseen):
        raise ValueError(f"unseen: expected rows from 0 to {T - 1}, got {sorted(unseen)}")
    return valid & ~torch.tensor([t in unseen for t in range(T)], device=valid.device)
