"""What torchrun starts in tests: a command without its pictures, in which something may happen after an update.

torchrun ... tests/ranks_script.py '{"rank": 1, "update": 4, "signal": 15}' train --resume RUN

At its end, each process prints its rank, its exit status, its updates and a checksum of its weights.
"""

import json
import os
import signal
import sys
import zlib

import torch

from worldmodel.cli import main
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.rollout import Rollout
from worldmodel.training import evaluators
from worldmodel.training.learner import Learner
from worldmodel.training.trainer import Trainer

MADE = []  # the trainer


def act(what: dict) -> None:
    """Let it happen: a signal to this process, or a failure of its environments."""
    if "signal" in what:
        os.kill(os.getpid(), what["signal"])
        return

    def fail(self):
        raise EnvironmentFailureError("a cog broke")

    Rollout.step = fail


def run(what: dict) -> int:
    """Run the command: -> its exit status."""
    update, init = Learner.update, Trainer.__init__

    def updated(self, batch, before=None):
        done = update(self, batch, before)
        if self.updates == what.get("update") and self.processes.rank == what["rank"]:
            act(what)
        return done

    def made(self, *arguments, **options):
        init(self, *arguments, **options)
        MADE.append(self)

    Learner.update, Trainer.__init__ = updated, made
    evaluators.show = lambda *arguments: None
    import worldmodel.runs.session as session

    session.finish_run = lambda *arguments: None
    try:
        main(sys.argv[2:])
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    happening = json.loads(sys.argv[1])
    status = run(happening)
    if MADE:
        (trainer,) = MADE
        weights = [x.detach().numpy().tobytes() for one in trainer.learners.values() for x in one.model.parameters()]
        tensors = trainer.updates, zlib.crc32(b"".join(weights)), trainer.env_steps
        sys.stdout.write(" ".join(map(str, ("END", os.environ.get("RANK", "0"), status, *tensors))) + "\n")
        sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(status)
