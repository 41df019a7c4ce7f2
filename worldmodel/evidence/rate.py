"""The rate decomposed: what q keeps about x, and what the prior pays for not being the aggregate posterior.

For one row with the past held fixed, so that h_t is a constant and x_t is drawn from its law given the past,

    E KL( q(z_t | h_t, x_t) || p(z_t | h_t) )  =  I(z_t; x_t)  +  KL( q_bar(z_t) || p(z_t | h_t) )
      rate                                        information     misfit of the prior

    q_bar(z_t) = E_x' q(z_t | h_t, x'),    x' ~ p*(x_t | x_<t)    the aggregate posterior

q_bar is averaged over M draws x'_m. An average inside a logarithm is biased, but in a known direction:

    with the row itself among the draws    q^ = (q(z | x_t) + sum_m q(z | x'_m)) / (M + 1):
                                           information from below, and never above log(M + 1); misfit from above
    with the row itself left out           q^ = sum_m q(z | x'_m) / M:
                                           information from above, misfit from below

in expectation; both errors are O(1 / M) once M is far above exp(information), and useless below it. On either side the
two parts sum to the rate exactly, since the rate is the closed-form KL and information is the rate minus misfit.

At the first row h_1 is a constant, so the other sequences' first rows are the draws: real data, and no model needed
(`first_row`). At later rows the draws come from the exact law of an oracle world, or from the model's own prediction
of x_t (`rate_along_path`); in the latter case misfit says how far the model is from agreeing with itself, not with the
data.

Sources: Hoffman and Johnson 2016, "ELBO surgery" (the decomposition); Poole et al. 2019, arXiv 1905.06922 (the bounds
on information where the conditional, here q, is known: with the sample itself and without it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.checks import require, require_positive
from worldmodel.evidence.estimate import Estimate, per_step
from worldmodel.objectives.elbo import masked_mean
from worldmodel.types import LatentSequence, State


class Misfit(NamedTuple):
    """Single-draw estimates of KL(q_bar || p) in nats."""

    low: Float[Tensor, "*batch"]  # the row itself left out of the aggregate: from below in expectation
    high: Float[Tensor, "*batch"]  # the row itself among the aggregate: from above


@dataclass(frozen=True)
class Rate:
    """The rate of B sequences and its parts, row by row, in nats; zero where a row is not valid."""

    rate: Float[Tensor, "B T"]  # KL(q || p) in closed form
    misfit: Misfit  # [B, T] each
    valid: Bool[Tensor, "B T"]
    alternatives: int  # M, the draws x' for each row

    @property
    def information(self) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """I(z_t; x_t | the past) from below and from above."""
        return self.rate - self.misfit.high, self.rate - self.misfit.low

    @property
    def saturated(self) -> bool:
        """Whether information from below is within one nat of the most that M draws can show, log(M + 1)."""
        return masked_mean(self.information[0], self.valid).item() > math.log(self.alternatives + 1) - 1

    def parts(self) -> dict[str, Estimate]:
        """Nats per step, errors over sequences. Information and misfit from the same side sum to the rate."""
        steps = self.valid.sum(1)
        terms = {
            "rate": self.rate,
            "information_low": self.information[0],
            "misfit_high": self.misfit.high,
            "information_high": self.information[1],
            "misfit_low": self.misfit.low,
        }
        return {name: per_step(term.double().sum(1), steps) for name, term in terms.items()}

    def as_json(self) -> dict[str, object]:
        """Numbers alone: {"parts": {name: {mean, error}}, "alternatives", "saturated", "sequences", "steps"}."""
        return {
            "parts": {name: estimate._asdict() for name, estimate in self.parts().items()},
            "alternatives": self.alternatives,
            "saturated": self.saturated,
            "sequences": len(self.valid),
            "steps": int(self.valid.sum()),
        }


def misfit(
    log_own: Float[Tensor, "*batch"], log_others: Float[Tensor, "M ..."], log_prior: Float[Tensor, "*batch"]
) -> Misfit:
    """log q_bar(z) - log p(z) at z ~ q(z | x), in nats: see the module's equations.

    Args:
        log_own: log q(z | x).
        log_others: log q(z | x'_m) of M alternatives to x.
        log_prior: log p(z).
    """
    M, others = len(log_others), log_others.logsumexp(0)
    low = others - math.log(M) - log_prior
    high = torch.logaddexp(log_own, others) - math.log(M + 1) - log_prior
    return Misfit(low, high)


@torch.no_grad()
def first_row(sequence: LatentSequence, *, samples: int = 16, generator: torch.Generator | None = None) -> Rate:
    """The first row of B sequences, which are each other's alternatives (M = B - 1); all of a model of one row.

    Where q reads what follows, information is about all that it reads of the sequence.

    Args:
        sequence: the model and its B sequences.
        samples: draws of z_1 for each sequence.
        generator: source of the draws.
    Returns:
        [B, 1].
    Raises:
        ValueError: for a single sequence, or where h_1 is not the same for all.
    """
    require_positive(samples=samples)
    B = len(sequence.valid)
    require(B > 1, "sequence", "at least two sequences", B)
    _, deter, prior = sequence.step(sequence.initial(samples), 0)
    # h_1 is the same product for all sequences, up to rounding.
    if not torch.allclose(deter, deter[:, :1].expand_as(deter), rtol=1e-4, atol=1e-5):
        raise ValueError("sequence: expected the same h_1 for all sequences, got different ones")
    posterior = sequence.proposal(deter, 0)
    z = posterior.sample(generator)  # [N, B, Z]
    others = [posterior.log_prob(z.roll(k, 1)).sum(-1).roll(-k, 1) for k in range(1, B)]  # log q(z_b | x_b+k)
    log_own, log_prior = posterior.log_prob(z).sum(-1).double(), prior.log_prob(z).sum(-1).double()
    found = misfit(log_own, torch.stack(others).double(), log_prior)
    kl = posterior.kl(prior).sum(-1).double().mean(0)[:, None]
    valid = sequence.valid[:, :1]
    return _rate(kl, Misfit(*(x.mean(0)[:, None] for x in found)), valid, B - 1)


@torch.no_grad()
def rate_along_path(sequence: LatentSequence, alternatives: LatentSequence, path: Float[Tensor, "B T Z"]) -> Rate:
    """Every row, along one draw of the latents.

    Args:
        sequence: the model and its B sequences; q must read no row after its own.
        alternatives: the same model with M * B sequences, M times all of these in their order, in which every row x_t
            is another draw x'_t given the *original* rows before it. Of them q(z_t | h_t, x'_t) alone is read, at the
            h_t of the original.
        path: z_1:T drawn from q given the original, as `posterior_path` does.
    Raises:
        ValueError: if there are no alternatives, or not as many for every sequence.
    """
    B, T = sequence.valid.shape
    M, rest = divmod(len(alternatives.valid), B)
    require(M > 0 and rest == 0, "alternatives", f"a multiple of the {B} sequences", len(alternatives.valid))
    carry, kls, found = sequence.initial(1), [], []
    for t in range(T):
        carry, deter, prior = sequence.step(carry, t)
        posterior, z = sequence.proposal(deter, t), path[None, :, t]
        carry = sequence.advance(carry, State(deter, z))
        others = alternatives.proposal(deter.repeat(1, M, 1), t).log_prob(z.repeat(1, M, 1)).sum(-1)  # [1, M * B]
        log_own, log_prior = (q.log_prob(z).sum(-1)[0].double() for q in (posterior, prior))
        found.append(misfit(log_own, others.double().view(M, B), log_prior))
        kls.append(posterior.kl(prior).sum(-1)[0].double())
    low, high = (torch.stack(rows, 1) for rows in zip(*found, strict=True))
    return _rate(torch.stack(kls, 1), Misfit(low, high), sequence.valid, M)


@torch.no_grad()
def posterior_path(sequence: LatentSequence, *, generator: torch.Generator | None = None) -> State:
    """One draw from q of every sequence: h_1:T and z_1:T, [B, T, ...]."""
    carry, states = sequence.initial(1), []
    for t in range(sequence.valid.shape[1]):
        carry, deter, _ = sequence.step(carry, t)
        states.append(State(deter, sequence.proposal(deter, t).sample(generator)))
        carry = sequence.advance(carry, states[-1])
    return State(*(torch.stack([getattr(state, name)[0] for state in states], 1) for name in State._fields))


def join_rates(parts: Sequence[Rate]) -> Rate:
    """The rate of all sequences, from that of some at a time with as many alternatives; rows are padded at the end."""
    T = max(part.valid.shape[1] for part in parts)

    def rows(name: str) -> Tensor:
        columns = [getattr(part.misfit if name in Misfit._fields else part, name) for part in parts]
        padded = [torch.nn.functional.pad(x.to(torch.float64), (0, T - x.shape[1])) for x in columns]
        return torch.cat(padded)

    return Rate(rows("rate"), Misfit(rows("low"), rows("high")), rows("valid").bool(), parts[0].alternatives)


def _rate(kl: Tensor, found: Misfit, valid: Tensor, alternatives: int) -> Rate:
    low, high = (torch.where(valid, x, 0.0) for x in found)
    return Rate(torch.where(valid, kl, 0.0), Misfit(low, high), valid, alternatives)
