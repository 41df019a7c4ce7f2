"""A policy in its model's dream and in the world, from the same starts: how much the model flatters, and where.

Each episode begins in the world, by a start seed of its own. After `context` rows, which the model filters, the two
part: the world goes on, and so does the dream, in which the model makes up every row. The policy is the same one, with
the same memory and the same random numbers, and sees rows in both; it does not know which it is in.

    return      sum of the rewards of the first H steps after the start, until the episode or the dream ends
    bias        mean over starts of dream - world, of a variable h steps after the start
    distance    mean over starts of |dream - world|, likewise

A bias says where the model is wrong on average. A distance also grows where errors have no preferred side, as those of
a slow variable that drifts; but it is not zero for a perfect model of a world that is random itself. Both are over the
starts that are running in both after h steps. A dream ends where its model says so, drawn by its probability; where the
world's episode was truncated, nothing is known of what would have come, and the dream is cut there too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from worldmodel.behaviour.dreams import DreamRules, Dreams
from worldmodel.checks import require_positive
from worldmodel.data.batches import stacked
from worldmodel.data.environment import Environments
from worldmodel.data.policy import executed_actions
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation import scoring_rules as rules
from worldmodel.evaluation.episodes import COVERAGE
from worldmodel.evaluation.rounds import play_round, rounds
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch, ObservationSpec, Policy, Rows


class Course(NamedTuple):
    """E episodes after their starts, H steps at most; what lies behind an end does not count."""

    obs: dict[str, np.ndarray]  # [E, H, ...] by path
    action: Float[np.ndarray, "E H A"]  # that led to each
    reward: Float[np.ndarray, "E H"]
    running: Bool[np.ndarray, "E H"]  # the steps that were taken

    @property
    def returns(self) -> Float[np.ndarray, " E"]:
        """The sum of rewards."""
        return np.where(self.running, self.reward, 0.0).sum(1)

    @property
    def variables(self) -> dict[str, np.ndarray]:
        """The variables of the observation that are numbers or classes, [E, H] each, such as obs[2]."""
        return {
            path if x.shape[2] == 1 else f"{path}[{k}]": x[..., k]
            for path, x in self.obs.items()
            if x.ndim == 3
            for k in range(x.shape[2])
        }

    @property
    def lengths(self) -> Int[np.ndarray, " E"]:
        """Steps taken."""
        return self.running.sum(1)


class VariableGap(NamedTuple):
    """One variable of the observation by step after the start, [H] each; NaN where no start runs in both."""

    bias: rules.Band | None  # mean of dream - world, with a 95 % interval; None of classes
    distance: rules.Band  # mean of |dream - world|; of classes, the share that differs
    std: float  # of the variable over the world's rows: what is large and what is small


@dataclass(frozen=True)
class DreamGap:
    """A policy's dream beside its world."""

    seeds: Int[np.ndarray, " E"]  # of the episodes
    before: Course  # the rows that both have in common, the episodes' first ones
    world: Course
    dream: Course
    too_short: int  # episodes that ended within the context, and have no start
    variables: dict[str, VariableGap]  # by path, and place in it where there are several: obs[2]

    @property
    def context(self) -> int:
        """How many rows world and dream have in common."""
        return self.before.running.shape[1]

    @property
    def both(self) -> Int[np.ndarray, " H"]:
        """How many starts are running in both after each step."""
        return (self.world.running & self.dream.running).sum(0)


def dream_gap(
    environments: Environments,
    model: WorldModel,
    make_policy: Callable[[], Policy],
    *,
    episodes: int,
    context: int,
    horizon: int,
    seed: int,
    observed: str = "mean",
    at: Callable[[str], None] = lambda words: None,
) -> DreamGap:
    """Let a policy act in the world and in the dream.

    Args:
        environments: N of them; rounds of N episodes are played until there are enough.
        model: whose dream it is.
        make_policy: makes the policy anew, in its first state, random numbers included.
        episodes: how many (E), less those that are too short.
        context: rows of an episode that are common to both.
        horizon: steps after the start (H).
        seed: of the starts and of the dreams.
        observed: observations of the dream; see `DreamRules`.
        at: told how far it is.
    Raises:
        EnvironmentFailureError: if an environment fails.
        ValueError: if a number is out of range, or every episode is too short.
    """
    require_positive(episodes=episodes, context=context, horizon=horizon)
    seeds, befores, worlds, dreamt, too_short = [], [], [], [], 0
    noise = make_generator(seed, stream=Stream.IMAGINATION)
    for start, wanted in rounds(episodes, environments.count, seed):
        rollout, most = Rollout(environments, make_policy(), start), context + horizon
        rows = list(play_round(rollout, wanted, least=context + 1, most=most, at=lambda words: at(f"world: {words}")))
        dreams = Dreams(model, environments.count, _nothing_to_draw, DreamRules(None, observed))
        dreams.seed(int(torch.randint(2**63 - 1, (1,), generator=noise)))
        dream = _in_the_dream(dreams, make_policy(), rows[:context], horizon, at)
        world = _course(rows[context:], horizon)
        begun = np.arange(environments.count) < wanted
        over = np.any([one.is_last for one in rows[:context]], 0)
        too_short += int((begun & over).sum())
        seeds.append(start + np.flatnonzero(begun & ~over))
        befores.append(_some(_course(rows[:context], context), begun & ~over))
        worlds.append(_some(world, begun & ~over))
        dreamt.append(_some(_cut(dream, world, rows[context:]), begun & ~over))
    before, world, dream = _joined(befores), _joined(worlds), _joined(dreamt)
    if not len(world.reward):
        raise ValueError(f"context: expected fewer rows than the {episodes} episodes have, got {context}")
    gaps = variable_gaps(model.spec.observations, world, dream)
    return DreamGap(np.concatenate(seeds), before, world, dream, too_short, gaps)


def variable_gaps(leaves: dict[str, ObservationSpec], world: Course, dream: Course) -> dict[str, VariableGap]:
    """Bias and distance of every variable; an image counts as one, by the mean over its pixels, in levels."""
    both = world.running & dream.running
    resamples = rules.resample(len(both), torch.Generator().manual_seed(0)).double().numpy()
    found = {}
    for path, leaf in leaves.items():
        for name, ours, real in _variables(path, leaf, dream.obs[path], world.obs[path]):
            off, seen = ours - real, real[world.running]
            classes = leaf.kind == "categorical"
            distance = (off != 0).astype(np.float64) if classes else np.abs(off)
            far, bias = (_mean(x.reshape(*both.shape, -1).mean(-1), both, resamples) for x in (distance, off))
            found[name] = VariableGap(None if classes else bias, far, float(seen.std()))
    return found


def _variables(
    path: str, leaf: ObservationSpec, dream: np.ndarray, world: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    dream, world = dream.astype(np.float64), world.astype(np.float64)
    if leaf.kind == "image" or leaf.shape == (1,):
        yield path, dream, world
        return
    for i in range(leaf.shape[0]):
        yield f"{path}[{i}]", dream[..., i], world[..., i]


def _mean(
    x: Float[np.ndarray, "E H"], counted: Bool[np.ndarray, "E H"], resamples: Float[np.ndarray, "R E"]
) -> rules.Band:
    """The mean over what counts, with its bootstrap interval over starts."""
    kept = np.where(counted, x, 0.0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing counts
        mean, again = kept.sum(0) / counted.sum(0), (resamples @ kept) / (resamples @ counted)
    low, high = np.full((2, x.shape[1]), np.nan)
    if len(x) > 1:
        some, tail = counted.any(0), (1 - COVERAGE) / 2
        low[some], high[some] = np.nanquantile(again[:, some], [tail, 1 - tail], axis=0)
    return rules.Band(mean, low, high)


def _in_the_dream(
    dreams: Dreams, policy: Policy, context: list[Rows], horizon: int, at: Callable[[str], None]
) -> Course:
    """The policy's dreams behind these rows."""
    dreams.begin(context=stacked(context))
    given: object = None
    for row in context:
        given = policy(row)
    seen: list[Rows] = []
    over = context[-1].is_last
    while not seen or (len(seen) < horizon and not over.all()):
        action = executed_actions(dreams.model.spec.action, given, over)
        obs, reward, ended, _ = dreams.step(torch.from_numpy(action))
        none, numpy = np.zeros(len(ended), bool), {path: x.numpy() for path, x in obs.items()}
        steps = context[-1].episode_step + np.int32(len(seen) + 1)
        flags = none, ended.numpy(), ended.numpy(), steps
        seen.append(Rows(numpy, action, reward.float().numpy(), *flags))
        given, over = policy(seen[-1]), over | seen[-1].is_last
        at(f"dream: {len(seen)} steps")
    return _course(seen, horizon)


def _course(rows: list[Rows], horizon: int) -> Course:
    """Rows after the starts, padded to H steps; those behind an episode's end do not count."""

    def padded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((len(x), horizon - x.shape[1], *x.shape[2:]), x.dtype)], 1)

    obs = {path: padded(np.stack([row.obs[path] for row in rows], 1)) for path in rows[0].obs}
    last = np.stack([row.is_last for row in rows], 1)
    before = np.cumsum(last, 1) - last  # ends before each step
    action, reward = (np.stack([getattr(row, name) for row in rows], 1) for name in ("prev_action", "reward"))
    return Course(obs, padded(action), padded(reward.astype(np.float64)), padded(before == 0))


def _cut(dream: Course, world: Course, rows: list[Rows]) -> Course:
    """The dreams, without what lies behind the truncation of their episode in the world."""
    running = dream.running.copy()
    for t, row in enumerate(rows):
        truncated = row.is_last & ~row.is_terminal & world.running[:, t]
        running[truncated, t + 1 :] = False
    return dream._replace(running=running)


def _some(course: Course, which: Bool[np.ndarray, " N"]) -> Course:
    return Course({path: x[which] for path, x in course.obs.items()}, *(x[which] for x in course[1:]))


def _joined(courses: list[Course]) -> Course:
    obs = {path: np.concatenate([one.obs[path] for one in courses]) for path in courses[0].obs}
    return Course(obs, *(np.concatenate(parts) for parts in zip(*(one[1:] for one in courses), strict=True)))


def _nothing_to_draw(count: int, generator: torch.Generator) -> Batch:
    raise AssertionError("dreams begin behind the rows that they are given")
