"""The command line.

worldmodel train --config configs/pendulum.yaml --rssm.deter 256 [--print_config]
worldmodel evaluate runs/pendulum-...
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from jsonargparse import ArgumentParser, Namespace

from worldmodel.config_io import add_config_options, config_from_namespace, explain


class _Parser(ArgumentParser):
    """Says what is wrong in a sentence, instead of under two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"worldmodel: {explain(message)}\n`worldmodel train --help` lists every setting.", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; mistakes in the input end with status 2 and a sentence, failures of a run with status 1."""
    parser = _Parser(
        prog="worldmodel",
        allow_abbrev=False,
        description="Sequential latent world models whose evidence can be measured.",
    )
    commands = parser.add_subcommands(dest="command")
    train_parser = _Parser(
        allow_abbrev=False, description="Train a world model on rollouts of a Gymnasium environment."
    )
    add_config_options(train_parser)
    commands.add_subcommand("train", train_parser, help="train a world model")
    evaluate_parser = _Parser(allow_abbrev=False, description="Score a run on its held-out episodes.")
    evaluate_parser.add_argument("run", type=str, help="the run's folder")
    evaluate_parser.add_argument("--checkpoint", type=str, default=None, help="best (the default) or last")
    evaluate_parser.add_argument("--device", type=str, default="cpu", help="a torch device, or auto")
    commands.add_subcommand("evaluate", evaluate_parser, help="score a run on its held-out episodes")
    options = parser.parse_args(arguments)
    try:
        if options.command == "train":
            _train(train_parser, options.train)
        else:
            _evaluate(options.evaluate.run, options.evaluate.checkpoint, options.evaluate.device)
    except (ValueError, FileNotFoundError) as error:
        print(f"worldmodel: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("worldmodel: stopped at once, as asked", file=sys.stderr)
        sys.exit(130)


def _train(parser: ArgumentParser, namespace: Namespace) -> None:
    config = config_from_namespace(parser, namespace)
    # Heavy, and not needed to print a configuration or to refuse one.
    from worldmodel.data.environment import EnvironmentFailureError
    from worldmodel.run import train
    from worldmodel.training.trainer import NonFiniteLossError

    try:
        train(config)
    except (EnvironmentFailureError, NonFiniteLossError) as error:
        print(f"worldmodel: the run stopped: {error}", file=sys.stderr)
        sys.exit(1)


def _evaluate(folder: str, checkpoint: str | None, device: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from worldmodel.run import open_run

    run = open_run(folder, checkpoint, device)
    evaluation = run.evaluate()
    table = Table("held-out", "nats per step")
    for name, value in evaluation.per_step.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in evaluation.kl.summary.items():
        table.add_row(f"KL {name}", f"{value:.4f}")
    for name, bits in evaluation.bits_per_dimension.items():
        table.add_row(f"{name}, bits per dimension", f"{bits:.4f}")
    for name, floor in run.model.resolution().items():
        table.add_row(f"{name}, floor of the std", " ".join(f"{value:.3g}" for value in floor.tolist()))
    console = Console()
    console.print(table)
    if evaluation.open_loop:
        errors = Table("squared error / variance", "steps ahead", "imagined", "last row repeated", "mean of the data")
        for name, (model, repeat, mean) in evaluation.open_loop.items():
            for h in sorted({0, len(model) // 4 - 1, len(model) // 2 - 1, len(model) - 1} - {-1}):
                errors.add_row(name, str(h + 1), f"{model[h]:.4f}", f"{repeat[h]:.4f}", f"{mean[h]:.4f}")
        console.print(errors)
