"""The evidence lower bound (ELBO) of a sequence, per term and per time step, in nats.

    log p(x_1:T) >= sum_t  sum_terms log p(x_t | h_t, z_t)  -  KL( q(z_t | h_t, x_t) || p(z_t | h_t) ),   z_t ~ q

The terms are normalised log-densities and log-masses of observation, reward and continue flag. Nothing is clipped,
scaled or averaged here. With one sample of z_1:T it is an unbiased estimate of the bound.

`elbo` computes it from the distributions of the batched training path; `sequence_elbo` computes the same bound for any
`LatentSequence`, in a loop that reads like the equation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.checks import require_positive
from worldmodel.types import Latent, LatentSequence, Likelihood, State

Total = Callable[[Tensor], Tensor]  # a sum over this process's rows -> the sum over the rows of all processes


def own(x: Tensor) -> Tensor:
    """The `Total` of a single process, which has all rows: the sum itself."""
    return x


@dataclass(frozen=True)
class Bound:
    """The terms of the bound at every row, in nats: [B, T], or [N, B, T] for N draws of the latents."""

    log_likelihood: dict[str, Float[Tensor, "*batch T"]]  # by name; zero where there is no observation of that name
    kl_groups: Float[Tensor, "*batch T S"]  # raw KL(posterior || prior) of each latent group
    valid: Bool[Tensor, "*batch T"]  # the rows that count
    total: Total = own

    @property
    def kl(self) -> Float[Tensor, "*batch T"]:
        """KL(posterior || prior) of each row: the sum over groups."""
        return self.kl_groups.sum(-1)

    @property
    def reconstruction(self) -> Float[Tensor, "*batch T"]:
        """log p(x_t, r_t, c_t | h_t, z_t) of each row: the sum over names."""
        return torch.stack(list(self.log_likelihood.values())).sum(0)

    @property
    def elbo(self) -> Float[Tensor, "*batch T"]:
        """Each row's contribution to the bound; the sum over an episode bounds the episode's log evidence."""
        return self.reconstruction - self.kl

    def per_step(self) -> dict[str, Float[Tensor, ""]]:
        """Means over the rows that count, in nats per step: `elbo`, `kl`, and each log-likelihood by name."""
        return self.means({"elbo": self.elbo, "kl": self.kl, **self.log_likelihood})

    def mean(self, term: Float[Tensor, "*batch T"]) -> Float[Tensor, ""]:
        """Mean of a term over the rows that count, in all processes."""
        return self.means({"": term})[""]

    def means(self, terms: Mapping[str, Float[Tensor, "*batch T"]]) -> dict[str, Float[Tensor, ""]]:
        """Means of several terms, see `masked_mean`, for which the processes sum once."""
        assert all(term.shape == self.valid.shape for term in terms.values())
        sums = [torch.where(self.valid, term, 0.0).sum() for term in terms.values()]
        *sums, count = self.total(torch.stack([*sums, self.valid.sum().to(sums[0].dtype)])).unbind()
        return {name: x / count.clamp(min=1) for name, x in zip(terms, sums, strict=True)}


def elbo(
    likelihoods: Mapping[str, Likelihood],
    targets: Mapping[str, Tensor],
    posterior: Latent,
    prior: Latent,
    *,
    valid: Bool[Tensor, "B T"],
    observed: Mapping[str, Bool[Tensor, "B T"]] | None = None,
    kl_groups: Float[Tensor, "B T S"] | None = None,
) -> Bound:
    """The bound for states sampled from the posterior.

    Args:
        likelihoods: p(x_t | h_t, z_t) by name, with batch shape [B, T].
        targets: x_t by the same names.
        posterior: q(z_t | h_t, x_t), the distribution that the states were sampled from.
        prior: p(z_t | h_t).
        valid: the rows that count in `Bound.per_step`.
        observed: for a name that is not observed at every row, the rows where it is; its term is zero elsewhere.
        kl_groups: KL(posterior || prior) of each group, if it is known already.
    Returns:
        Every term at every row, in float32 or better.
    Raises:
        ValueError: if the names of likelihoods and targets differ.
    Source: Chung et al. 2015, arXiv 1506.02216, equation 11.
    """
    log_likelihood = log_likelihoods(likelihoods, targets, observed)
    kl_groups = posterior.kl(prior) if kl_groups is None else kl_groups
    for name, term in log_likelihood.items():
        assert term.shape == valid.shape, (name, term.shape, valid.shape)
    assert kl_groups.shape[:-1] == valid.shape, (kl_groups.shape, valid.shape)
    return Bound(log_likelihood, kl_groups, valid)


def log_likelihoods(
    likelihoods: Mapping[str, Likelihood],
    targets: Mapping[str, Tensor],
    observed: Mapping[str, Bool[Tensor, "*#batch T"]] | None = None,
) -> dict[str, Float[Tensor, "*batch T"]]:
    """log p(x_t | h_t, z_t) by name; zero where it is not observed. Arguments and errors as in `elbo`."""
    if likelihoods.keys() != targets.keys():
        raise ValueError(f"targets: expected the names {sorted(likelihoods)}, got {sorted(targets)}")
    terms = {name: likelihoods[name].log_prob(target) for name, target in targets.items()}
    return terms | {name: torch.where(mask, terms[name], 0.0) for name, mask in (observed or {}).items()}


def explained(likelihoods: Mapping[str, Likelihood]) -> dict[str, dict[str, Any]]:
    """The measure of each term of a bound with these likelihoods, and whether it is exact, as data for JSON.

    Two bounds can be compared if they have the same terms in the same measures.
    """
    return {name: {"measure": one.measure, "exact": one.exact} for name, one in likelihoods.items()}


@torch.no_grad()
def sequence_elbo(
    sequence: LatentSequence,
    samples: int = 1,
    *,
    generator: torch.Generator | None = None,
    sampled_kl: bool = False,
) -> Bound:
    """The bound of any model's sequences, by ancestral sampling from q, without gradients.

    Args:
        sequence: the model and its B sequences of T rows.
        samples: N draws of z_1:T.
        generator: source of the draws.
        sampled_kl: use log q(z_t) - log p(z_t) at the draw, whose mean is the KL, instead of the KL in closed form.
            Near the exact posterior its noise cancels the noise of the log-likelihoods; with the exact posterior, every
            draw of the bound equals the log evidence.
    Returns:
        Every term at every row, [N, B, T], zero at rows that are not valid; the mean over N estimates the bound.
    Raises:
        ValueError: if samples is not positive.
    """
    require_positive(samples=samples)
    carry = sequence.initial(samples)
    terms, kls = [], []
    for t in range(sequence.valid.shape[1]):
        carry, deter, prior = sequence.step(carry, t)
        posterior = sequence.proposal(deter, t)
        state = State(deter, posterior.sample(generator))
        carry = sequence.advance(carry, state)
        terms.append(sequence.likelihood(state, t))
        kls.append(posterior.log_prob(state.stoch) - prior.log_prob(state.stoch) if sampled_kl else posterior.kl(prior))
    valid = sequence.valid.expand(samples, -1, -1)
    log_likelihood = {name: torch.stack([term[name] for term in terms], -1) for name in terms[0]}
    return Bound(
        {name: torch.where(valid, term, 0.0) for name, term in log_likelihood.items()},
        torch.where(valid[..., None], torch.stack(kls, -2), 0.0),
        valid,
    )


def masked_mean(x: Float[Tensor, "*batch T"], valid: Bool[Tensor, "*batch T"], total: Total = own) -> Float[Tensor, ""]:
    """Mean of x over the rows that count, in all processes: of the loss, what it reports, and a bound's terms.

    Other summaries of rows are of one process: quantiles, means by time step, and ratios with an error over sequences.

    Args:
        x: a number for each row.
        valid: the rows that count.
        total: turns this process's sum and count into those of all processes.
    """
    assert x.shape == valid.shape, (x.shape, valid.shape)
    return total(torch.where(valid, x, 0.0).sum()) / total(valid.sum()).clamp(min=1)
