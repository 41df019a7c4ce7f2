"""Decompose the gap of a run's evidence (filtering, amortisation, family) and its rate (information, misfit)."""

import json
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.evidence.rate import Rate


def add_options(parser: ArgumentParser) -> None:
    """Which run, and how hard to look."""
    from worldmodel.runs.decomposition import gap_decomposition, rate_decomposition
    from worldmodel.runs.run import open_run

    add_options_of(parser, open_run, skip={"env", "model"})
    add_options_of(parser, gap_decomposition, skip={"run", "log", "at"})
    add_options_of(parser, rate_decomposition, skip={"run", "log", "episodes", "seed"})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write RUN/evidence/gap.json and print what is in it."""
    from rich.console import Console

    from worldmodel.build import why_no_law
    from worldmodel.checks import require_positive
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables
    from worldmodel.runs.decomposition import gap_decomposition, rate_decomposition
    from worldmodel.runs.run import open_run
    from worldmodel.system.files import make_own_folder, write_whole
    from worldmodel.training.progress import Watch

    require_positive(alternatives=options.alternatives)  # the rate comes last, minutes from now
    opened = open_run(**arguments_of(options, open_run))
    console = Console(highlight=False, markup=False)
    watch = Watch()

    def log(words: str) -> None:
        console.print(f"{words} ...", markup=False)

    with watch.phase("decomposing the gap"):
        gap = gap_decomposition(opened, **arguments_of(options, gap_decomposition), log=log, at=watch.at)
    with watch.phase("decomposing the rate"):
        first, every, exact = rate_decomposition(opened, **arguments_of(options, rate_decomposition), log=log)
    show_table(console, tables.gap(gap.levels(), gap.parts(), gap.certificate))
    for doubt in tables.doubts(gap.certificate) if gap.certificate else ():
        console.print(f"the gap with {options.particles} particles is in doubt: {doubt}", soft_wrap=True)
    _show_rate(console, first, tables.rate_heading(first.alternatives, first=True, exact=exact))
    if every is not None:
        _show_rate(console, every, tables.rate_heading(every.alternatives, first=False, exact=exact))
    if not exact and not options.allow_env and (why := why_no_law(opened.config)):
        console.print(why, soft_wrap=True, markup=False)
    folder = opened.folder / "evidence"
    make_own_folder(folder)
    rates = {"first_row": first.as_json(), "every_row": every and every.as_json(), "exact": exact}
    settings = {name: value for name, value in vars(options).items() if name != "folder"} | {"run": opened.folder.name}
    numbers = {"gap": gap.as_json(), "rate": rates, "settings": settings}
    write_whole(folder / "gap.json", json.dumps(numbers))
    console.print(f"numbers are in {folder / 'gap.json'}", soft_wrap=True)
    console.print(f"`worldmodel report {opened.folder}` puts them on the run's page", soft_wrap=True)


def _show_rate(console: "Console", rate: "Rate", heading: str) -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables

    console.print(f"rate of {heading}")
    show_table(console, tables.rate(rate.parts()))
    if rate.saturated:
        console.print(tables.SATURATED)
