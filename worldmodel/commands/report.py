"""Write a run's report: one page of HTML that opens without a network."""

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of


def add_options(parser: ArgumentParser) -> None:
    """Which run, and where the page goes."""
    from worldmodel.runs.run import write_report

    add_options_of(parser, write_report)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Read the folder and write the page."""
    from worldmodel.runs.run import write_report
    from worldmodel.training.progress import Watch

    with Watch().phase("writing the report"):
        notes = write_report(**arguments_of(options, write_report))
    for note in notes:
        print(f"note        {note}")
    print(f"report      {options.output or options.folder / 'report.html'}")
