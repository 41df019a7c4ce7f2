"""Write a run's report: one page of HTML that opens without a network."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """Which run, and where the page goes."""
    parser.add_argument("run", type=str, help="the run's folder, finished or not")
    parser.add_argument("--output", type=str, default=None, help="the page; RUN/report.html by default")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Read the folder and write the page."""
    from dataclasses import asdict

    from worldmodel.config import Config
    from worldmodel.report.page import page
    from worldmodel.report.record import read_record

    folder = Path(options.run)
    record = read_record(folder)
    output = Path(options.output) if options.output else folder / "report.html"
    output.write_text(page(record, asdict(Config())), encoding="utf-8")
    for note in record.notes:
        print(f"note        {note}")
    print(f"report      {output}")
