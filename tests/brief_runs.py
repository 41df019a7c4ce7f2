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

# 120 rows after the prefill and 0.1 updates a row: 12 updates.
TWELVE_UPDATES = {
    "env.num_envs": 2,
    "replay.batch_size": 4,
    "replay.sequence_length": 8,
    "encoder.units": 12,
    "rssm.deter": 8,
    "rssm.hidden": 8,
    "rssm.blocks": 2,
    "rssm.stoch": 2,
    "decoder.units": 12,
    "training.prefill": 40,
    "training.env_steps": 160,
    "training.train_ratio": 3.2,
    "training.log_every": 1,
    "training.evaluate_every": 6,
    "training.save_every": 3,
    "evaluation.episodes": 2,
    "evaluation.max_length": 12,
    "evaluation.context": 4,
    "evaluation.horizon": 6,
    "evaluation.samples": 2,
    "evaluation.particles": 0,
    "tracking": "none",
}


def train_briefly(runs, settings=()):
    """The folder of a run that was trained in the folder `runs`, with settings over those above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.evaluators.show", lambda *arguments: None)
        patch.setattr("worldmodel.runs.session.finish_run", lambda *arguments: None)
        overrides = SETTINGS | {"runs": str(runs)} | dict(settings)
        return train(None, overrides, progress=RunProgress(STEPS, Console(quiet=True))).folder
