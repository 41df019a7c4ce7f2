"""Categorical observations of a hidden state, several by name, independent of each other given the state."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.oracles.checks import expect_probabilities, expect_shape

UNSEEN = -1  # the value in the data where a name was not observed


@dataclass(frozen=True)
class Emissions:
    """p(x_t = v | z_t = k) by name, float64.

    Raises:
        ValueError: if the tables have different numbers of states, or probabilities do not sum to one.
    """

    probs: Mapping[str, Float[Tensor, "K _"]]  # [K, V] each

    def __post_init__(self) -> None:
        if not self.probs:
            raise ValueError("probs: expected at least one name, got none")
        K = len(next(iter(self.probs.values())))
        for name, table in self.probs.items():
            expect_shape(f"probs.{name}", table, K, None)
            expect_probabilities(f"probs.{name}", table)

    def log_prob(self, x: Mapping[str, Int[Tensor, "B T"]]) -> dict[str, Float[Tensor, "B T K"]]:
        """log p(x_t | z_t = k) by name in nats; zero where x is -1, which means not observed.

        Raises:
            ValueError: as `check`.
        """
        self.check(x)
        found = {name: self.probs[name].mT.log()[values.clamp(min=0)] for name, values in x.items()}
        return {name: torch.where((x[name] == UNSEEN)[..., None], 0.0, table) for name, table in found.items()}

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "B T K"], generator: torch.Generator | None = None
    ) -> dict[str, Int[Tensor, "B T"]]:
        """One observation of every name, for one-hot states."""
        drawn = {}
        for name, table in self.probs.items():
            rows = (z @ table).flatten(0, 1)  # [B T, V]
            drawn[name] = torch.multinomial(rows, 1, generator=generator).view(z.shape[:2])
        return drawn

    def m_step(self, marginals: Float[Tensor, "B T K"], x: Mapping[str, Int[Tensor, "B T"]]) -> "Emissions":
        """The M-step of EM: the tables that maximise the bound for these marginals of z_t, normalised expected counts.

        A state that is never visited keeps its probabilities.
        """
        self.check(x)
        tables = {}
        for name, table in self.probs.items():
            one_hot = torch.nn.functional.one_hot(x[name].clamp(min=0), table.shape[-1]).double()
            counts = torch.einsum("btk,btv->kv", marginals, one_hot * (x[name] != UNSEEN)[..., None])
            total = counts.sum(-1, keepdim=True)
            tables[name] = torch.where(total > 0, counts / total.clamp(min=torch.finfo(total.dtype).tiny), table)
            tables[name] = tables[name] / tables[name].sum(-1, keepdim=True)
        return Emissions(tables)

    def check(self, x: Mapping[str, Int[Tensor, "B T"]]) -> None:
        """Raise ValueError unless x has the names of the tables, with values that they have, or -1."""
        if x.keys() != self.probs.keys():
            raise ValueError(f"x: expected the names {sorted(self.probs)}, got {sorted(x)}")
        for name, values in x.items():
            V = self.probs[name].shape[-1]
            if bool(((values < UNSEEN) | (values >= V)).any()):
                low, high = int(values.min()), int(values.max())
                raise ValueError(f"x.{name}: expected values from 0 to {V - 1}, or -1, got {low} to {high}")
