"""Policies that need no model: uniformly random actions, and given ones; and what is asked of any policy's actions."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
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


def executed_actions(spec: ActionSpec, actions: object, over: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
    """A policy's actions as environments execute them and rows store them: continuous ones clipped to [-1, 1].

    Args:
        spec: of the actions.
        actions: what the policy returned for N environments, [N, A].
        over: where an episode is over, so that the action is not used: zeros there, whatever was returned.
    Raises:
        ValueError: if they have another shape, a number is not finite, a choice among classes is not one-hot, or a bit
            is neither 0 nor 1: what was executed would not be what is stored.
    """
    found = np.asarray(actions, np.float32)
    if found.shape != (len(over), spec.width):
        raise ValueError(f"policy: expected actions of shape {(len(over), spec.width)}, got {found.shape}")
    found = np.where(over[:, None], np.float32(0), found)
    if not (valid := over | _are_actions(spec, found)).all():
        expected = {
            "continuous": "finite numbers",
            "binary": "zeros and ones",
            "categorical": f"a single one among zeros for each choice, of {', '.join(map(str, spec.classes))} classes",
        }
        raise ValueError(f"policy: expected actions that are {expected[spec.kind]}, got {found[~valid][0]}")
    return found.clip(-1, 1) if spec.kind == "continuous" else found


def _are_actions(spec: ActionSpec, found: Float[np.ndarray, "N A"]) -> Bool[np.ndarray, " N"]:
    if spec.kind == "continuous":
        return np.isfinite(found).all(-1)
    bits = ((found == 0) | (found == 1)).all(-1)
    if spec.kind == "binary":
        return bits
    firsts = np.cumsum((0, *spec.classes[:-1]))  # of each choice's classes
    return bits & (np.add.reduceat(found, firsts, axis=-1) == 1).all(-1)


class ScriptedPolicy:
    """The same actions in every episode: the row of a table for each step, and its last row after the table's end."""

    def __init__(self, table: Float[np.ndarray, "T A"]) -> None:
        self.table = np.asarray(table, np.float32)

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """The table's row for the step that each of N environments is at."""
        return self.table[np.minimum(rows.episode_step, len(self.table) - 1)]
