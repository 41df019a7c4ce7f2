"""Compare runs: a table here, their curves and settings on one page of HTML."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument("runs", type=str, nargs="+", help="the runs' folders")
    parser.add_argument("--output", type=str, default="compare.html", help="the page")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Read the folders, write the page, print the last and the best numbers."""
    from rich.console import Console

    from worldmodel.commands.console import show_table
    from worldmodel.report.comparison import comparison, doubts, summary
    from worldmodel.report.record import read_record
    from worldmodel.training.progress import Watch

    with Watch().phase("comparing"):
        records = [read_record(Path(folder)) for folder in options.runs]
        Path(options.output).write_text(comparison(records), encoding="utf-8")
    console = Console(highlight=False, markup=False)
    # A run a column: there are more numbers than runs.
    show_table(console, summary(records).transposed(), title="held-out, nats per step")
    for doubt in doubts(records):
        console.print(doubt)
    console.print(f"comparison  {options.output}", soft_wrap=True)
