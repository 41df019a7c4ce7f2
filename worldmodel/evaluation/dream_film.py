"""Starts of a dream gap to look at: what the world showed beside what was dreamt, from an episode's first row on."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from worldmodel.evaluation.dream_gap import Course, DreamGap
from worldmodel.evaluation.watched import Recorded, smaller


class Half(NamedTuple):
    """The rows of an episode until it ended, T of them, in the world or in the dream."""

    frames: np.ndarray  # [T, H, W, C] levels
    variables: dict[str, Float[np.ndarray, " T"]]  # by name, those first that the frames show
    reward: Float[np.ndarray, " T"]


class Halves(NamedTuple):
    """An episode in the world, and the same one dreamt. They are alike up to the row with number `context`."""

    context: int
    world: Half
    dream: Half


def recorded(gap: DreamGap, i: int) -> Recorded:
    """The episode of a start as it can be played again."""
    action = _joined(gap.before.action, gap.world.action, i, gap.world)
    reward = _joined(gap.before.reward, gap.world.reward, i, gap.world)
    return Recorded(int(gap.seeds[i]), action[1:], float(reward.sum()))


def dreamt(gap: DreamGap, i: int) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "T A"]]:
    """The rows of a start that were dreamt: observations [T, ...] by path, and the actions that led to them."""
    steps = slice(0, int(gap.dream.lengths[i]))
    return {path: x[i, steps] for path, x in gap.dream.obs.items()}, gap.dream.action[i, steps]


def image_halves(gap: DreamGap, i: int, path: str) -> Halves:
    """A start of a model of images, as the model sees them.

    Args:
        gap: of a policy.
        i: which start.
        path: of the leaf that is shown.
    """

    def half(course: Course) -> Half:
        frames = _joined(gap.before.obs[path], course.obs[path], i, course)
        return _half(gap, i, course, frames, {name: k for k, name in enumerate(course.variables)})

    return Halves(gap.context, half(gap.world), half(gap.dream))


def drawn_halves(
    gap: DreamGap,
    i: int,
    world: UInt8[np.ndarray, "T H W 3"],
    dream: Iterable[UInt8[np.ndarray, "h w 3"]],
    names: Mapping[str, int],
) -> Halves:
    """A start whose frames were drawn.

    Args:
        gap: of a policy.
        i: which start.
        world: the whole episode, as `watched.film` gives it.
        dream: the rows that were dreamt; see `dreamt`.
        names: of the variables, and which of `Course.variables` each is.
    """
    frames = np.stack([*world[: gap.context], *map(smaller, dream)])
    return Halves(gap.context, _half(gap, i, gap.world, world, names), _half(gap, i, gap.dream, frames, names))


def _half(gap: DreamGap, i: int, course: Course, frames: np.ndarray, names: Mapping[str, int]) -> Half:
    before, behind = [*gap.before.variables.values()], [*course.variables.values()]
    variables = {name: _joined(before[k], behind[k], i, course) for name, k in names.items()}
    reward = _joined(gap.before.reward, course.reward, i, course)
    assert len(frames) == len(reward), (len(frames), len(reward))
    return Half(frames, variables, reward)


def _joined(before: np.ndarray, behind: np.ndarray, i: int, course: Course) -> np.ndarray:
    """The common rows of a start, and its rows in this course up to the end."""
    return np.concatenate([before[i], behind[i, : course.lengths[i]]])
