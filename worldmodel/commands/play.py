"""Let a policy play in a run's environment and film it, or write a page in which one acts in the dream oneself."""

import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of

NOT_TYPED = ("run", "log", "at", "planner")


def add_options(parser: ArgumentParser) -> None:
    """Which run, which weights; who plays, how often, and where the film goes."""
    from worldmodel.runs.play import write_play
    from worldmodel.runs.run import open_run

    add_options_of(parser, open_run, skip={"env", "model"})
    add_options_of(parser, write_play, skip=NOT_TYPED)
    words = "show the world beside the policy's dream of it, from the same starts: RUN/play/dream.gif"
    parser.add_argument("--dream", action="store_true", help=words)
    words = "write a page in which a reader acts in the dream, from held-out episodes: RUN/play/dream.html"
    parser.add_argument("--html", action="store_true", help=words)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write the film or the page. An environment that fails ends it with status 1."""
    from rich.console import Console

    from worldmodel.data.guard import EnvironmentFailureError
    from worldmodel.runs.dream_film import write_dream_film
    from worldmodel.runs.play import write_play
    from worldmodel.runs.run import open_run
    from worldmodel.training.progress import Watch

    console, watch = Console(highlight=False, markup=False), Watch()
    if options.html:
        _write_page(options, console)
        return
    opened = open_run(**arguments_of(options, open_run))
    typed = {name: value for name, value in arguments_of(options, write_play).items() if name not in NOT_TYPED}
    try:
        with watch.phase("playing"):
            write = write_dream_film if options.dream else write_play
            written = write(opened, **typed, log=lambda words: console.print(words, soft_wrap=True), at=watch.at)
    except EnvironmentFailureError as error:
        print(f"worldmodel: playing stopped: {error}", file=sys.stderr)
        sys.exit(1)
    console.print(f"film  {written}", soft_wrap=True)


def _write_page(options: Namespace, console: Any) -> None:
    from worldmodel.runs.play import write_play
    from worldmodel.runs.play_page import write_play_page
    from worldmodel.runs.run import open_run

    typed, known = arguments_of(options, write_play), arguments_of(options, write_play_page)
    others = [name for name in typed if name not in known and name not in NOT_TYPED and typed[name] is not None]
    if others or options.dream:
        raise ValueError(f"html: expected no --{others[0] if others else 'dream'} beside it: the reader acts")
    opened = open_run(**arguments_of(options, open_run))
    written = write_play_page(opened, **known, log=lambda words: console.print(words, soft_wrap=True))
    console.print(f"page  {written.path}", soft_wrap=True)
