"""The decomposition of a run's gap and rate as it is stored: estimates alone, read back from evidence/gap.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from worldmodel.evidence.estimate import Certificate, Estimate

LEVELS = ("filtering", "smoothing", "refined", "log_evidence")
PARTS = ("filtering", "amortisation", "family", "gap")
RATES = ("rate", "information_low", "misfit_high", "information_high", "misfit_low")


class StoredRate(NamedTuple):
    """The rate of some rows and its parts in nats per step: see `evidence.rate.Rate.parts`."""

    parts: dict[str, Estimate]
    alternatives: int  # draws x' for each row
    saturated: bool  # whether information from below is near the most that these can show


@dataclass(frozen=True)
class Decomposed:
    """The gap and the rate of held-out episodes, in nats per step."""

    levels: dict[str, Estimate]  # as in `evidence.gap.GapDecomposition.levels`
    parts: dict[str, Estimate]  # as in its `parts`
    certificate: Certificate | None  # of the log evidence
    episodes: int
    rows: int  # of theirs, that count
    first_row: StoredRate  # of first rows, among the episodes themselves
    every_row: StoredRate | None  # of all rows; none where the posterior smooths
    exact: bool  # whether `every_row` is by the environment's exact law, rather than the model's own prediction

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Decomposed":
        """From what `worldmodel gap` writes.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        gap, rate = data["gap"], data["rate"]
        levels, parts = _estimates(gap["levels"], LEVELS), _estimates(gap["parts"], PARTS)
        stored = gap["certificate"]
        certificate = stored and Certificate(parts["gap"], _estimate(stored["width"]), float(stored["degenerate_rows"]))
        return cls(
            levels,
            parts,
            certificate,
            episodes=int(gap["sequences"]),
            rows=int(gap["steps"]),
            first_row=_rate(rate["first_row"]),
            every_row=rate["every_row"] and _rate(rate["every_row"]),
            exact=bool(rate["exact"]),
        )


def _rate(data: Mapping[str, Any]) -> StoredRate:
    return StoredRate(_estimates(data["parts"], RATES), int(data["alternatives"]), bool(data["saturated"]))


def _estimates(data: Mapping[str, Any], expected: tuple[str, ...]) -> dict[str, Estimate]:
    if missing := [name for name in expected if name not in data]:
        raise KeyError(missing[0])
    return {name: _estimate(one) for name, one in data.items()}


def _estimate(data: Mapping[str, Any]) -> Estimate:
    return Estimate(float(data["mean"]), float(data["error"]))
