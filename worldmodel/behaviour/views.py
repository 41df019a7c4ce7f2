"""What an actor reads of a state, where it is not the state itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.models.world_model import WorldModel
from worldmodel.types import State


class ObservationView:
    """The observation that a model decodes from a state, as its encoder would read it.

    A control that tells whether a task needs memory: the model filters and imagines as ever, but of what it remembers
    the actor reads only the observation's mean. That mean is the filter's, so that noise in the observations is
    averaged out of it, and what else leaks into it is not ruled out.
    """

    def __init__(self, model: WorldModel) -> None:
        """Args:
        model: whose leaves of numbers are read.
        Raises:
            ValueError: if a leaf of its observations is none.
        """
        leaves = model.spec.observations
        if others := [f"{name} ({leaf.kind})" for name, leaf in leaves.items() if leaf.kind != "vector"]:
            raise ValueError(f"actor.reads: expected observations that are vectors of numbers, got {', '.join(others)}")
        self.model, self.names = model, tuple(leaves)
        self.width = sum(leaf.shape[0] for leaf in leaves.values())

    def __call__(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch n"]:
        """The decoded means, standardised, side by side; `features` are h_t and z_t side by side."""
        state = State(*features.split(self.model.decoder.widths, -1))
        decoded = self.model.decode(state, self.names)
        return torch.cat([self.model.standardiser(name)(decoded[name].mean) for name in self.names], -1)
