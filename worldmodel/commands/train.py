"""Train a world model on rollouts of a Gymnasium environment, or on stored ones."""

import sys

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from worldmodel.config_io import add_config_options, config_from_namespace


def add_options(parser: ArgumentParser) -> None:
    """Every setting, and files of them; or a run to go on with."""
    add_config_options(parser)
    words = "a run's folder to go on with, under its own settings"
    parser.add_argument("--resume", type=str, default=SUPPRESS, help=words)  # no setting: --print_config leaves it out


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train; a run that had to stop ends with status 1."""
    folder = options.pop("resume", None)
    if folder is not None:
        given = _given(parser, options)
        if given:
            raise ValueError(f"resume: expected no other settings, since the run has its own; got {', '.join(given)}")
    config = None if folder is not None else config_from_namespace(parser, options)
    from worldmodel.training.progress import Watch

    with Watch().phase("loading"):  # what is heavy, and not needed to print a configuration or to refuse one
        from worldmodel.data.guard import EnvironmentFailureError
        from worldmodel.session import resume, train
        from worldmodel.training.trainer import NonFiniteLossError

    try:
        if folder is not None:
            resume(folder)
        else:
            train(config)
    except (EnvironmentFailureError, NonFiniteLossError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise  # the input was wrong, not the run
        print(f"worldmodel: the run stopped: {error}", file=sys.stderr)
        sys.exit(1)


def _given(parser: ArgumentParser, options: Namespace) -> list[str]:
    """The settings that differ from the defaults, by their dotted keys."""
    usual = parser.get_defaults().as_flat()
    return [key for key, value in vars(options.as_flat()).items() if value != getattr(usual, key, None)]
