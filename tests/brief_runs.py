"""A training run of seconds, without pictures and page, for tests of what is done with a run."""

import pytest
from rich.console import Console

from worldmodel.runs.session import train
from worldmodel.training.progress import RunProgress
from worlds import TINY

STEPS = 240
SETTINGS = TINY | {
    "env.time_limit": 12,
    "training.prefill": 200,
    "training.env_steps": STEPS,
    "training.train_ratio": 3.2,
    "training.evaluate_every": 1000,
    "evaluation.episodes": 3,
    "evaluation.context": 4,
    "evaluation.horizon": 4,
    "evaluation.samples": 2,
    "tracking": "none",
}


def train_briefly(runs, settings=()):
    """The folder of a run that was trained in the folder `runs`, with settings over those above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        overrides = SETTINGS | {"runs": str(runs)} | dict(settings)
        return train(None, overrides, progress=RunProgress(STEPS, Console(quiet=True))).folder
