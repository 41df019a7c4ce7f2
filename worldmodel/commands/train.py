"""Train a world model on rollouts of a Gymnasium environment."""

import sys

from jsonargparse import ArgumentParser, Namespace

from worldmodel.config_io import add_config_options, config_from_namespace


def add_options(parser: ArgumentParser) -> None:
    """Every setting, and files of them."""
    add_config_options(parser)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Train; a run that had to stop ends with status 1."""
    config = config_from_namespace(parser, options)
    # Heavy, and not needed to print a configuration or to refuse one.
    from worldmodel.data.guard import EnvironmentFailureError
    from worldmodel.session import train
    from worldmodel.training.trainer import NonFiniteLossError

    try:
        train(config)
    except (EnvironmentFailureError, NonFiniteLossError) as error:
        print(f"worldmodel: the run stopped: {error}", file=sys.stderr)
        sys.exit(1)
