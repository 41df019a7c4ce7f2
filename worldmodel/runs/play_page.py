"""A run's world model as a page to act in: `worldmodel play RUN --html`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium import Space

from worldmodel.build_acting import require_learned_returns
from worldmodel.checks import require_positive
from worldmodel.config import EnvConfig
from worldmodel.data import suites
from worldmodel.playable.arrays import Precision
from worldmodel.playable.controls import controls
from worldmodel.playable.page import Subject, playable_page
from worldmodel.playable.pictures import names_of, pictures
from worldmodel.playable.recordings import few
from worldmodel.runs.dream import dream_spaces
from worldmodel.runs.play import PLAY
from worldmodel.runs.run import Run
from worldmodel.system.files import make_own_folder, write_whole

PAGE = "dream.html"
ROWS = 200  # of a recorded episode that the page has, unless another number is asked for
LARGEST = 5_000_000  # bytes of a page whose weights are in float32; a larger one has them in float16


class Written(NamedTuple):
    """A page, and what it took."""

    path: Path
    size: int  # bytes
    weights: int
    precision: Precision


def write_play_page(
    run: Run,
    *,
    episodes: int = 10,
    seed: int = 0,
    output: Path | None = None,
    rows: int | None = None,
    log: Callable[[str], None] = lambda words: None,
) -> Written:
    """Write one file of HTML in which a reader acts in the run's dream. It makes and imports no environment.

    Args:
        run: whose model and held-out episodes.
        episodes: held-out episodes that the page begins in, at most.
        seed: of the filtered states.
        output: the page; RUN/play/dream.html by default.
        rows: of an episode, at most; by default 200.
        log: told how large the page is.
    Raises:
        ValueError: if a number is out of range, the model has not learned what a dream needs, or is made of modules
            that a page has no script for.
    """
    rows = ROWS if rows is None else rows
    require_positive(episodes=episodes)
    if rows < 2:
        raise ValueError(f"rows: expected at least 2, one that is seen and one that is dreamt, got {rows}")
    require_html(output)
    require_learned_returns(run.config)
    page = playable_page(run.model, few(run.heldout(), episodes, rows), subject(run), seed=seed, limit=LARGEST)
    content = page.html.encode()
    log(f"page of {len(content) / 1e6:.1f} MB, {page.weights:,} weights in {page.precision}")
    return Written(_write(run, output, content), len(content), page.weights, page.precision)


def require_html(output: Path | None) -> None:
    """Raise ValueError if a page cannot go there."""
    if output is not None and output.suffix != ".html":
        raise ValueError(f"output: expected a file named .html, got {output}")
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"output: expected a file in a folder that exists, got {output}")


def subject(run: Run) -> Subject:
    """What a run's page is about: its names, its controls and its pictures. Nothing that settings name is imported."""
    env, spec = run.config.env, run.model.spec
    look: dict[str, Any] = {"wrappers": env.wrappers, "hide": env.hide}
    shown = _env_id(run)
    return Subject(
        name=run.folder.resolve().name,
        env_id=shown,
        controls=controls(env.id, spec.action, _action_space(run)),
        pictures=pictures(env.id, spec, **look),
        traces=[names_of(env.id, path, leaf, **look) for path, leaf in spec.observations.items()],
    )


def _env_id(run: Run) -> str:
    return run.config.env.id if run.config.offline is None else str(run.config.offline)


def _action_space(run: Run) -> Space | None:
    """The environment's own space where Gymnasium's classic control has it, which is always there."""
    return dream_spaces(run, "world").action if _is_plain(run.config.env) and run.config.offline is None else None


def _is_plain(env: EnvConfig) -> bool:
    return suites.is_classic_control(env.id) and not env.wrappers and not env.kwargs


def _write(run: Run, output: Path | None, content: bytes) -> Path:
    if output is None:
        make_own_folder(run.folder / PLAY)
        output = run.folder / PLAY / PAGE
        write_whole(output, content)
    else:
        output.write_bytes(content)
    return output
