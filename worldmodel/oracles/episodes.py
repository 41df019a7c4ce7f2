"""One recorded episode as numbers, and the Gaussian noise it is seen through."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """The rows of one episode from its reset, float64."""

    observation: Float[Tensor, "T d"]
    reward: Float[Tensor, " T"]  # that of the first row is not read
    action: Sequence[float]  # the number that led to a row; that of the first is not read
    terminated: bool  # on its last row

    def ends(self, t: int) -> bool:
        """Whether row t terminates the episode."""
        return self.terminated and t == len(self.action) - 1


def log_normal(x: Float[Tensor, "*n"], std: Float[Tensor, "*d"] | float) -> Float[Tensor, "*n"]:
    """log N(x; 0, std^2), elementwise."""
    std = torch.as_tensor(std, dtype=torch.float64)
    return -0.5 * (x / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
