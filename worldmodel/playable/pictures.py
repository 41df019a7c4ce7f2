"""Which picture a page draws of an observation: a known environment's, an image, a grid, or bars of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.data import renderers, suites
from worldmodel.data.spaces import ROOT
from worldmodel.types import EnvSpec, ObservationSpec

DRAWN = {"Pendulum-v1": "pendulum", "CartPole-v1": "cartpole"}  # the page's script can draw these
GRID = "worldmodel_envs.grids:GridClasses"
GRID_SIDE = 7  # cells of MiniGrid's view


def pictures(
    env_id: str,
    spec: EnvSpec,
    *,
    wrappers: Sequence[Any] = (),
    hide: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """The pictures of an observation, each of one leaf; nothing of leaves that are shown as traces alone.

    Args:
        env_id, wrappers, hide: the settings of the environment. Nothing is made or imported.
        spec: of its rows.
    """
    found = []
    for i, (path, leaf) in enumerate(spec.observations.items()):
        if leaf.kind == "image":
            height, width, channels = leaf.shape
            found.append({"kind": "image", "leaf": i, "height": height, "width": width, "channels": channels})
        elif leaf.kind == "categorical" and _is_grid(env_id, leaf, wrappers):
            cells = GRID_SIDE**2
            found.append(
                {"kind": "grid", "leaf": i, "side": GRID_SIDE, "kinds": [leaf.classes[0], leaf.classes[cells]]}
            )
        elif leaf.kind in ("categorical", "binary"):
            found.append({"kind": "bars", "leaf": i})
        elif path == ROOT and (drawing := _drawing(env_id, wrappers, hide)) is not None:
            found.append({**drawing, "leaf": i})
    return found


def names_of(
    env_id: str, path: str, leaf: ObservationSpec, wrappers: Sequence[Any], hide: Mapping[str, Sequence[int]]
) -> list[str]:
    """What a leaf's numbers are called."""
    known = renderers.RENDERERS.get(env_id) if suites.is_classic_control(env_id) and not wrappers else None
    if known is not None and path == ROOT:
        return [known.names[i] for i in renderers.kept(known, hide)]
    return [path if leaf.width == 1 else f"{path}[{i}]" for i in range(leaf.width)]


def _drawing(env_id: str, wrappers: Sequence[Any], hide: Mapping[str, Sequence[int]] | None) -> dict[str, Any] | None:
    """A known environment's own drawing, and where in a row the numbers are that it needs."""
    if env_id not in DRAWN or wrappers or not suites.is_classic_control(env_id):
        return None
    known = renderers.RENDERERS[env_id]
    seen = renderers.kept(known, hide)
    if not set(known.drawn) <= set(seen):
        return None
    return {"kind": DRAWN[env_id], "entries": {known.names[i]: seen.index(i) for i in known.drawn}}


def _is_grid(env_id: str, leaf: ObservationSpec, wrappers: Sequence[Any]) -> bool:
    cells = GRID_SIDE**2
    alike = len(leaf.classes) == 2 * cells and len({*leaf.classes[:cells]}) == len({*leaf.classes[cells:]}) == 1
    return env_id.startswith("MiniGrid-") and list(wrappers) == [GRID] and alike
