"""Options of a command, read from the signature and the docstring of the function that it calls.

So a default, a type and an explanation are written once, where they are used. Jsonargparse turns a signature into
options; two kinds of parameter read better on a command line in another form: a flag, and numbers with commas.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace


def add_options_of(parser: ArgumentParser, function: Callable[..., Any], *, skip: Collection[str] = ()) -> None:
    """Give a parser an option for each parameter of a function.

    One without a default is an argument by position, unless it can only be given by name: then it is an option that is
    required. A parameter that is False by default becomes a flag, and one that takes several whole numbers is typed
    64,256.

    Args:
        parser: of the command.
        function: documents its parameters under Args, one by one.
        skip: parameters that are no options.
    """
    parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    flags = [name for name, one in parameters.items() if one.default is False]
    several = [name for name in parameters if any(get_origin(one) is Sequence for one in _choices(hints.get(name)))]
    special = {*flags, *several} - {*skip}
    by_name = {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    left_out = {"self", *skip, *special} & {*parameters}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*left_out, *by_name})
    parser.add_function_arguments(function, as_group=False, skip={*left_out, *({*parameters} - by_name)})
    for name in parameters:
        form: dict[str, Any] = {"action": "store_true"} if name in flags else {"type": str, "metavar": "N,N"}
        if name in special:
            parser.add_argument(f"--{name}", default=parameters[name].default, help=_help(function, name), **form)


def arguments_of(options: Namespace, function: Callable[..., Any]) -> dict[str, Any]:
    """The parsed options that are parameters of a function, by name."""
    return {name: options[name] for name in inspect.signature(function).parameters if name in options}


def whole_numbers(text: str | None, name: str, *, least: int) -> list[int] | None:
    """64,256 -> [64, 256]; None where nothing was typed.

    Raises:
        ValueError: if it is something else, or a number is too small.
    """
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise ValueError(f"{name}: expected numbers of at least {least} such as 64,256,1024, got {text!r}")
    return numbers


def _choices(hint: Any) -> tuple[Any, ...]:
    return (hint, *get_args(hint))


def _help(function: Callable[..., Any], name: str) -> str:
    documented = docstring_parser.parse_from_object(function).params
    return next(one.description or "" for one in documented if one.arg_name == name)
