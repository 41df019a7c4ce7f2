"""Sequential latent world models whose evidence can be measured.

    import worldmodel

    run = worldmodel.train("pendulum")       # or worldmodel.open_run("runs/pendulum-...")
    dream = run.imagine(context=16, horizon=48, samples=16)

The names below are imported when they are first used, so that `import worldmodel` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.config import Config
    from worldmodel.config_io import read_config
    from worldmodel.runs.run import Run, open_run
    from worldmodel.runs.session import resume, train

__all__ = ["Config", "Run", "open_run", "read_config", "resume", "train"]

_HOME = {
    "Config": "worldmodel.config",
    "Run": "worldmodel.runs.run",
    "open_run": "worldmodel.runs.run",
    "read_config": "worldmodel.config_io",
    "resume": "worldmodel.runs.session",
    "train": "worldmodel.runs.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'worldmodel' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
