"""Imagine on from a run's held-out episodes, beside what really happened: pictures, films and scores."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.runs.run import Run


def add_options(parser: ArgumentParser) -> None:
    """Which run, from where, how far, under whose actions."""
    from worldmodel.runs.run import Run, open_run

    add_options_of(parser, open_run, skip={"env", "model"})
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
        _show(console, opened, folder)
    console.print(f"pictures and numbers are in {folder}")


def _show(console: "Console", opened: "Run", folder: Path) -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.evaluation.scores import Scores
    from worldmodel.report import tables
    from worldmodel.report.formats import several

    scores = Scores.from_json(json.loads((folder / "scores.json").read_text()))
    console.print(
        f"{scores.futures} futures of {scores.episodes} held-out episodes: {scores.context} steps seen,"
        f" {scores.horizon} imagined, {scores.samples} samples, one draw of the likelihood from each;"
        " 90 % intervals by bootstrap over episodes"
    )
    floors = opened.model.resolution()
    for leaf, metrics in scores.scores.items():
        unit = " (symlog)" if leaf in opened.model.decoder.symlog else ""
        caption = f"floor of the std{unit}: {several(floors[leaf].tolist())}" if leaf in floors else None
        table = tables.imagination(leaf, metrics, scores.horizon)
        show_table(console, table, caption=caption, whole={tables.INTERVAL}, spaced=True)
