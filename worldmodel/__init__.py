"""Sequential latent world models whose evidence can be measured.

    import worldmodel

    run = worldmodel.train("pendulum")       # or worldmodel.open_run("runs/pendulum-...")
    dream = run.imagine(context=16, horizon=48, samples=16)

To train: `train`, `resume`, `open_run`, `Run`, and for settings `Config` and `read_config`; on arrays of your own,
`data.from_episodes`; with parts of your own, `build_model`. To measure the evidence of your own model as a
`LatentSequence`: `sequence_elbo`, `iwae`, `smc` and `sandwich`. Each name is imported when it is first used, so that
`import worldmodel` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel import data
    from worldmodel.build_networks import build_model
    from worldmodel.config import Config
    from worldmodel.config_io import read_config
    from worldmodel.evidence.iwae import iwae
    from worldmodel.evidence.sandwich import sandwich
    from worldmodel.evidence.smc import smc
    from worldmodel.objectives.elbo import sequence_elbo
    from worldmodel.runs.run import Run, open_run
    from worldmodel.runs.session import resume, train
    from worldmodel.types import LatentSequence

__all__ = [
    "Config",
    "LatentSequence",
    "Run",
    "build_model",
    "data",
    "iwae",
    "open_run",
    "read_config",
    "resume",
    "sandwich",
    "sequence_elbo",
    "smc",
    "train",
]

_HOME = {
    "Config": "worldmodel.config",
    "LatentSequence": "worldmodel.types",
    "Run": "worldmodel.runs.run",
    "build_model": "worldmodel.build_networks",
    "iwae": "worldmodel.evidence.iwae",
    "open_run": "worldmodel.runs.run",
    "read_config": "worldmodel.config_io",
    "resume": "worldmodel.runs.session",
    "sandwich": "worldmodel.evidence.sandwich",
    "sequence_elbo": "worldmodel.objectives.elbo",
    "smc": "worldmodel.evidence.smc",
    "train": "worldmodel.runs.session",
}


def __dir__() -> list[str]:
    return [*__all__]


def __getattr__(name: str) -> Any:
    if name == "data":  # not an attribute before the package of that name is imported
        return import_module("worldmodel.data")
    if name not in _HOME:
        raise AttributeError(f"module 'worldmodel' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
