"""Measure the evidence of a run's held-out episodes, and how far the bound is from it: tables, figure, JSON."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of, whole_numbers

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.evaluation.evidence import EvidenceReport
    from worldmodel.runs.run import Run


def add_options(parser: ArgumentParser) -> None:
    """Which run, how many particles, how often."""
    from worldmodel.runs.run import Run, open_run

    add_options_of(parser, open_run, skip={"env", "model"})
    add_options_of(parser, Run.evidence, skip={"batch", "log"})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write RUN/evidence/ and print what is in it."""
    particles = whole_numbers(options.particles, "particles", least=2)
    from rich.console import Console

    from worldmodel.build import why_no_law
    from worldmodel.runs.run import Run, open_run
    from worldmodel.training.progress import Watch

    opened = open_run(**arguments_of(options, open_run))
    console, watch = Console(highlight=False, markup=False), Watch()

    def log(words: str) -> None:
        console.print(f"{words} ...", markup=False)
        watch.at(words)

    with watch.phase("measuring the evidence"):
        found = opened.evidence(**arguments_of(options, Run.evidence) | {"particles": particles}, log=log)
        folder = opened.write_evidence(found)
    _show(console, opened, found)
    if found.exact is None and not options.allow_env and (why := why_no_law(opened.config)):
        console.print(why, soft_wrap=True, markup=False)
    console.print(f"figure and numbers are in {folder}", soft_wrap=True)
    console.print(f"`worldmodel report {opened.folder}` puts them on the run's page", soft_wrap=True)


def _show(console: "Console", opened: "Run", found: "EvidenceReport") -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables
    from worldmodel.report.formats import several, with_error

    simulated = f"sandwich on {found.simulated} episodes that the model simulated"
    console.print(
        f"\n{found.episodes} held-out episodes, {found.rows:,} steps; particles from {found.proposal}; {simulated}",
        soft_wrap=True,
    )
    caption = "nats per step; standard errors over episodes, paired for differences"
    show_table(console, tables.estimates(found).transposed(), caption=caption)
    if found.exact is not None:
        title = f"exact evidence {with_error(found.exact)} nats per step"
        show_table(console, tables.distances_from_exact(found).transposed(), title=title)
    show_table(console, tables.terms(found), caption=f"nats per step, with {found.best.particles} particles")
    for name, floor in opened.model.resolution().items():
        console.print(f"{name}, floor of the std: {several(floor.tolist())}", soft_wrap=True)
    for doubt in tables.doubts(found.best.certificate):
        console.print(f"the gap with {found.best.particles} particles is in doubt: {doubt}", soft_wrap=True)
    if words := tables.weights(found):
        console.print(words, soft_wrap=True)
    if found.parts:
        show_table(console, tables.parts(found).transposed(), title="by parts, nats per step")
        console.print(tables.certified(found), soft_wrap=True)
    for part in found.parts:
        for doubt in tables.doubts(part.certificate):
            console.print(f"the gap of steps {part.first} to {part.last} is in doubt: {doubt}", soft_wrap=True)
    if words := tables.remedy(found):
        console.print(words, soft_wrap=True)
