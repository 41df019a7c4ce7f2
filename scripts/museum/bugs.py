"""The bugs. Each is a few lines over the sound code: another reading of the rows, a patch, or another report.

A `Bug` has up to three parts, of which each leaves everything as it was by default:

    rows     what it makes of a batch before the model sees it
    inside   a context in which the library has the bug, and after which it has not
    report   what it reports of each row of a batch, where that is not minus the loss's terms
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.models.latents import DiagonalGaussian, OneHotCategorical
from worldmodel.models.likelihoods import Normal, SymlogNormal, symlog
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import bound_and_loss
from worldmodel.objectives.elbo import Bound, sequence_elbo
from worldmodel.objectives.loss import Objective
from worldmodel.types import Batch, State, Trajectory

PATHS = 64  # latent paths of the average that is taken row by row
FREE = 1.0  # nats that are free
Report = Callable[[WorldModel, Batch, Objective, torch.Generator], Float[Tensor, "B T"]]


@torch.no_grad()
def minus_loss(
    model: WorldModel, batch: Batch, objective: Objective, generator: torch.Generator
) -> Float[Tensor, "B T"]:
    """What a run reports of every row in nats: the likelihoods less the KL as it is optimised; zero at padding."""
    bound, optimised = bound_and_loss(model, batch, objective, generator)
    return torch.where(batch.valid, bound.reconstruction - optimised.optimised_kl, 0.0)


def same_rows(batch: Batch) -> Batch:
    """The rows as they are."""
    return batch


@dataclass(frozen=True)
class Bug:
    """A mistake; by default, none."""

    rows: Callable[[Batch], Batch] = same_rows
    inside: Callable[[], AbstractContextManager[object]] = nullcontext
    report: Report = minus_loss

    def claims(
        self, model: WorldModel, batch: Batch, objective: Objective, generator: torch.Generator
    ) -> Float[Tensor, "B T"]:
        """What the code with the bug reports of every row of a batch, in nats."""
        with self.inside():
            return self.report(model, self.rows(batch), objective, generator)


# What row belongs to what


def later(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T ..."]:
    """Every entry one row later; the first row has zeros."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def earlier(x: Float[Tensor, "B T ..."]) -> Float[Tensor, "B T ..."]:
    """Every entry one row earlier; the last row has zeros."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)


def actions_late(batch: Batch) -> Batch:
    """Row t is told the action that led to row t - 1."""
    return batch._replace(prev_action=later(batch.prev_action))


def actions_early(batch: Batch) -> Batch:
    """Row t is told the action that was taken at it, which leads to row t + 1."""
    return batch._replace(prev_action=earlier(batch.prev_action))


def rewards_late(batch: Batch) -> Batch:
    """Row t has the reward of row t - 1."""
    return batch._replace(reward=later(batch.reward))


def truncation_as_termination(batch: Batch) -> Batch:
    """Every episode that ends has terminated."""
    return batch._replace(is_terminal=batch.is_last)


def first_reward_counted() -> AbstractContextManager[object]:
    """The zero that stands for the reward of a first row is an observation."""
    return patch.object(WorldModel, "observed", lambda self, batch: {})


# What a state follows from


def resets_unmasked() -> AbstractContextManager[object]:
    """The state goes on where an episode begins inside a sequence."""
    return patch.object(RSSM, "_keep", lambda self, is_first: torch.ones(*is_first.shape, 1))


def state_not_carried() -> AbstractContextManager[object]:
    """Every row is explained from the empty state, as if none came before it; the action is heard."""
    sound = RSSM._loop

    def loop(self: RSSM, *inputs: Any) -> tuple[Tensor, ...]:
        *steps, carry = inputs
        empty = State(*(torch.zeros_like(x) for x in carry))
        rows = [sound(self, *(x[:, t : t + 1] for x in steps), empty) for t in range(steps[0].shape[1])]
        return tuple(torch.cat(parts, 1) for parts in zip(*rows, strict=True))

    return patch.object(RSSM, "_loop", loop)


def prior_after_z() -> AbstractContextManager[object]:
    """The prior of z_t reads h_{t+1}, which has already heard of z_t."""
    sound = RSSM.observe

    def observe(self: RSSM, *inputs: Tensor, **options: bool) -> Trajectory:
        found = sound(self, *inputs, **options)
        deter = found.states.deter
        return found._replace(prior=self.prior(torch.cat([deter[:, 1:], deter[:, -1:]], 1)))

    return patch.object(RSSM, "observe", observe)


@contextmanager
def stale_states() -> Iterator[None]:
    """The filter is not cleared between episodes: each begins where another one ended."""
    sound = WorldModel.observe

    def observe(self: WorldModel, batch: Batch, noise: Tensor) -> Trajectory:
        states = sound(self, batch, noise).states
        each, last = torch.arange(len(batch.valid)), batch.valid.sum(1) - 1
        left = State(*(x[each, last].roll(1, 0) for x in states))
        with resets_unmasked():
            return sound(self, batch, noise, left)

    with patch.object(WorldModel, "observe", observe):
        yield


# What the KL is


def kl_as(wrong: Callable[[Tensor], Tensor]) -> AbstractContextManager[object]:
    """The KL of a row [B, T] is made of the KL of its groups [B, T, S] in another way than by their sum."""
    return patch.object(Bound, "kl", property(lambda self: wrong(self.kl_groups)))


def kl_mean_over_groups() -> AbstractContextManager[object]:
    """`kl.mean()` of [B, T, S]."""
    return kl_as(lambda groups: groups.mean(-1))


def kl_sum_over_time() -> AbstractContextManager[object]:
    """`kl.sum(1)` instead of `kl.sum(-1)`, then the mean of what is left."""
    return kl_as(lambda groups: groups.sum(1, keepdim=True).mean(-1).expand(groups.shape[:2]))


def free_nats_per_group() -> AbstractContextManager[object]:
    """max(KL, free) of each group, where it is meant of their sum."""
    return kl_as(lambda groups: groups.clamp(min=FREE).sum(-1))


def kl_swapped() -> AbstractContextManager[object]:
    """KL(p || q): the two arguments in the wrong order."""
    sound = DiagonalGaussian.divergence
    return patch.object(DiagonalGaussian, "divergence", lambda self, other: sound(other, self))


def other_std() -> AbstractContextManager[object]:
    """z_t is sampled with std^2, a variance taken for a standard deviation; the KL is that of std."""
    return patch.object(DiagonalGaussian, "rsample", lambda self, noise: self.mean + self.std.square() * noise)


def other_logits() -> AbstractContextManager[object]:
    """z_t is sampled from the mixture with the uniform distribution; the KL is that of the logits before mixing."""
    sound = OneHotCategorical.divergence

    def divergence(self: OneHotCategorical, other: OneHotCategorical) -> object:
        return sound(OneHotCategorical(self.logits, 0.0), OneHotCategorical(other.logits, 0.0))

    return patch.object(OneHotCategorical, "divergence", divergence)


def posterior_mean() -> AbstractContextManager[object]:
    """z_t is the posterior's mean, no sample of it."""
    return patch.object(DiagonalGaussian, "rsample", lambda self, noise: self.mean)


# What a likelihood is, and what is averaged


def without_constant() -> AbstractContextManager[object]:
    """A Gaussian without its 1/2 log 2 pi."""
    sound = Normal.log_prob
    return patch.object(Normal, "log_prob", lambda self, x: sound(self, x) + 0.5 * math.log(2 * math.pi) * x.shape[-1])


def without_jacobian() -> AbstractContextManager[object]:
    """The density of symlog(x), reported as the density of x."""
    return patch.object(SymlogNormal, "log_prob", lambda self, x: self.base.log_prob(symlog(x)))


def averaged_over_padding(
    model: WorldModel, batch: Batch, objective: Objective, generator: torch.Generator
) -> Float[Tensor, "B T"]:
    """The sum over the rows is divided by B T, padding included."""
    return minus_loss(model, batch, objective, generator) * batch.valid.float().mean()


@torch.no_grad()
def averaged_row_by_row(
    model: WorldModel, batch: Batch, objective: Objective, generator: torch.Generator
) -> Float[Tensor, "B T"]:
    """log mean exp over latent paths at every row, then the sum over rows; called IWAE."""
    paths = sequence_elbo(model.given(batch), PATHS, generator=generator, sampled_kl=True).elbo.double()
    return paths.logsumexp(0) - math.log(PATHS)
