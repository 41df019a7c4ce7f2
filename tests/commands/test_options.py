"""Options of commands are the parameters of what they call: names, defaults, types, help; and what is refused."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from worldmodel.commands import collect, evaluate, evidence, export, gap, imagine, import_minari, report
from worldmodel.commands.options import add_options_of, arguments_of, whole_numbers
from worldmodel.config import EnvConfig, EvaluationConfig
from worldmodel.data.minari import export_minari
from worldmodel.data.offline import open_data
from worldmodel.runs.decomposition import gap_decomposition, rate_decomposition
from worldmodel.runs.run import Run, open_run, write_report


def work(
    where: Path, *, rows: int, times: Sequence[int] | None = None, kind: Literal["a", "b"] = "b", hard: bool = False
):
    """Work.

    Args:
        where: the place.
        rows: how many, at
            least one.
        times: how often.
        kind: of what.
        hard: do not stop.
    """


@pytest.fixture
def parser():
    made = ArgumentParser(exit_on_error=False)
    add_options_of(made, work)
    return made


def test_options_are_the_parameters_of_a_function(parser):
    options = parser.parse_args(["there", "--rows", "3"])
    expected = {"where": Path("there"), "rows": 3, "times": None, "kind": "b", "hard": False}
    assert arguments_of(options, work) == expected
    options = parser.parse_args(["--hard", "there", "--rows=3", "--times", "4,5", "--kind=a"])
    assert arguments_of(options, work) == expected | {"times": "4,5", "kind": "a", "hard": True}
    shown = " ".join(parser.format_help().split())
    for words in ("the place", "how many, at least one", "how often", "of what", "do not stop", "default: b"):
        assert words in shown


@pytest.mark.parametrize("arguments", [[], ["there"], ["there", "--rows=x"], ["there", "--rows=3", "--kind=c"]])
def test_what_is_missing_or_of_another_type_is_refused(parser, arguments):
    with pytest.raises(Exception, match=r"where|rows|kind"):
        parser.parse_args(arguments)


def test_whole_numbers_are_typed_with_commas():
    assert whole_numbers("64,256", "n", least=2) == [64, 256] and whole_numbers(None, "n", least=2) is None
    for text in ("64;256", "", "1", "3,1"):
        with pytest.raises(ValueError, match=f"n: expected numbers of at least 2 such as 64,256,1024, got '{text}'"):
            whole_numbers(text, "n", least=2)


CALLED = [
    (evaluate, ["run"], [open_run]),
    (imagine, ["run"], [open_run, Run.write_imagination]),
    (evidence, ["run"], [open_run, Run.evidence]),
    (gap, ["run"], [open_run, gap_decomposition, rate_decomposition]),
    (report, ["run"], [write_report]),
    (collect, ["--rows=3", "--output=out"], [collect.collect]),
    (import_minari, ["minari:a/b-v0", "--output=out"], [import_minari.import_minari]),
    (export, ["source", "a/b-v0"], [open_data, export_minari]),
]


@pytest.mark.parametrize(("command", "required", "functions"), CALLED, ids=lambda x: getattr(x, "__name__", None))
def test_a_command_has_the_defaults_of_what_it_calls_and_says_what_each_option_is(command, required, functions):
    made = ArgumentParser()
    command.add_options(made)
    options = made.parse_args(required)
    defaults = {}
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty and not callable(parameter.default):
                defaults[name] = parameter.default
    for name in ("environment", "env", "model", "batch"):  # objects, which only Python can hand over
        defaults.pop(name, None)
    assert {name: options[name] for name in defaults} == defaults
    undocumented = [one.dest for one in made._actions if not one.help]
    assert not undocumented


def test_an_import_has_the_defaults_of_the_settings():
    made = ArgumentParser()
    import_minari.add_options(made)
    options = made.parse_args(["minari:a/b-v0", "--output=out"])
    assert (options.heldout, options.seed) == (EvaluationConfig().episodes, EvaluationConfig().seed)
    settings = EnvConfig()
    assert (options.image_size, options.drop_text, options.integers) == (
        settings.image_size,
        settings.drop_text,
        settings.integers,
    )
