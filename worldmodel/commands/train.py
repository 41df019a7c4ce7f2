"""Train a world model on rollouts of a Gymnasium environment, or on stored ones."""

import signal
import sys

from jsonargparse import ArgumentParser, Namespace

from worldmodel.config_io import add_config_options, config_from_options, given_options
from worldmodel.system.launched import launched, of_rank


def add_options(parser: ArgumentParser) -> None:
    """Every setting, and files of them; or a run to go on with."""
    add_config_options(parser)
    words = "a run's folder to go on with, under its own settings"
    parser.add_argument("--resume", type=str, default=None, help=words)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train; a run that had to stop ends with status 1, one that Ctrl-C or SIGTERM ended with 130 or 143."""
    folder = options.resume
    if folder is not None:
        given = [key for key, _ in given_options(options)]
        if given:
            raise ValueError(f"resume: expected no other settings, since the run has its own; got {', '.join(given)}")
    config = None if folder is not None else config_from_options(options)
    from worldmodel.training.progress import Watch

    with Watch().phase("loading"):  # what is heavy, and not needed to print a configuration or to refuse one
        from worldmodel.data.guard import EnvironmentFailureError
        from worldmodel.runs.session import resume, train
        from worldmodel.training.divergence import NonFiniteLossError

    try:
        ended = resume(folder) if folder is not None else train(config)
    except (EnvironmentFailureError, NonFiniteLossError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise  # the input was wrong, not the run
        print(f"worldmodel: {of_rank()}the run stopped: {error}", file=sys.stderr)
        sys.exit(1)
    if ended.ended_by is not None:
        if launched().world > 1:  # torchrun sends SIGTERM to all once the first of them has ended
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + ended.ended_by)
