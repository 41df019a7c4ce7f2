"""How commands show a table in the terminal."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.report.tables import Table


def show_table(
    console: "Console",
    shown: "Table",
    *,
    title: str | None = None,
    caption: str | None = None,
    whole: Collection[str] = (),
    spaced: bool = False,
) -> None:
    """Print a table, its first column to the left and the others to the right.

    Where there is too little room, headings and cells are folded between words.

    Args:
        console: printed on.
        shown: the table.
        title, caption: above and below it.
        whole: headings of columns whose cells stay on one line, such as those of intervals.
        spaced: leave an empty line between rows.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0), leading=spaced)
    for column, heading in enumerate(shown.header):
        words = [word for row in shown.rows for word in row[column].split()]
        table.add_column(
            heading,
            justify="right" if column else "left",
            overflow="fold",
            no_wrap=heading in whole,
            min_width=max(map(len, words), default=1) if column else None,
        )
    for row in shown.rows:
        table.add_row(*row)
    console.print(table)
