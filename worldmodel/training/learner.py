"""One optimiser over one objective. Nothing is read back to the host: what an update reports stays on the device."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from worldmodel.objectives.batch_bound import AuxiliaryLoss, TrainedModel, bound_loss_and_states
from worldmodel.objectives.elbo import Bound, Total, own
from worldmodel.objectives.loss import Loss, Objective
from worldmodel.training.optimizers import make_optimizer
from worldmodel.training.processes import ALONE, Processes
from worldmodel.training.states import learner_state, restore_learner, restore_model
from worldmodel.types import Batch, State

AUXILIARY = "auxiliary"  # what the names of the weights of auxiliary losses begin with, and their part of the gradient
Model = TypeVar("Model", bound=TrainedModel)


@runtime_checkable
class AnyUpdate(Protocol):
    """What a step of any learner reports, detached, on the device."""

    @property
    def learning_rate(self) -> float:
        """The rate that the step was taken with."""
        ...

    def scalars(self) -> dict[str, Tensor]:
        """Everything that is one number per update, [] each. `loss/value` and `grad_norm/...` must stay finite."""
        ...

    def first_non_finite(self) -> dict[str, Tensor]:
        """By term of the loss, the first place in the sequence with a value that is not finite, or -1."""
        ...


@runtime_checkable
class AnyLearner(Protocol):
    """One optimiser over one objective, as the trainer drives it."""

    updates: int
    """Steps taken by now."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def update(self, batch: Batch, before: Mapping[str, AnyUpdate]) -> AnyUpdate:
        """Take one step on a batch of [B, T] rows; `before` has the updates that other learners just made on it."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimiser's state, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a state that `state` gave after so many updates; raises ValueError for another model's."""
        ...


@dataclass(frozen=True)
class Update:
    """What one step on the bound reports, detached, on the device."""

    bound: Bound
    loss: Loss
    states: State  # the posterior states that both were computed at, [B, T, ...]
    grad_norm: dict[str, Tensor]  # before clipping: of each part of the model, and `total`
    learning_rate: float

    def scalars(self) -> dict[str, Tensor]:
        """Everything that is one number per update: [] each, in nats per step or as its name says."""
        return {
            "loss/value": self.loss.value,
            **{f"ledger/{name}": value for name, value in self.loss.ledger.items()},
            **{f"latent/{name}": value for name, value in self.loss.latent.items()},
            **{f"train/{name}": value for name, value in self.bound.per_step().items()},
            **{f"grad_norm/{name}": value for name, value in self.grad_norm.items()},
        }

    def first_non_finite(self) -> dict[str, Tensor]:
        """By term of the bound, the first place in the sequence with a value that is not finite, or -1."""
        terms = {"kl": self.bound.kl, **self.bound.log_likelihood}
        return {name: _first_bad_place(term, self.bound.valid) for name, term in terms.items()}


class Learner(Generic[Model]):
    """Trains a model on the bound, or what is optimised in its place. `update` is the whole algorithm."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        generator: torch.Generator,
        *,
        learning_rate: float,
        warmup: int,
        final_fraction: float,
        total_updates: int,
        clip_norm: float,
        weight_decay: float,
        eps: float,
        autocast: bool = False,
        processes: Processes = ALONE,
        auxiliary: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Args:
        model, objective: what is trained, but for parameters without gradients, and on what.
        generator: source of the latents' noise, on the model's device.
        learning_rate, warmup, final_fraction, total_updates: a linear rise over `warmup` updates, then a cosine down to
            `final_fraction` of the peak at `total_updates` (1 keeps the peak).
        clip_norm: largest global gradient norm.
        weight_decay, eps: AdamW's.
        autocast: run the networks in bfloat16.
        processes: those that share each batch.
        auxiliary: modules that are an `AuxiliaryLoss` each, by name; their parameters are trained too.
        """
        self.model, self.objective, self.generator = model, objective, generator
        self.clip_norm, self.autocast, self.processes = clip_norm, autocast, processes
        self.auxiliary = nn.ModuleDict(auxiliary)
        self.parts: dict[str, list[nn.Parameter]] = {
            name: trained
            for name, part in {**model.parts, AUXILIARY: self.auxiliary}.items()
            if (trained := [p for p in part.parameters() if p.requires_grad])
        }
        self.parameters = [p for part in self.parts.values() for p in part]
        # What changes from update to update is a tensor, so that every update is the same operations on the device.
        device = self.parameters[0].device
        precision = torch.float64 if device.type == "cpu" else torch.float32  # as AdamW reads a rate there
        self._beta = torch.zeros((), device=device)
        self.optimizer = make_optimizer(
            "adamw", self.parameters, learning_rate=learning_rate, weight_decay=weight_decay, eps=eps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), dtype=precision, device=device)
        self.updates = 0
        self._schedule = (learning_rate, warmup, final_fraction, total_updates)

    def update(self, batch: Batch, before: Mapping[str, AnyUpdate] | None = None) -> Update:
        """Take one step on a batch of [B, T] rows. What other learners did before it makes no difference."""
        return self.step(batch, {}, self.begin())

    def begin(self) -> float:
        """Count one more update, and set its learning rate and beta on the device: -> the rate."""
        rate = learning_rate(self.updates, *self._schedule)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)
        self._beta.fill_(self.objective.at(self.updates).beta)
        self.updates += 1
        return rate

    def step(self, batch: Batch, before: Mapping[str, AnyUpdate], rate: float) -> Update:
        """The rest of an update, with what `begin` set; its operations are the same every time."""
        objective = replace(self.objective, beta=self._beta)
        bound, optimised, states = self._explain(batch, objective, self.generator, self.processes.sum_over)
        self.optimizer.zero_grad()
        optimised.value.backward()
        self.processes.mean_gradients(self.parameters)
        grad_norm = self._clip_gradients()
        self.optimizer.step()
        detached = State(states.deter.detach(), states.stoch.detach())
        return Update(_detach_bound(bound), _detach_loss(optimised), detached, grad_norm, rate)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimiser's state, by name; see `states`. The generator's state is not among them."""
        added = {f"{AUXILIARY}/{name}": value for name, value in self.auxiliary.state_dict().items()}
        return learner_state(self._module(), self.optimizer) | added

    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a state that `state` gave after so many updates; raises ValueError for another model's."""
        restore_model(self.auxiliary, state, f"{AUXILIARY}/")
        restore_learner(self._module(), self.optimizer, state)
        self.updates = updates

    @torch.no_grad()
    def loss(self, batch: Batch, generator: torch.Generator) -> float:
        """The loss of the present weights on a batch of [B, T] rows, with noise of its own, in this process alone."""
        return float(self._explain(batch, self.objective.at(self.updates), generator, own)[1].value)

    def _module(self) -> nn.Module:
        assert isinstance(self.model, nn.Module)
        return self.model

    def _explain(
        self, batch: Batch, objective: Objective, generator: torch.Generator, total: Total
    ) -> tuple[Bound, Loss, State]:
        return bound_loss_and_states(
            self.model, batch, objective, generator, autocast=self.autocast, total=total, auxiliary=self._losses
        )

    @property
    def _losses(self) -> dict[str, AuxiliaryLoss]:
        return dict(self.auxiliary.items())

    def _clip_gradients(self) -> dict[str, Tensor]:
        norms = {
            name: nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])
            for name, part in self.parts.items()
        }
        norms["total"] = torch.stack(list(norms.values())).norm()
        nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norms["total"])
        return norms


def learning_rate(update: int, peak: float, warmup: int, final_fraction: float, total_updates: int) -> float:
    """The rate of update 0, 1, ...: peak * (u + 1) / warmup at first, then a cosine from peak to its final fraction."""
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = min(1.0, (update - warmup) / max(1, total_updates - warmup))
    return peak * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def _first_bad_place(term: Tensor, valid: Tensor) -> Tensor:
    bad = (~torch.isfinite(term) & valid).any(0)  # [T]
    return torch.where(bad.any(), bad.int().argmax(), -1)


def _detach_bound(bound: Bound) -> Bound:
    terms = {name: term.detach() for name, term in bound.log_likelihood.items()}
    return replace(bound, log_likelihood=terms, kl_groups=bound.kl_groups.detach())


def _detach_loss(objective: Loss) -> Loss:
    return Loss(objective.value.detach(), objective.optimised_kl.detach(), objective.ledger, objective.latent)
