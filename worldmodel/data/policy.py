"""Policies that need no model: uniformly random actions, and given ones."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from worldmodel.seeding import restore_generator
from worldmodel.types import ActionSpec, Rows


class RandomPolicy:
    """Uniform over the action space. It is a `SavedPolicy`, whose state is that of its generator."""

    def __init__(self, spec: ActionSpec, generator: torch.Generator) -> None:
        self.spec, self.generator = spec, generator

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """One action for each of N environments."""
        return random_actions(self.spec, (len(rows.is_first),), self.generator).numpy()

    def state(self) -> dict[str, Tensor]:
        """The generator's state."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the draws that followed when `state` was called."""
        restore_generator(self.generator, state["generator"])


def random_actions(spec: ActionSpec, lead: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*lead A"]:
    """Independent uniform actions with any leading shape, on the generator's device."""
    uniform = torch.rand(*lead, spec.width, generator=generator, device=generator.device)
    if spec.kind == "continuous":
        return 2 * uniform - 1
    if spec.kind == "binary":
        return (uniform > 0.5).float()
    groups = uniform.split(spec.classes, -1)
    return torch.cat([one_hot(group.argmax(-1), group.shape[-1]) for group in groups], -1).float()


class ScriptedPolicy:
    """The same actions in every episode: the row of a table for each step, and its last row after the table's end."""

    def __init__(self, table: Float[np.ndarray, "T A"]) -> None:
        self.table = np.asarray(table, np.float32)

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """The table's row for the step that each of N environments is at."""
        return self.table[np.minimum(rows.episode_step, len(self.table) - 1)]
