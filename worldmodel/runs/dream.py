"""The dream of a run as an environment: what `gymnasium.make("worldmodel/Dream-v0", run=...)` makes.

    import gymnasium
    import worldmodel_envs  # registers the id

    env = gymnasium.make("worldmodel/Dream-v0", run="runs/cartpole-...")
    envs = gymnasium.make_vec("worldmodel/Dream-v0", 1000, run="runs/cartpole-...")   # one forward pass a step

Opening a run's dream imports nothing that its settings name, unless it is asked to: see `dream_spaces`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldmodel.behaviour.dream_environment import DreamEnv, DreamVectorEnv
from worldmodel.behaviour.dreams import CONTEXT, DrawContexts, DreamRules, Dreams, going_on
from worldmodel.build_acting import require_learned_returns
from worldmodel.checks import require_positive
from worldmodel.data import suites
from worldmodel.data.batches import joined
from worldmodel.data.environment import real_spaces
from worldmodel.data.replay import Replay
from worldmodel.data.row_spaces import RowSpaces
from worldmodel.runs.environments import one_by_itself
from worldmodel.runs.folder import stored_data
from worldmodel.runs.run import Run, open_run
from worldmodel.types import Batch

STARTS = ("replay", "heldout")
SPACES = ("world", "rows", None)
LONGEST = "longest"  # the horizon of dreams that go on for as long as any episode did


def make_dream(run: str | Path | Run, *, render_mode: str | None = None, **options: Any) -> DreamEnv:
    """One dream. Arguments and errors as of `make_dreams`."""
    dreams, spaces = _prepare(run, 1, **options)
    return DreamEnv(dreams, spaces, render_mode)


def make_dreams(
    run: str | Path | Run, num_envs: int = 1, *, render_mode: str | None = None, **options: Any
) -> DreamVectorEnv:
    """Many dreams, stepped together.

    Args:
        run: the run's folder, or the run.
        num_envs: dreams side by side.
        render_mode: rgb_array, of a model of images.
        options: those of `_prepare`.
    Raises:
        ValueError: if an option is impossible, or the model has not learned what a dream needs.
        FileNotFoundError: if the folder is not a run's, or has no such rows (any more).
    """
    dreams, spaces = _prepare(run, num_envs, **options)
    return DreamVectorEnv(dreams, spaces, render_mode)


def _prepare(
    run: str | Path | Run,
    count: int,
    *,
    horizon: int | str | None = LONGEST,
    observed: str = "mean",
    ends: str = "sampled",
    starts: str = "replay",
    from_resets: bool = True,
    context: int | None = None,
    spaces: str | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
) -> tuple[Dreams, RowSpaces]:
    """Dreams of a run's model, and the spaces they are seen in.

    Args:
        run: the run's folder, or the run.
        count: dreams side by side.
        horizon: steps after which a dream is truncated; "longest": those of the longest whole episode of the rows that
            dreams begin at; None: never.
        observed, ends: see `DreamRules`.
        starts: whose rows dreams begin at: the replay's, which the model learned from, or the held-out ones.
        from_resets: begin at first rows of whole episodes, as the world does; else at any row but an episode's last.
            Every one is as likely.
        context: rows up to the first of a dream that are filtered, at most; 16 by default, and 1 from resets.
        spaces: see `dream_spaces`.
        checkpoint, device: as in `open_run`, where run is a folder.
    """
    if isinstance(horizon, str) and horizon != LONGEST:
        raise ValueError(f"horizon: expected a number of steps, {LONGEST} or None, got {horizon!r}")
    rules = DreamRules(None if isinstance(horizon, str) else horizon, observed, ends)
    if from_resets and context is not None:
        raise ValueError(f"context: expected none from resets, before which there are no rows, got {context}")
    context = CONTEXT if context is None else context
    require_positive(num_envs=count, context=context)
    for name, given, known in (("starts", starts, STARTS), ("spaces", spaces, SPACES)):
        if given not in known:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {given!r}")
    opened = run if isinstance(run, Run) else open_run(run, checkpoint, device)
    require_learned_returns(opened.config)
    seen = dream_spaces(opened, spaces)
    folder = stored_data(opened.config, opened.folder)[0 if starts == "replay" else 1]
    begun = _beginnings(folder) if from_resets or horizon == LONGEST else []
    if horizon == LONGEST:
        rules = replace(rules, horizon=max(actions for _, actions in begun))
    draw = _first_rows([first for first, _ in begun]) if from_resets else _any_rows(folder, context)
    return Dreams(opened.model, count, draw, rules), seen


def dream_spaces(run: Run, spaces: str | None = None) -> RowSpaces:
    """The spaces that a run's dream is seen in.

    Args:
        run: whose.
        spaces: "world": those of its environment, which is made once for it, and imports the modules that the run's
            settings name. "rows": what its rows tell of them, see `RowSpaces.of_rows`: unbounded numbers, actions in
            [-1, 1]. None: the world's, where that is an environment of Gymnasium's, of a suite that this package knows
            or its own, without wrappers and arguments, so that a stranger's run imports nothing; else the rows'.
    Raises:
        ValueError: if the environment cannot be made here, or is another than the rows are of.
    """
    env, spec = run.config.env, run.model.spec
    if spaces is None:
        known = suites.is_own(env.id) or suites.is_well_known(env.id)
        spaces = "world" if known and not env.wrappers and not env.kwargs and run.config.offline is None else "rows"
    if spaces == "rows":
        return RowSpaces.of_rows(spec)
    try:
        observation, action = real_spaces(env.id, **one_by_itself(env))
    except ValueError as error:
        raise ValueError(f"{error}; spaces='rows' does without the environment") from error
    return RowSpaces.of_world(spec, observation, action, integers=env.integers)


def _any_rows(folder: Path, context: int) -> DrawContexts:
    """Contexts that end at any stored row, each as likely, but no episode's last."""

    def draw(count: int, generator: torch.Generator) -> Batch:
        with Replay.open(folder, read_only=True) as replay:  # closed in between: nobody has to close a dream
            length = min(context, len(replay))
            return going_on(lambda n: replay.sample(n, length, generator), count)

    draw(1, torch.Generator())  # what is wrong with the rows is said at once
    return draw


def _first_rows(firsts: list[Batch]) -> DrawContexts:
    """First rows of episodes, each as likely."""

    def draw(count: int, generator: torch.Generator) -> Batch:
        chosen = torch.randint(len(firsts), (count,), generator=generator)
        return joined([firsts[i] for i in chosen.tolist()])

    return draw


def _beginnings(folder: Path) -> list[tuple[Batch, int]]:
    """First rows of whole episodes that went on from there, and how many actions follow each."""
    with Replay.open(folder, read_only=True) as replay:
        if found := [(first, actions) for first, actions in replay.beginnings() if actions > 0]:
            return found
    advice = "horizon=N and from_resets=False take any rows"
    raise ValueError(f"horizon, from_resets: expected a whole episode in {folder}, found none; {advice}")
