"""Presets that are stacked and contradict each other."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from worldmodel.system.presets import presets


def contradictions(stacked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Sentences on two tasks, two sizes or two recipes that set something differently; none where they go together.

    Args:
        stacked: names of presets, or paths, with their settings by dotted key, in order; later ones win.
    """
    groups = {preset.name: preset.group for preset in presets()}
    said = []
    for (first, before), (second, after) in combinations(stacked, 2):
        if first == second or groups.get(first) is None or groups[first] != groups.get(second):
            continue
        differing = [key for key in before if key in after and before[key] != after[key]]
        kept = [key for key in before if key not in after]
        if differing:
            stays = f"; {', '.join(kept)} {_be(kept)} as {first} says" if kept else ""
            said.append(f"{first} and {second} contradict each other: {second} wins in {', '.join(differing)}{stays}")
    return said


def _be(names: Sequence[str]) -> str:
    return "stay" if len(names) > 1 else "stays"
