"""The command line. Each command is a module of `commands/`.

worldmodel train --config pendulum sizes/medium --rssm.deter 256 [--print_config]
worldmodel train --resume runs/pendulum-...
worldmodel evaluate runs/pendulum-... [--episodes 20 --policy mppi]
worldmodel evaluate runs/pendulum-... --dream_gap --policy mppi
worldmodel play runs/pendulum-... --policy mppi --output swing_up.gif
worldmodel play runs/pendulum-... --html
worldmodel imagine runs/pendulum-... --context 16 --horizon 48
worldmodel evidence runs/pendulum-... --particles 64,256,1024
worldmodel gap runs/pendulum-...
worldmodel report runs/pendulum-...
worldmodel compare runs/pendulum-... runs/pendulum-...
worldmodel collect --config pendulum --rows 20000 --output data/pendulum
worldmodel import minari:namespace/name-v0 --output data/name
worldmodel export data/pendulum namespace/name-v0
worldmodel presets
"""

import os
import signal
import sys
from argparse import HelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from textwrap import wrap
from typing import NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from worldmodel.config_io import (
    config_from_options,
    explain,
    rewrite_entries,
    settings_text,
    stacked_contradictions,
)
from worldmodel.system.installation import versions
from worldmodel.system.launched import launched, of_rank, rank_in_words
from worldmodel.training.interruptions import StoppedError

COMMANDS = {  # the command's name -> its module in `commands`
    "train": "train",
    "evaluate": "evaluate",
    "imagine": "imagine",
    "evidence": "evidence",
    "gap": "gap",
    "play": "play",
    "report": "report",
    "compare": "compare",
    "collect": "collect",
    "import": "import_minari",
    "export": "export",
    "presets": "presets",
}
GROUPS = {  # of commands, by what people want
    "train a world model": ("train", "presets"),
    "look at what it learned": ("play", "imagine", "report", "compare"),
    "measure it": ("evaluate", "evidence", "gap"),
    "keep and share data": ("collect", "import", "export"),
}
COMPLETION = "--print_completion"  # jsonargparse's option
OPTIONS = {  # of the program itself
    "-h, --help": "Show this and exit.",
    "--version": "Show the version and exit.",
    f"{COMPLETION} SHELL": "Print a script by which shtab-bash, shtab-zsh or shtab-tcsh complete commands and options.",
}
# Commands for which the user asks to make environments, and so may name modules in the current folder.
# `evaluate` makes one only if it plays episodes.
MAKE_ENVIRONMENTS = {"train", "collect", "play"}
PLAYS = "evaluate"
MAKES_NONE = "html"  # the option by which `play` makes none


class _Parser(ArgumentParser):
    """A parser that reports an error in one sentence, without two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if rank_in_words() == "0":  # of several processes, which were all given the same
            options = [name.removeprefix("--") for name in self._option_string_actions if name.startswith("--")]
            print(f"worldmodel: {explain(message, options)}", file=sys.stderr)
            print(f"`{self.prog} --help` lists what there is.", file=sys.stderr)
        sys.exit(2)


class _Program(_Parser):
    """The parser of the program itself, whose help has the commands in groups."""

    about: Mapping[str, str] = {}  # every command in a sentence

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The commands by what people want, and the options, in 80 columns."""
        width = max(map(len, self.about))
        lines = [f"usage: {self.prog} COMMAND ...", "", self.description or ""]
        for title, names in GROUPS.items():
            lines += ["", f"{title}:", *(line for name in names for line in _listed(name, self.about[name], width))]
        lines += ["", f"`{self.prog} COMMAND --help` lists a command's options.", "", "options:"]
        width = max(map(len, OPTIONS))
        lines += [line for name, words in OPTIONS.items() for line in _listed(name, words, width)]
        return "\n".join(lines) + "\n"


def _listed(name: str, words: str, width: int) -> list[str]:
    """A name in a column of this width, and what it is beside it."""
    return wrap(words, 79, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Exits with status 2 and a sentence for a mistake in the input, with 1 for a run that fails, with 130 after Ctrl-C,
    and with 143 after SIGTERM.
    """
    given = rewrite_entries(sys.argv[1:] if arguments is None else arguments)
    completing = any(one.partition("=")[0] == COMPLETION for one in given)
    if completing:
        _require_shtab()
    set_parsing_settings(add_print_completion_argument=completing)
    parser = _Program(
        prog="worldmodel",
        allow_abbrev=False,
        description="Sequential latent world models whose evidence can be measured.",
    )
    parser.add_argument("--version", action="version", version=_version(), help="show the version and exit")
    subcommands = parser.add_subcommands(dest="command")
    modules = {name: import_module(f"worldmodel.commands.{module}") for name, module in COMMANDS.items()}
    parsers = {name: _Parser(allow_abbrev=False, description=module.__doc__) for name, module in modules.items()}
    parser.about = {name: " ".join((module.__doc__ or "").split()) for name, module in modules.items()}
    chosen = next((one for one in given if not one.startswith("-")), None)
    for name, module in modules.items():
        if (
            name == chosen or completing
        ):  # no other: options come from signatures of functions that may take seconds to import
            module.add_options(parsers[name])
        subcommands.add_subcommand(name, parsers[name], help=module.__doc__)
        parsers[name].prog = f"{parser.prog} {name}"  # otherwise it would list the options of `worldmodel` itself
    if not given:
        parser.print_help(sys.stderr)
        sys.exit(2)
    options = parser.parse_args(given)
    settings = options[options.command]
    try:
        _require_one_process(options.command)
        for words in stacked_contradictions(settings) if rank_in_words() == "0" else ():
            print(f"worldmodel: {words}", file=sys.stderr)
        if "print_config" in settings:
            print(settings_text(config_from_options(settings)), end="")
            sys.exit(0)
        plays = options.command == PLAYS and (settings.episodes is not None or settings.dream_gap)
        makes = plays or (options.command in MAKE_ENVIRONMENTS and not settings.get(MAKES_NONE))
        with _current_folder_importable() if makes else nullcontext():
            modules[options.command].run(parsers[options.command], settings)
    except (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError) as error:
        print(f"worldmodel: {of_rank()}{error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"worldmodel: {of_rank()}{options.command} stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        print(f"worldmodel: {of_rank()}{options.command} stopped: there is not enough memory: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(f"worldmodel: {of_rank()}stopped at once, as asked", file=sys.stderr)
        sys.exit(128 + (error.signal if isinstance(error, StoppedError) else signal.SIGINT))


def _require_shtab() -> None:
    if find_spec("shtab") is None:
        print(f"worldmodel: {COMPLETION} needs a package that is not installed: `pip install shtab`", file=sys.stderr)
        sys.exit(2)


def _require_one_process(command: str) -> None:
    """Refuse to run a command in several processes, unless it is the one that they can share.

    Each says so: torchrun ends the others as soon as one has ended, and which one that is nobody knows.
    """
    world = launched().world
    if world > 1 and command != "train":
        raise ValueError(f"{command}: expected one process, got {world}; only train shares its work among several")


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Let imports find modules in the current folder first, also from the installed script.

    `python -m worldmodel` does so by itself. Does nothing if Python was told to leave that folder out (`python -P`,
    PYTHONSAFEPATH).
    """
    folder = os.getcwd()
    if sys.flags.safe_path or folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _version() -> str:
    named = versions()
    beside = ", ".join(f"{name} {named[name]}" for name in ("python", "torch", "gymnasium") if name in named)
    return f"worldmodel {named.get('worldmodel', '(not installed)')} ({beside})"


def _of_memory(error: Exception) -> bool:
    """Whether an allocation failed, which torch says only in the text of its error."""
    words = ("out of memory", "can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)
