"""Rounds of episodes played side by side: the one loop in which all that judges a policy plays.

The start seeds are fixed by one seed and do not depend on the policy, so that policies are compared on the same starts.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from worldmodel.checks import require_positive
from worldmodel.data.rollout import Rollout
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Rows

SIDE_BY_SIDE = 32  # environments, at most


def side_by_side(episodes: int) -> int:
    """How many environments play so many episodes, in as few rounds as may be."""
    require_positive(episodes=episodes)
    rounds = -(-episodes // SIDE_BY_SIDE)
    return -(-episodes // rounds)


def first_start(seed: int, stream: Stream = Stream.STARTS) -> int:
    """The start seed of the first episode; the next one's is greater by one. Raises ValueError for a negative seed."""
    return int(torch.randint(2**31, (1,), generator=make_generator(seed, stream=stream)))


def rounds(episodes: int, environments: int, seed: int, stream: Stream = Stream.STARTS) -> Iterator[tuple[int, int]]:
    """The start seed of each round's first environment, and how many of its environments play episodes that count.

    Args:
        episodes: how many in all.
        environments: side by side.
        seed, stream: of the starts.
    Raises:
        ValueError: if episodes is not positive, or the seed negative.
    """
    require_positive(episodes=episodes)
    first = first_start(seed, stream)
    for begin in range(0, episodes, environments):
        yield first + begin, min(environments, episodes - begin)


def play_round(
    rollout: Rollout,
    wanted: int,
    *,
    least: int = 1,
    most: int | None = None,
    at: Callable[[str], None] = lambda words: None,
) -> Iterator[Rows]:
    """Rows of N environments, from their first ones until the first episodes of the first `wanted` of them are over.

    They are handed out one by one, so that whoever needs few of their parts keeps no more.

    Args:
        rollout: that has not begun.
        wanted: environments that are waited for.
        least, most: rows that are played in any case, and at most.
        at: told how far it is.
    Raises:
        EnvironmentFailureError: if an environment fails.
    """
    running, count = np.ones(wanted, bool), 0
    while count < least or (running.any() and (most is None or count < most)):
        rows, count = rollout.step(), count + 1
        running &= ~rows.is_last[:wanted]
        at(f"{count - 1} steps, {wanted - int(running.sum())} of {wanted} episodes over")
        yield rows


def best_and_median(returns: Sequence[float] | np.ndarray) -> dict[str, int]:
    """Which episodes are looked at: the best one and then the median one, by their returns; a single one alone."""
    order = np.argsort(returns, kind="stable")
    if len(order) == 1:
        return {"only": 0}
    return {"best": int(order[-1]), "median": int(order[(len(order) - 1) // 2])}
