"""A run at play: episodes in its environment, the best and the median one filmed beside what the model made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.checks import require_positive
from worldmodel.evaluation.rounds import side_by_side
from worldmodel.evaluation.watched import Watched, choose, film, watch
from worldmodel.runs.environments import evaluation_environments, rendering
from worldmodel.runs.run import Run
from worldmodel.seeding import Stream, make_generator
from worldmodel.system.files import make_own_folder, write_whole
from worldmodel.types import Policy

PLAY = "play"  # the folder of a run's films


def write_play(
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
    """Play episodes and write a GIF of the best and the median one.

    Args:
        run: whose model and environment.
        policy: who acts: actor where the run has one, mppi, cem or random; see `Run.policy_name` for the default.
        episodes: how many are played.
        seed: of their starts, and of the policy.
        output: the GIF; RUN/play/POLICY.gif by default.
        rows: of an episode that are filmed, at most, from its first on; by default all.
        log: told what making the environments imports.
        at: told how far it is.
        planner: settings of a search that differ from the run's.
    Returns:
        Where the GIF is.
    Raises:
        ValueError: if a number is out of range, there is no such policy, or the environment does not render.
        EnvironmentFailureError: if an environment fails.
    """
    from worldmodel.report.play_film import play_gif  # and so matplotlib

    require_positive(episodes=episodes, **({} if rows is None else {"rows": rows}))
    require_gif(output)
    policy = run.policy_name(policy, **planner)
    acting = run.policy(policy, seed=seed, **planner)
    titles, watched = watch_play(run, acting, episodes=episodes, seed=seed, rows=rows, log=log, at=at)
    gif = play_gif(
        watched,
        [f"{title}, {policy}: return {one.reward.sum():.1f}" for title, one in zip(titles, watched, strict=True)],
    )
    return write_film(run, policy, output, gif)


def require_gif(output: Path | None) -> None:
    """Raise ValueError if a film cannot go there."""
    if output is not None and output.suffix != ".gif":
        raise ValueError(f"output: expected a file named .gif, got {output}")
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"output: expected a file in a folder that exists, got {output}")


def write_film(run: Run, name: str, output: Path | None, gif: bytes) -> Path:
    """Write a film where it is wanted, by default as RUN/play/NAME.gif: -> where it is."""
    if output is None:
        make_own_folder(run.folder / PLAY)
        output = run.folder / PLAY / f"{name}.gif"
        write_whole(output, gif)
    else:
        output.write_bytes(gif)
    return output


def watch_play(
    run: Run,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    rows: int | None = None,
    log: Callable[[str], None] = lambda words: None,
    at: Callable[[str], None] = lambda words: None,
) -> tuple[tuple[str, ...], list[Watched]]:
    """Titles, and the best and the median of some episodes as the model saw them. Arguments as in `write_play`."""
    settings, spec = run.config, run.model.spec
    with evaluation_environments(rendering(settings), spec, 1, log) as one:
        one.reset(0)
        one.frames()  # an environment that shows nothing is refused before anything is played
        with evaluation_environments(settings, spec, side_by_side(episodes)) as environments:
            chosen = choose(environments, policy, episodes=episodes, seed=seed, at=at)
        noise = make_generator(seed, stream=Stream.IMAGINATION, device=run.model.device)
        last = None if rows is None else rows - 1  # actions
        filmed = [recorded._replace(action=recorded.action[:last]) for recorded in chosen.recorded]
        watched = [watch(run.model, *film(one, recorded, at), noise) for recorded in filmed]
    return chosen.titles, watched
