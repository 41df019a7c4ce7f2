"""Whole episodes of a policy as rows, and how well a model knows them."""

from collections.abc import Callable

import numpy as np
import torch

from worldmodel.checks import require_positive
from worldmodel.data.batches import at_once, in_parts, pad_episodes
from worldmodel.data.environment import Environments
from worldmodel.data.rollout import Rollout
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch, Policy, Rows


def collect_episodes(
    environments: Environments,
    make_policy: Callable[[], Policy],
    *,
    episodes: int,
    seed: int,
    at_start: Callable[[Policy], None] = lambda policy: None,
) -> Batch:
    """Play whole episodes, each from a start seed of its own, those of `episodes.play`: -> [E, T] rows, padded.

    Args:
        environments: N of them; rounds of N episodes are played until there are enough.
        make_policy: makes the policy, anew for each round.
        episodes: how many (E).
        seed: of the starts.
        at_start: called with the policy once it has seen the first rows of a round.
    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if episodes is not positive, or the seed negative.
    """
    require_positive(episodes=episodes)
    first = int(torch.randint(2**31, (1,), generator=make_generator(seed, stream=Stream.STARTS)))
    played: list[Batch] = []
    for begin in range(0, episodes, environments.count):
        policy = make_policy()
        rollout = Rollout(environments, policy, first + begin)
        rows, running = [rollout.step()], np.ones(environments.count, bool)
        while running.any():
            rows.append(rollout.step())
            if len(rows) == 2:
                at_start(policy)
            running &= ~rows[-1].is_last
        played += [_episode(rows, which) for which in range(min(environments.count, episodes - begin))]
    return pad_episodes(played, max(episode.is_first.shape[1] for episode in played))


@torch.no_grad()
def bound_per_step(model: WorldModel, episodes: Batch, seed: int) -> dict[str, float]:
    """The bound on the evidence of padded episodes and its terms, in nats per step, from one draw of the latents."""
    generator = torch.Generator(model.device).manual_seed(seed)
    totals: dict[str, float] = {}
    for part in in_parts(episodes, at_once(episodes.valid.shape[1] * model.spec.width)):
        steps = int(part.valid.sum())
        for name, mean in sampled_bound(model, part, generator).per_step().items():
            totals[name] = totals.get(name, 0.0) + steps * mean.item()
    return {name: total / int(episodes.valid.sum()) for name, total in totals.items()}


def _episode(rows: list[Rows], which: int) -> Batch:
    """The first episode of one environment as a batch of one."""
    length = next(t for t, one in enumerate(rows) if one.is_last[which]) + 1

    def joined(columns: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack([column[which] for column in columns]))[None]

    obs = {path: joined([one.obs[path] for one in rows[:length]]) for path in rows[0].obs}
    rest = {name: joined([getattr(one, name) for one in rows[:length]]) for name in Rows._fields[1:]}
    return Batch(obs=obs, **rest, valid=torch.ones(1, length, dtype=torch.bool))
