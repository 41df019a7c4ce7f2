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
        policy: who acts: actor, mppi, cem or random. By default the actor, if the run has one and no setting of a
            search is given, or else a search in the run's model.
        episodes: how many are played.
        seed: of their starts, and of the policy.
        output: the GIF; by default RUN/play/POLICY.gif, and where rows are given RUN/play/POLICY_first_ROWS_rows.gif.
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
    require_gif(output)
    policy = run.policy_name(policy, **planner)
    gif = film_play(run, policy, episodes=episodes, seed=seed, rows=rows, log=log, at=at, **planner)
    return write_film(run, policy if rows is None else f"{policy}_first_{rows}_rows", output, gif)


def film_play(
    run: Run,
    policy: str,
    *,
    episodes: int,
    seed: int,
    rows: int | None,
    log: Callable[[str], None] = lambda words: None,
    at: Callable[[str], None] = lambda words: None,
    **planner: Any,
) -> bytes:
    """The best and the median of some episodes as a GIF. Arguments and errors as of `write_play`."""
    from worldmodel.report.play_film import play_gif  # and so matplotlib

    require_positive(episodes=episodes, **({} if rows is None else {"rows": rows}))
    acting = run.policy(policy, seed=seed, **planner)
    titles, watched = watch_play(run, acting, episodes=episodes, seed=seed, rows=rows, log=log, at=at)
    earned = [f"{_return_of(one, rows)} {one.reward.sum():.1f}" for one in watched]
    return play_gif(watched, [f"{title}, {policy}: {words}" for title, words in zip(titles, earned, strict=True)])


def _return_of(watched: Watched, rows: int | None) -> str:
    """What the rewards of a film add up to: an episode that is shorter than the rows that may be filmed is whole."""
    whole = rows is None or len(watched.frames) < rows
    return "return" if whole else f"return of the first {rows} rows"


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
