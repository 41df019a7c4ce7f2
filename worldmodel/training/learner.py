"""One gradient step on one batch. Nothing is read back to the host: what an update reports stays on the device."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from worldmodel.objectives.batch_bound import TrainedModel, bound_and_loss
from worldmodel.objectives.elbo import Bound
from worldmodel.objectives.loss import Loss, Objective
from worldmodel.types import Batch

Model = TypeVar("Model", bound=TrainedModel)


@dataclass(frozen=True)
class Update:
    """What one step reports, detached, on the device."""

    bound: Bound
    loss: Loss
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
    """Owns the optimiser. `update` is the whole algorithm."""

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
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        autocast: bool = False,
    ) -> None:
        """Args:
        model, objective: what is trained, but for parameters without gradients, and on what.
        generator: source of the latents' noise, on the model's device.
        learning_rate, warmup, final_fraction, total_updates: a linear rise over `warmup` updates, then a cosine down to
            `final_fraction` of the peak at `total_updates` (1 keeps the peak).
        clip_norm: largest global gradient norm.
        weight_decay, eps: AdamW's.
        autocast: run the networks in bfloat16.
        """
        self.model, self.objective, self.generator = model, objective, generator
        self.clip_norm, self.autocast = clip_norm, autocast
        self.parts: dict[str, list[nn.Parameter]] = {
            name: trained
            for name, part in model.parts.items()
            if (trained := [p for p in part.parameters() if p.requires_grad])
        }
        self.parameters = [p for part in self.parts.values() for p in part]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, weight_decay=weight_decay, eps=eps, fused=True
        )
        self.updates = 0
        self._schedule = (learning_rate, warmup, final_fraction, total_updates)

    def update(self, batch: Batch) -> Update:
        """Take one step on a batch of [B, T] rows."""
        rate = learning_rate(self.updates, *self._schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        objective = self.objective.at(self.updates)
        bound, optimised = bound_and_loss(self.model, batch, objective, self.generator, autocast=self.autocast)
        self.optimizer.zero_grad()
        optimised.value.backward()
        grad_norm = self._clip_gradients()
        self.optimizer.step()
        self.updates += 1
        return Update(_detach_bound(bound), _detach_loss(optimised), grad_norm, rate)

    @torch.no_grad()
    def loss(self, batch: Batch, generator: torch.Generator) -> float:
        """The loss of the present weights on a batch of [B, T] rows, with noise of its own."""
        objective = self.objective.at(self.updates)
        return float(bound_and_loss(self.model, batch, objective, generator, autocast=self.autocast)[1].value)

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
    return Bound(terms, bound.kl_groups.detach(), bound.valid)


def _detach_loss(objective: Loss) -> Loss:
    return Loss(objective.value.detach(), objective.optimised_kl.detach(), objective.ledger, objective.latent)
