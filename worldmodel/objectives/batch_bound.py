"""The bound and the loss of a training batch, from one draw of its latents and with gradients."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.models.latents import OneHotCategorical
from worldmodel.objectives.elbo import Bound, Total, elbo, log_likelihoods, own
from worldmodel.objectives.loss import Loss, Objective, divergence, loss
from worldmodel.objectives.marginal import with_marginal_gradient
from worldmodel.objectives.overshooting import ImaginingModel, overshooting
from worldmodel.types import KL, BalancedKL, Batch, Likelihood, State, Trajectory


@runtime_checkable
class TrainedModel(Protocol):
    """A model of rows that can be trained on the bound: the world model, and the VAE, whose sequences have one row."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Its networks by name; gradient norms are reported for each."""
        ...

    @property
    def marginal_gradient(self) -> bool:
        """Whether a categorical q gets the likelihoods' gradients by sums over classes, see `objectives.marginal`."""
        ...

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T *noise"]:
        """The noise from which the samples of z_t are computed."""
        ...

    def __call__(self, batch: Batch, noise: Float[Tensor, "B T *noise"]) -> tuple[Trajectory, dict[str, Likelihood]]:
        """States, posterior and prior of every row, and the likelihoods at these states by name."""
        ...

    def decode(self, state: State, names: Collection[str] | None = None) -> Mapping[str, Likelihood]:
        """The likelihoods at states with any leading shape; of `names` alone, where given."""
        ...

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What each likelihood is evaluated at, by name."""
        ...

    def observed(self, batch: Batch) -> dict[str, Bool[Tensor, "B T"]]:
        """For each target that is not an observation at every row, the rows where it is one."""
        ...


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """A term that is added to the loss, such as the error of a prediction of one's own; it may have parameters."""

    def __call__(self, states: State, batch: Batch) -> Float[Tensor, "B T"]:
        """The term at every row in nats, differentiable in the states, which are [B, T, ...]."""
        ...


def bound_and_loss(
    model: TrainedModel, batch: Batch, objective: Objective, generator: torch.Generator, *, autocast: bool = False
) -> tuple[Bound, Loss]:
    """The bound and the loss of a batch for one draw of the latents, with gradients unless under `torch.no_grad`."""
    return bound_loss_and_states(model, batch, objective, generator, autocast=autocast)[:2]


def bound_loss_and_states(
    model: TrainedModel,
    batch: Batch,
    objective: Objective,
    generator: torch.Generator,
    *,
    autocast: bool = False,
    total: Total = own,
    auxiliary: Mapping[str, AuxiliaryLoss] | None = None,
) -> tuple[Bound, Loss, State]:
    """The bound, the loss, and the states at which the bound was computed.

    Args:
        model: the model.
        batch: rows [B, T].
        objective: how the loss departs from the bound.
        generator: source of the draw.
        autocast: run the networks in bfloat16.
        total: sums over the rows of all processes, if the batch is this process's share of them.
        auxiliary: what else is added to the loss, by name.
    Raises:
        ValueError: if an auxiliary loss is not a number at every row.
    """
    bound, each, states = _bound_and_divergence(model, batch, objective, generator, autocast)
    bound = replace(bound, total=total)
    added: dict[str, Tensor] = {}
    if objective.overshooting is not None:
        assert isinstance(model, ImaginingModel)
        with torch.autocast(batch.reward.device.type, torch.bfloat16, enabled=autocast):
            added["overshooting"] = overshooting(model, batch, states, objective.overshooting, generator)
    for name, one in (auxiliary or {}).items():
        added[f"auxiliary_{name}"] = term = one(states, batch)
        if term.shape != batch.valid.shape:
            expected = f"a number at every row, {tuple(batch.valid.shape)}"
            raise ValueError(f"auxiliary loss {name}: expected {expected}, got the shape {tuple(term.shape)}")
    return bound, loss(bound, each, objective, added), states


def sampled_bound(model: TrainedModel, batch: Batch, generator: torch.Generator) -> Bound:
    """The bound of a batch for one draw of the latents, with gradients unless under `torch.no_grad`."""
    return _bound_and_divergence(model, batch, Objective(), generator, autocast=False)[0]


def _bound_and_divergence(
    model: TrainedModel, batch: Batch, objective: Objective, generator: torch.Generator, autocast: bool
) -> tuple[Bound, KL | BalancedKL, State]:
    """The bound, which does not depend on the objective, the divergence as the objective needs it, and the states."""
    B, T = batch.is_first.shape
    noise = model.noise(B, T, generator)
    targets, observed = model.targets(batch), model.observed(batch)
    reduced = torch.autocast(batch.reward.device.type, torch.bfloat16, enabled=autocast)
    with reduced:
        (states, posterior, prior, _), likelihoods = model(batch, noise)
    each = divergence(posterior, prior, objective)
    bound = elbo(likelihoods, targets, posterior, prior, valid=batch.valid, observed=observed, kl_groups=each.kl)
    if not model.marginal_gradient or not torch.is_grad_enabled():
        return bound, each, states

    optimised = [name for name in targets if objective.scales.get(name, 1.0) != 0]

    def log_likelihood(stoch: Tensor) -> dict[str, Tensor]:
        count = len(stoch)
        with reduced:
            decoded = model.decode(State(states.deter.expand(count, *states.deter.shape), stoch), optimised)
        seen = {name: mask for name, mask in observed.items() if name in optimised}
        return log_likelihoods(
            decoded, {name: targets[name].expand(count, *targets[name].shape) for name in optimised}, seen
        )

    assert isinstance(posterior, OneHotCategorical)
    return with_marginal_gradient(bound, posterior, states.stoch.detach(), log_likelihood), each, states
