"""Policies that need no model: uniformly random, and scripted. Any callable with the signature of `Policy` will do."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from worldmodel.types import ActionSpec


class RandomPolicy:
    """Uniform over the action space, drawn from the generator it is given."""

    def __init__(self, spec: ActionSpec, generator: torch.Generator) -> None:
        self.spec, self.generator = spec, generator

    def __call__(self, obs: Mapping[str, np.ndarray], is_first: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
        """One action for each of N environments."""
        return random_actions(self.spec, (len(is_first),), self.generator).numpy()


def random_actions(spec: ActionSpec, lead: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*lead A"]:
    """Independent actions, uniform over the action space, of any leading shape, on the generator's device."""
    uniform = torch.rand(*lead, spec.width, generator=generator, device=generator.device)
    if spec.kind == "continuous":
        return 2 * uniform - 1
    if spec.kind == "binary":
        return (uniform > 0.5).float()
    groups = uniform.split(spec.classes, -1)
    return torch.cat([one_hot(group.argmax(-1), group.shape[-1]) for group in groups], -1).float()


class ScriptedPolicy:
    """The same actions in every episode: row t of a table, its last row for ever after."""

    def __init__(self, table: Float[np.ndarray, "T A"]) -> None:
        self.table = np.asarray(table, np.float32)
        self._step: np.ndarray | None = None

    def __call__(self, obs: Mapping[str, np.ndarray], is_first: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
        """The next action of the script in each of N environments."""
        previous = np.full(len(is_first), -1) if self._step is None else self._step
        self._step = np.where(is_first, 0, previous + 1)
        return self.table[np.minimum(self._step, len(self.table) - 1)]
