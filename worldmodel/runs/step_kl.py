"""The KL of every step of episodes: an array, and a picture that a notebook shows by itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worldmodel.evaluation.latents import Latents
from worldmodel.objectives.loss import Objective, optimised_kl
from worldmodel.types import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StepKL:
    """KL(q(z_t | h_t, x_t) || p(z_t | h_t)) of every step of B episodes, in nats; NaN behind an episode's end."""

    steps: np.ndarray  # [B, T] raw: the sum over groups; np.asarray gives it
    groups: np.ndarray  # [B, T, S] raw, of each latent group
    optimised: np.ndarray  # [B, T] as the loss has it: with free nats, balanced and weighted
    reward: np.ndarray  # [B, T] received on arriving

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.steps, dtype=dtype, copy=copy)

    def plot(self, episode: int = 0) -> "Figure":
        """Of one episode: the KL of every step beside its reward, and below it the KL of every latent group.

        Raises:
            ValueError: if there is no such episode.
        """
        from worldmodel.report.figures import kl_of_episode  # and so matplotlib, which the array does not need

        if not 0 <= episode < len(self.steps):
            raise ValueError(f"episode: expected 0 to {len(self.steps) - 1}, got {episode}")
        rows = ~np.isnan(self.steps[episode])
        parts = (self.steps, self.optimised, self.reward, self.groups)
        return kl_of_episode(*(x[episode][rows] for x in parts))

    def _repr_png_(self) -> bytes:
        from worldmodel.report.figures import render

        return render(self.plot())


def step_kl(latents: Latents, batch: Batch, objective: Objective) -> StepKL:
    """The KL of every step.

    Args:
        latents: of the episodes.
        batch: the episodes themselves, for their rewards.
        objective: what the model was trained on, for the optimised KL beside the raw one.
    """
    raw = latents.kl
    optimised = optimised_kl(raw.nan_to_num(), latents.valid, objective)
    optimised = torch.where(latents.valid, optimised, torch.nan)
    return StepKL(*(x.cpu().numpy() for x in (raw, latents.kl_groups, optimised, batch.reward)))
