"""The command line. The commands are in `commands/`.

worldmodel train --config configs/pendulum.yaml --rssm.deter 256 [--print_config]
worldmodel train --resume runs/pendulum-...
worldmodel evaluate runs/pendulum-...
worldmodel imagine runs/pendulum-... --context 16 --horizon 48
worldmodel evidence runs/pendulum-... --particles 64,256,1024
worldmodel gap runs/pendulum-...
worldmodel report runs/pendulum-...
worldmodel compare runs/pendulum-... runs/pendulum-...
worldmodel collect --config configs/pendulum.yaml --rows 20000 --output data/pendulum
worldmodel import minari:namespace/name-v0 --output data/name
worldmodel export data/pendulum namespace/name-v0
"""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from worldmodel.config_io import explain
from worldmodel.training.interruptions import StoppedError

COMMANDS = {  # what is typed, and the module of `commands` that does it
    "train": "train",
    "evaluate": "evaluate",
    "imagine": "imagine",
    "evidence": "evidence",
    "gap": "gap",
    "report": "report",
    "compare": "compare",
    "collect": "collect",
    "import": "import_minari",
    "export": "export",
}


class _Parser(ArgumentParser):
    """Says what is wrong in a sentence, instead of under two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"worldmodel: {explain(message)}\n`{self.prog} --help` lists what there is.", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Mistakes in the input end with status 2 and a sentence, failures of a run with status 1, Ctrl-C with 130 and SIGTERM
    with 143.
    """
    parser = _Parser(
        prog="worldmodel",
        allow_abbrev=False,
        description="Sequential latent world models whose evidence can be measured.",
    )
    subcommands = parser.add_subcommands(dest="command")
    modules = {name: import_module(f"worldmodel.commands.{module}") for name, module in COMMANDS.items()}
    parsers = {name: _Parser(allow_abbrev=False, description=module.__doc__) for name, module in modules.items()}
    for name, module in modules.items():
        module.add_options(parsers[name])
        subcommands.add_subcommand(name, parsers[name], help=module.__doc__)
    options = parser.parse_args(arguments)
    try:
        modules[options.command].run(parsers[options.command], options[options.command])
    except (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError) as error:
        print(f"worldmodel: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"worldmodel: {options.command} stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print("worldmodel: stopped at once, as asked", file=sys.stderr)
        sys.exit(128 + (error.signal if isinstance(error, StoppedError) else signal.SIGINT))
