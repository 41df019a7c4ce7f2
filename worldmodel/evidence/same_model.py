"""A `LatentSequence` with another proposal: the base of those that leave everything else as it is."""

from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.types import Carry, Latent, LatentSequence, State


class SameModel:
    """All of `sequence` but its proposal, which a subclass gives; the evidence is that of the sequence."""

    sequence: LatentSequence

    @property
    def valid(self) -> Bool[Tensor, "B T"]:
        """The rows that count."""
        return self.sequence.valid

    def initial(self, samples: int) -> Carry:
        """What is carried before the first row."""
        return self.sequence.initial(samples)

    def step(self, carry: Carry, t: int) -> tuple[Carry, Float[Tensor, "N B D"], Latent]:
        """The carry, h_t and p(z_t | h_t)."""
        return self.sequence.step(carry, t)

    def advance(self, carry: Carry, state: State) -> Carry:
        """The carry once z_t is known."""
        return self.sequence.advance(carry, state)

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x_t | h_t, z_t) by name."""
        return self.sequence.likelihood(state, t)
