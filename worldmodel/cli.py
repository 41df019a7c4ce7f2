"""The command line. The commands are in `commands/`.

worldmodel train --config configs/pendulum.yaml --rssm.deter 256 [--print_config]
worldmodel evaluate runs/pendulum-...
worldmodel imagine runs/pendulum-... --context 16 --horizon 48
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from worldmodel.config_io import explain

COMMANDS = ("train", "evaluate", "imagine")


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
    subcommands = parser.add_subcommands(dest="command")
    modules = {name: import_module(f"worldmodel.commands.{name}") for name in COMMANDS}
    parsers = {name: _Parser(allow_abbrev=False, description=module.__doc__) for name, module in modules.items()}
    for name, module in modules.items():
        module.add_options(parsers[name])
        subcommands.add_subcommand(name, parsers[name], help=module.__doc__)
    options = parser.parse_args(arguments)
    try:
        modules[options.command].run(parsers[options.command], options[options.command])
    except (ValueError, FileNotFoundError) as error:
        print(f"worldmodel: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("worldmodel: stopped at once, as asked", file=sys.stderr)
        sys.exit(130)
