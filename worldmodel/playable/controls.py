"""Controls for an action space: what each action is called, and the keys that choose it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldmodel.types import ActionSpec

KNOWN = {  # environments whose actions have names, by how their ids begin
    "CartPole-": ("push left", "push right"),
    "MountainCar-": ("push left", "nothing", "push right"),
    "Acrobot-": ("pull left", "nothing", "pull right"),
    "LunarLander-": ("nothing", "left engine", "main engine", "right engine"),
    "FrozenLake-": ("left", "down", "right", "up"),
    "CliffWalking-": ("up", "right", "down", "left"),
    "MiniGrid-": ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done"),
    "Pendulum-": ("torque",),
    "MountainCarContinuous-": ("force",),
}
ARROWS = {  # keys of actions that are called so
    "ArrowLeft": ("push left", "pull left", "turn left", "left engine", "left"),
    "ArrowRight": ("push right", "pull right", "turn right", "right engine", "right"),
    "ArrowUp": ("forward", "main engine", "up"),
    "ArrowDown": ("nothing", "drop", "down"),
}


def controls(env_id: str, spec: ActionSpec, space: Space | None = None) -> dict[str, Any]:
    """One control for each action.

    Args:
        env_id: whose actions they are.
        spec: how rows store them.
        space: the environment's own, in whose units numbers are shown; without it they lie in [-1, 1].
    """
    names = next((names for prefix, names in KNOWN.items() if env_id.startswith(prefix)), ())
    if spec.kind == "continuous":
        return {"kind": spec.kind, "entries": _sliders(spec.width, names, space)}
    if spec.kind == "binary":
        return {
            "kind": spec.kind,
            "entries": [{"name": f"switch {i + 1}", "key": _digit(i)} for i in range(spec.width)],
        }
    alone = len(spec.classes) == 1
    groups = []
    for i, count in enumerate(spec.classes):
        called = names if alone and len(names) == count else [f"action {k}" for k in range(count)]
        choices = [{"name": name, "keys": _keys(name, k) if alone else []} for k, name in enumerate(called)]
        groups.append({"name": "action" if alone else f"action {i + 1}", "choices": choices})
    return {"kind": spec.kind, "groups": groups}


def _sliders(width: int, names: Sequence[str], space: Space | None) -> list[dict[str, Any]]:
    called = names if len(names) == width else ["action"] if width == 1 else [f"action {i + 1}" for i in range(width)]
    low, high = -np.ones(width), np.ones(width)
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    keys = [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"]]
    return [
        {"name": name, "low": float(low[i]), "high": float(high[i]), "keys": keys[i] if i < len(keys) else []}
        for i, name in enumerate(called)
    ]


def _keys(name: str, index: int) -> list[str]:
    return [key for key in (_digit(index), *(key for key, named in ARROWS.items() if name in named)) if key]


def _digit(index: int) -> str:
    return str(index + 1) if index < 9 else ""
