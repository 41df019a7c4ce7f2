"""Write a run's report: one page of HTML that opens without a network."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """Which run, and where the page goes."""
    parser.add_argument("run", type=str, help="the run's folder, finished or not")
    parser.add_argument("--output", type=str, default=None, help="the page; RUN/report.html by default")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Read the folder and write the page."""
    from worldmodel.runs.run import write_report
    from worldmodel.training.progress import Watch

    folder = Path(options.run)
    output = Path(options.output) if options.output else None
    with Watch().phase("writing the report"):
        notes = write_report(folder, output)
    for note in notes:
        print(f"note        {note}")
    print(f"report      {output or folder / 'report.html'}")
