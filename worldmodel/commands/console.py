"""How commands show a table in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.report.tables import Table


def show_table(console: "Console", shown: "Table", *, title: str | None = None, caption: str | None = None) -> None:
    """Print a table, its first column to the left and the others to the right; cells are folded where they must be."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    for column, heading in enumerate(shown.header):
        table.add_column(heading, justify="right" if column else "left", overflow="fold")
    for row in shown.rows:
        table.add_row(*row)
    console.print(table)
