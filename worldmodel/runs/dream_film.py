"""A run's dream on film, beside its world: at the end of a training that acts, and by `worldmodel play RUN --dream`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.checks import require_positive
from worldmodel.data import renderers
from worldmodel.data.spaces import ROOT
from worldmodel.evaluation.dream_film import Halves, drawn_halves, dreamt, image_halves, recorded
from worldmodel.evaluation.dream_gap import DreamGap
from worldmodel.evaluation.rounds import best_and_median
from worldmodel.evaluation.watched import film
from worldmodel.runs.dream_gap import measure_dream_gap
from worldmodel.runs.environments import evaluation_environments, rendering
from worldmodel.runs.play import require_gif, write_film
from worldmodel.runs.run import Run

DREAM = "dream"  # the film's name in RUN/play
CONTEXT, STEPS = 5, 200  # rows that the model sees, and steps that it dreams behind them, at most


def write_dream_film(
    run: Run,
    *,
    policy: str | None = None,
    episodes: int = 10,
    seed: int = 0,
    output: Path | None = None,
    rows: int | None = None,
    log: Callable[[str], None] = lambda words: None,
    at: Callable[[str], None] = lambda words: None,
    **planner: Any,
) -> Path:
    """Let a policy act in the world and in the dream, and write a GIF of the median start and the best one.

    Arguments, errors and what is returned as of `runs.play.write_play`; the GIF is RUN/play/dream.gif by default, and
    rows are at most 205, of which the model sees five and dreams the others.

    Raises:
        ValueError: also if nothing can draw what is dreamt.
    """
    rows = CONTEXT + STEPS if rows is None else rows
    require_positive(episodes=episodes)
    if rows <= CONTEXT:
        raise ValueError(f"rows: expected more than the {CONTEXT} that the model sees before it dreams, got {rows}")
    require_gif(output)
    require_drawn(run)
    policy = run.policy_name(policy, **planner)
    steps = rows - CONTEXT
    gap = measure_dream_gap(
        run, policy, episodes=episodes, context=CONTEXT, steps=steps, seed=seed, log=log, at=at, **planner
    )
    return write_film(run, DREAM, output, film_gap(run, gap, policy, at=at))


def require_drawn(run: Run) -> None:
    """Raise ValueError if nothing can draw what is dreamt: neither the model itself nor the environment's renderer."""
    if _image(run) is None:
        renderers.find_renderer(run.config.env.id, wrappers=run.config.env.wrappers, hide=run.config.env.hide)


def film_gap(run: Run, gap: DreamGap, policy: str, *, at: Callable[[str], None] = lambda words: None) -> bytes:
    """The median start of a measured gap and the best one, as a GIF.

    Args:
        run: that it was measured on.
        gap: of the policy.
        policy: its name.
        at: told how far it is.
    Raises:
        ValueError: if nothing can draw what is dreamt.
        EnvironmentFailureError: if the environment fails.
    """
    from worldmodel.report.dream_film import dream_gif  # and so matplotlib

    chosen = dict(reversed(best_and_median(gap.world.returns).items()))  # the best start may be one that asks nothing
    image = _image(run)
    if image is not None:
        films = [image_halves(gap, i, image) for i in chosen.values()]
    else:
        require_drawn(run)
        films = _drawn(run, gap, [*chosen.values()], at)
    count = len(gap.seeds)
    titles = [f"{run.config.env.id}, {policy}: the {words} of {count} starts" for words in chosen]
    return dream_gif(films, titles if count > 1 else [f"{run.config.env.id}, {policy}"])


def _drawn(run: Run, gap: DreamGap, chosen: list[int], at: Callable[[str], None]) -> list[Halves]:
    """The world's frames are those of the episode, which is played again; the dream's are drawn as the world's are."""
    env = run.config.env
    names = renderers.variables(renderers.find_renderer(env.id, hide=env.hide), env.hide)
    films = []
    with evaluation_environments(rendering(run.config), run.model.spec, 1) as one:
        for i in chosen:
            world, _ = film(one, recorded(gap, i), at)
            obs, action = dreamt(gap, i)
            dream = renderers.draw(env.id, obs[ROOT], action, kwargs=env.kwargs, hide=env.hide)
            films.append(drawn_halves(gap, i, world, dream, names))
    return films


def _image(run: Run) -> str | None:
    return next((path for path, leaf in run.model.spec.observations.items() if leaf.kind == "image"), None)
