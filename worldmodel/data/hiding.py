"""Hide entries of observations, so that a model has to infer them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from worldmodel.types import ObservationSpec


def kept_entries(specs: Mapping[str, ObservationSpec], hide: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The indices that stay, by path, of each leaf with hidden entries.

    Args:
        specs: the leaves of the observation.
        hide: indices to hide, by the path of a leaf that is not an image.
    Raises:
        ValueError: if there is no such leaf, an index is out of range, or a leaf would lose all its entries.
    """
    flat = {path: spec.shape[0] for path, spec in specs.items() if spec.kind != "image"}
    kept = {}
    for path, hidden in hide.items():
        if path not in flat:
            there = ", ".join(f"{name} [{n}]" for name, n in flat.items()) or "none"
            expected = f"paths of leaves that are no images, of which there are: {there}"
            raise ValueError(f"env.hide: expected {expected}; got {path!r}")
        n = flat[path]
        wrong = [i for i in hidden if not 0 <= i < n]
        if wrong:
            raise ValueError(f"env.hide: expected indices from 0 to {n - 1} for {path!r}, got {wrong}")
        kept[path] = np.setdiff1d(np.arange(n), hidden)
        if not len(kept[path]):
            raise ValueError(
                f"env.hide: expected at least one of the {n} entries of {path!r} to stay, got {list(hidden)}"
            )
    return kept


def specs_of_kept(specs: Mapping[str, ObservationSpec], kept: Mapping[str, np.ndarray]) -> dict[str, ObservationSpec]:
    """The specs of all leaves, without the hidden entries."""
    return {path: _part(spec, kept[path]) if path in kept else spec for path, spec in specs.items()}


def keep(obs: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One observation by path, without the hidden entries."""
    return {path: value[kept[path]] if path in kept else value for path, value in obs.items()}


def _part(spec: ObservationSpec, kept: np.ndarray) -> ObservationSpec:
    classes, low, high = (tuple(of[i] for i in kept if of) for of in (spec.classes, spec.low, spec.high))
    return replace(spec, shape=(len(kept),), classes=classes, low=low, high=high)
