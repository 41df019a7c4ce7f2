"""Refinement: gradient steps on q of the very sequences that are scored, with the model left alone.

An amortised posterior comes out of one network for all sequences. Here each row of each sequence gets an offset of its
own, added to the raw parameters of its q(z_t | h_t, x), so that q stays in its family and goes on reading h_t through
the network. Offsets are found by Adam on the bound of that sequence alone. What they gain is what amortisation costs.

Offsets do not change how q depends on h_t, so the gain is a lower bound of what the best member of the family would
gain, as is any result of finitely many noisy steps. Where samples have an exact gradient, the bound is differentiated
along them alone: the score of q has mean zero and is left out, so that the noise vanishes as q nears the posterior. For
categorical latents the gradient is the family's own, which is biased. Offsets are kept only where they raise the bound
on fresh draws.

Sources: Cremer, Li and Duvenaud 2018, arXiv 1801.03558 (amortisation and approximation gap); Kim et al. 2018, arXiv
1802.02550 (refinement by gradient steps); Roeder, Wu and Duvenaud 2017, arXiv 1703.09194 (the gradient along samples).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.checks import require_above_zero, require_positive
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.same_model import SameModel
from worldmodel.types import Latent, LatentSequence, State

STEPS = 200  # of gradient ascent on the bound of an episode
SAMPLES = 4  # draws of the latents for each step
LEARNING_RATE = 0.03  # in units of the raw parameters
NEGLIGIBLE = 1e-3  # nats per unit: gradients below this are rounding, which Adam would follow at full speed otherwise


@runtime_checkable
class Adjustable(Latent, Protocol):
    """A distribution over z_t whose parameters can be moved within its family, as those of every family here can."""

    reparameterised: ClassVar[bool]  # whether the gradient of `rsample` is exact

    @property
    def parameters(self) -> int:
        """P, the numbers that an offset has."""
        ...

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """What `rsample` makes one draw from."""
        ...

    def shifted(self, offset: Float[Tensor, "*#batch P"]) -> "Adjustable":
        """The distribution with its raw parameters moved by an offset, differentiable in it; zero changes nothing."""
        ...


@dataclass(frozen=True)
class RefinedSequence(SameModel):
    """A `LatentSequence` that differs from another in q alone: every row's raw parameters have an offset."""

    sequence: LatentSequence
    offset: Float[Tensor, "B T P"]

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Latent:
        """q(z_t | h_t, x), moved."""
        return adjustable(self.sequence.proposal(deter, t)).shifted(self.offset[:, t])


def refine(
    sequence: LatentSequence,
    *,
    steps: int = STEPS,
    samples: int = SAMPLES,
    learning_rate: float = LEARNING_RATE,
    check: int = 32,
    generator: torch.Generator | None = None,
) -> RefinedSequence:
    """Move q of every row of every sequence by gradient steps on the bound of its sequence.

    Args:
        sequence: the model and its B sequences; those of one call share memory, [N, B, T, ...] with gradients.
        steps: of Adam.
        samples: N draws of z_1:T for each step's estimate of the bound.
        learning_rate: in units of the raw parameters; it falls linearly to zero.
        check: draws of either bound that decide whether a sequence keeps its offsets. They are not used again, so the
            bound of what is returned is estimated without bias by any other draws.
        generator: source of all draws.
    Raises:
        ValueError: if a number is not positive, or q cannot be moved.
    """
    require_positive(steps=steps, samples=samples, check=check)
    require_above_zero(learning_rate=learning_rate)
    start = RefinedSequence(sequence, _no_offset(sequence))
    found = RefinedSequence(sequence, _ascend(start, steps, samples, learning_rate, generator))
    better = mean_elbo(found, check, generator=generator) > mean_elbo(start, check, generator=generator)
    return RefinedSequence(sequence, torch.where(better[:, None, None], found.offset, start.offset))


def adjustable(posterior: Latent) -> Adjustable:
    """The distribution, if it can be moved within its family.

    Raises:
        ValueError: if not.
    """
    if not isinstance(posterior, Adjustable):
        expected = "a posterior with parameters, noise and shifted"
        raise ValueError(f"sequence: expected {expected}, got {type(posterior).__name__}")
    return posterior


@torch.enable_grad()
def _ascend(
    start: RefinedSequence, steps: int, samples: int, learning_rate: float, generator: torch.Generator | None
) -> Float[Tensor, "B T P"]:
    """Offsets after Adam's steps. Every sequence has its own: the gradient of the sum is that of each."""
    offset = start.offset.clone().requires_grad_()
    optimizer = torch.optim.Adam([offset], learning_rate, eps=NEGLIGIBLE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        bound = _differentiable_bound(start.sequence, offset, samples, generator)
        (offset.grad,) = torch.autograd.grad(-bound.sum(), offset)
        optimizer.step()
    return offset.detach()


def _differentiable_bound(
    sequence: LatentSequence, offset: Float[Tensor, "B T P"], samples: int, generator: torch.Generator | None
) -> Float[Tensor, " B"]:
    """The bound of every sequence under moved q, the mean over N draws; only its gradient matters, see the module."""
    carry, total = sequence.initial(samples), torch.zeros(())
    for t, valid in enumerate(sequence.valid.unbind(1)):
        carry, deter, prior = sequence.step(carry, t)
        unmoved = adjustable(sequence.proposal(deter, t))
        q = unmoved.shifted(offset[:, t])
        state = State(deter, q.rsample(q.noise(generator)))
        carry = sequence.advance(carry, state)
        if q.reparameterised:
            held = unmoved.shifted(offset[:, t].detach())
            kl = (held.log_prob(state.stoch) - prior.log_prob(state.stoch)).sum(-1)
        else:
            kl = q.kl(prior).sum(-1)
        reconstruction = torch.stack(list(sequence.likelihood(state, t).values())).sum(0)
        total = total + torch.where(valid, reconstruction - kl, 0.0)  # [N, B]
    return total.mean(0)


@torch.no_grad()
def _no_offset(sequence: LatentSequence) -> Float[Tensor, "B T P"]:
    _, deter, _ = sequence.step(sequence.initial(1), 0)
    posterior = adjustable(sequence.proposal(deter, 0))
    return deter.new_zeros(*sequence.valid.shape, posterior.parameters)
