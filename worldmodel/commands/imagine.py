"""Imagine on from a run's held-out episodes, beside what really happened: pictures, films and scores."""

import json
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of

if TYPE_CHECKING:
    from rich.table import Table

    from worldmodel.runs.run import Run

NUMBER = 8  # letters of a number, at most, which are never folded; headings of several words are
CELLS = (("model", "mean"), ("model", "low"), ("model", "high"), ("repeat_last", "mean"), ("marginal", "mean"))


def add_options(parser: ArgumentParser) -> None:
    """Which run, from where, how far, under whose actions."""
    from worldmodel.runs.run import Run, open_run

    add_options_of(parser, open_run)
    add_options_of(parser, Run.write_imagination)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write RUN/imagination/ and print the scores as tables."""
    from rich.console import Console

    from worldmodel.runs.run import Run, open_run
    from worldmodel.training.progress import Watch

    opened = open_run(**arguments_of(options, open_run))
    with Watch().phase("imagining"):
        folder = opened.write_imagination(**arguments_of(options, Run.write_imagination))
    console = Console(markup=False)
    if options.policy == "recorded":
        scores = json.loads((folder / "scores.json").read_text())
        console.print(
            f"{scores['futures']} futures of {scores['episodes']} held-out episodes: {scores['context']} steps seen,"
            f" {scores['horizon']} imagined, {scores['samples']} samples, one draw of the likelihood from each;"
            " 90 % intervals by bootstrap over episodes"
        )
        for leaf, metrics in scores["scores"].items():
            console.print(_table(opened, leaf, metrics, scores["horizon"]))
    console.print(f"pictures and numbers are in {folder}")


def _table(opened: "Run", leaf: str, metrics: dict[str, Any], horizon: int) -> "Table":
    from rich.box import SIMPLE
    from rich.table import Table

    from worldmodel.report import vocabulary

    floor = opened.model.resolution().get(leaf)
    unit = " (symlog)" if leaf in opened.model.decoder.symlog else ""
    caption = None if floor is None else f"floor of the std{unit}: " + " ".join(f"{x:.3g}" for x in floor[:8].tolist())
    table = Table(caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    model, *baselines = (vocabulary.METHODS[name].name for name in ("model", "repeat_last", "marginal"))
    table.add_column(leaf)
    table.add_column("ahead", no_wrap=True)
    for heading in (model, "90 % interval", *baselines):
        table.add_column(heading, min_width=NUMBER, no_wrap=heading == "90 % interval")
    for metric, methods in metrics.items():
        lines = []
        for h in sorted({0, horizon // 4 - 1, horizon // 2 - 1, horizon - 1} - {-1}):
            mean, low, high, repeat, marginal = (_number(methods, *where, h) for where in CELLS)
            lines.append((str(h + 1), mean, f"{low} to {high}" if low else "", repeat, marginal))
        # One row of several lines, beside which the score's name may be folded.
        table.add_row(vocabulary.score(metric).unit, *("\n".join(column) for column in zip(*lines, strict=True)))
        table.add_section()
    return table


def _number(methods: dict[str, Any], method: str, column: str, h: int) -> str:
    value = methods[method][column][h] if method in methods else None
    return "" if value is None else f"{value:.3g}"
