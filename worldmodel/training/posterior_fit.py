"""Training another posterior for a frozen generative model: how much higher the bound gets is what the old one lost."""

from collections.abc import Callable

import torch

from worldmodel.models.posteriors import Kind, with_posterior
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.loss import Objective
from worldmodel.training.learner import Learner
from worldmodel.types import Batch


def fit_posterior(
    model: WorldModel,
    kind: Kind,
    batches: Callable[[], Batch],
    *,
    updates: int,
    learning_rate: float,
    generator: torch.Generator,
    seed: int = 0,
    at: Callable[[str], None] = lambda words: None,
) -> WorldModel:
    """A copy of a model whose posterior, of the kind asked for, was trained on the bound against the frozen rest.

    Args:
        model: left as it is.
        kind: of the posterior.
        batches: called for every batch of training rows.
        updates: gradient steps; with none, the posterior is the one that `with_posterior` makes.
        learning_rate: peak, with a warmup and a cosine to a twentieth of it.
        generator: of the latents' noise, on the model's device.
        seed: of the weights of a network that is new.
        at: told how far it is.
    """
    changed = with_posterior(model, kind, seed=seed).train()
    learner = Learner(
        changed,
        Objective(),
        generator,
        learning_rate=learning_rate,
        warmup=min(100, max(1, updates // 10)),
        final_fraction=0.05,
        total_updates=updates,
        clip_norm=100.0,
        weight_decay=0.0,
        eps=1e-8,
    )
    for update in range(updates):
        at(f"update {update + 1} of {updates} of a {kind} posterior")
        learner.update(batches())
    return changed.eval()
