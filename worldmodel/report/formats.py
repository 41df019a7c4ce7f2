"""Numbers, counts and durations as one reads them."""

import math
import re
from collections.abc import Sequence

from worldmodel.evidence.estimate import Estimate
from worldmodel.system.names import visible

MOST_SHOWN = 8  # of many numbers in a line


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: so many decimals, fewer where it is large; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{digits if abs(value) < 1e4 else 0}f}"


def count(value: float | None) -> str:
    """A whole number, with commas between thousands."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def counted(amount: int, thing: str) -> str:
    """So many of a thing: 1 step, 2 steps."""
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"


def duration(seconds: float) -> str:
    """3 h 5 min, 4 min 10 s, 12.3 s or 12 ms; never broken over lines."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 1:
        text = f"{1000 * seconds:.0f} ms"
    elif seconds < 59.95:
        text = f"{seconds:.1f} s"
    else:
        text = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def with_error(estimate: Estimate) -> str:
    """A mean with its standard error: 0.1410 ± 0.0040."""
    return f"{number(estimate.mean, 4)} ± {number(estimate.error, 4)}"


def several(values: Sequence[float]) -> str:
    """The first few of many numbers, with how many there are."""
    shown = " ".join(f"{value:.3g}" for value in values[:MOST_SHOWN])
    return shown + (f" ... ({len(values)} in all)" if len(values) > MOST_SHOWN else "")


def readable(text: str) -> str:
    """Text for a page: of control characters, which HTML has no place for, only line ends and tabs stay."""
    return re.sub(r"[^\n\t]+", lambda found: visible(found[0]), text)
