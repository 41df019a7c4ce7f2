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
    from rich.table import Table

    from worldmodel.report.comparison import comparison, doubts, summary
    from worldmodel.report.record import read_record
    from worldmodel.training.progress import Watch

    with Watch().phase("comparing"):
        records = [read_record(Path(folder)) for folder in options.runs]
        Path(options.output).write_text(comparison(records), encoding="utf-8")
    header, rows = summary(records)
    table = Table(title="held-out, nats per step", title_justify="left")
    for name, *_ in [header, *rows]:  # a run a column: there are more numbers than runs
        table.add_column(name, justify="left" if name == header[0] else "right", overflow="fold")
    for quantity in list(zip(header, *rows, strict=True))[1:]:
        table.add_row(*quantity)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for doubt in doubts(records):
        console.print(doubt)
    console.print(f"comparison  {options.output}", soft_wrap=True)
