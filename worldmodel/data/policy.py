"""Policies that need no model: uniformly random, and scripted. Any callable with the signature of `Policy` will do."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float

from worldmodel.types import ActionSpec


class RandomPolicy:
    """Uniform over the action space, drawn from the generator it is given."""

    def __init__(self, spec: ActionSpec, generator: torch.Generator) -> None:
        self.spec, self.generator = spec, generator

    def __call__(self, obs: Mapping[str, np.ndarray], is_first: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
        """One action for each of N environments."""
        uniform = torch.rand(len(is_first), self.spec.width, generator=self.generator).numpy()
        if self.spec.kind == "continuous":
            return 2 * uniform - 1
        if self.spec.kind == "binary":
            return (uniform > 0.5).astype(np.float32)
        groups = np.split(uniform, np.cumsum(self.spec.classes)[:-1], axis=-1)
        one_hot = [np.eye(group.shape[-1], dtype=np.float32)[group.argmax(-1)] for group in groups]
        return np.concatenate(one_hot, -1)


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
