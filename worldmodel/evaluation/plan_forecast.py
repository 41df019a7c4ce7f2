"""What the model of a planner expects of its first plan in every episode."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from worldmodel.behaviour.acting import FilteringPolicy, Planning
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Policy, Rows

FUTURES = 64  # of each start, for the predicted return


@dataclass
class PlanForecast:
    """The discounted rewards that are expected of the plans made in the first states of episodes."""

    policy: FilteringPolicy
    planning: Planning
    generator: torch.Generator  # of the futures
    noted: list[Float[np.ndarray, " n"]] = field(default_factory=list)  # of each round of episodes

    @classmethod
    def of(cls, policy: Policy, seed: int) -> "PlanForecast | None":
        """The forecast of a policy; none of one that does not plan."""
        if not isinstance(policy, FilteringPolicy) or not isinstance(policy.chooser, Planning):
            return None
        planning = policy.chooser
        return cls(policy, planning, make_generator(seed, stream=Stream.IMAGINATION, device=planning.model.device))

    def noting(self, played: Iterable[Rows], wanted: int) -> Iterator[Rows]:
        """The rows of a round of episodes, unchanged; what is expected in the first `wanted` environments is noted."""
        for t, rows in enumerate(played):
            if t == 1:  # the policy has just planned, in the episodes' first states
                assert self.policy.newest is not None
                expected = self.planning.predicted_return(self.policy.newest, FUTURES, self.generator)
                self.noted.append(expected[:wanted].double().cpu().numpy())
            yield rows

    @property
    def predicted(self) -> Float[np.ndarray, " E"]:
        """What was expected, of all episodes."""
        return np.concatenate(self.noted)

    def real(self, reward: Float[np.ndarray, "T E"]) -> Float[np.ndarray, " E"]:
        """What came: the discounted rewards of the first steps, as many as a plan has.

        Args:
            reward: from each episode's first step on, zero behind its end.
        """
        first = reward[: self.planning.planner.horizon]
        return (self.planning.discount ** np.arange(len(first))[:, None] * first).sum(0)
