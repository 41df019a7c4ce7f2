"""Kill real training processes at random moments, resume them, and check that nothing acknowledged was lost.

    python scripts/crash_test.py [--kills 50] [--seed 0] [--write]     # --write also writes docs/survival.md

A child process trains, and reports every row and checkpoint once the library has stored it. It is killed after a random
time (SIGKILL, so that it cannot tidy up), its files are compared with what it reported, and it is resumed, until it
finishes by itself. Then the next run begins, until there were enough kills.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.data.records import RecordFile
from worldmodel.data.replay import Replay, TornRowsWarning
from worldmodel.training.checkpoint import newest_sound, read_counters

DOCS = Path(__file__).resolve().parents[1] / "docs"
SETTINGS = {
    "env.id": "CartPole-v1",
    "env.num_envs": 3,
    "replay.capacity": 1200,  # fewer than are collected, so that the ring is full for half of the run
    "replay.batch_size": 4,
    "replay.sequence_length": 16,
    "encoder.units": 16,
    "rssm.deter": 16,
    "rssm.hidden": 16,
    "rssm.stoch": 4,
    "decoder.units": 16,
    "training.prefill": 600,
    "training.env_steps": 6000,
    "training.train_ratio": 4,
    "training.log_every": 5,
    "training.evaluate_every": 1000,
    "training.save_every": 5,
    "evaluation.episodes": 8,
    "evaluation.context": 2,
    "evaluation.horizon": 4,
    "evaluation.samples": 2,
    "tracking": "none",
}
UPDATES = (6000 - 600) * 4 // (4 * 16)  # paid for by the rows after the prefill
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # networks this small are slower with two threads
MEAN_LIFE = 6.0  # mean seconds from a process's imports to its kill, exponentially distributed


@dataclass
class Reported:
    """The rows and checkpoints that a run has acknowledged so far, in all its processes."""

    checks: dict[tuple[str, int], int] = field(default_factory=dict)  # (stream file, row) -> checksum of the row
    updates: int = -1  # of the newest checkpoint
    best: bool = False  # whether there is a best checkpoint

    def take(self, line: str) -> None:
        """Read one line of a child's report."""
        kind, *rest = line.split()
        if kind == "row":
            self.checks[rest[0], int(rest[1])] = int(rest[2])
        elif kind == "checkpoint" and rest[0] == "best":
            self.best = True
        elif kind == "checkpoint":
            self.updates = int(rest[1])


def child(folder: str, runs: str) -> None:
    """Train or resume, and report on standard output what is stored."""
    from worldmodel.runs import session
    from worldmodel.training import trainer

    def tell(*words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    append, save, score, finish = RecordFile.append, trainer.save_checkpoint, trainer.evaluate, session.finish_run

    def told_append(self, record):
        append(self, record)
        if self.path.parent.name == "replay":
            tell("row", self.path.name, self.count - 1, int(record["check"]))
        else:
            tell("heldout")

    def told_save(path, parts, counters, *arguments, **options):
        save(path, parts, counters, *arguments, **options)
        tell("checkpoint", path.stem, counters["updates"])

    def told_score(*arguments, **options):
        tell("evaluating")
        return score(*arguments, **options)

    def told_finish(*arguments):
        tell("finishing")
        finish(*arguments)

    RecordFile.append, trainer.save_checkpoint = told_append, told_save
    trainer.evaluate, session.finish_run = told_score, told_finish
    tell("ready")
    if folder:
        session.resume(folder)
    else:
        session.train(None, {**SETTINGS, "runs": runs})


def live(folder: Path | None, runs: Path, seconds: float, reported: Reported) -> tuple[bool, str]:
    """Run a process for at most `seconds`: -> whether it finished by itself, and what it was doing at the end."""
    command = [sys.executable, __file__, "--child", str(folder or ""), "--runs", str(runs)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=ENVIRONMENT) as process,
    ):
        assert process.stdout is not None
        while process.stdout.readline() not in (b"ready\n", b""):
            pass
        timer = time.monotonic() + seconds
        os.set_blocking(process.stdout.fileno(), False)
        heard = b""
        while process.poll() is None and time.monotonic() < timer:
            heard += process.stdout.read() or b""
            time.sleep(0.002)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        os.set_blocking(process.stdout.fileno(), True)
        heard += process.stdout.read()
        process.wait()
        if not killed and process.returncode:
            errors.seek(0)
            sys.exit(f"the run failed by itself:\n{errors.read().decode()}")
    lines = heard.decode().splitlines()
    for line in lines:
        reported.take(line)
    return not killed, doing(lines)


def doing(lines: list[str]) -> str:
    """What a process was doing, judged by the last line of its report."""
    kinds = {
        "row": "collecting rows, or making updates",
        "checkpoint": "just past a checkpoint",
        "heldout": "collecting held-out episodes",
        "evaluating": "evaluating, or drawing it",
        "finishing": "writing its last pictures and page",
    }
    return kinds[lines[-1].split()[0]] if lines else "starting, or reading what was there"


def verify(folder: Path, reported: Reported) -> int:
    """Compare a run's files with what it reported: -> torn rows. An AssertionError says what is wrong."""
    if not (folder / "replay" / "replay.json").exists():
        assert not reported.checks and reported.updates < 0, "the replay is gone"
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornRowsWarning)
        replay = Replay.open(folder / "replay", read_only=True)
    with replay:
        for stream in replay._streams:
            rows = [row for name, row in reported.checks if name == stream.path.name]
            records = stream.read(stream.tail, len(stream))  # raises if a row is not as it was written
            assert stream.count >= max(rows, default=-1) + 1, f"{stream.path}: acknowledged rows are missing"
            for row, record in zip(range(stream.tail, stream.count), records, strict=True):
                known = reported.checks.get((stream.path.name, row))
                assert known in (None, int(record["check"])), f"{stream.path}: row {row} has changed"
            assert len(stream) >= min(len(rows), stream.capacity // 2), f"{stream.path}: the stream was cut"
    checkpoints = folder / "checkpoints"
    found, _ = newest_sound([checkpoints / "last.safetensors", checkpoints / "previous.safetensors"])
    updates = found.counters["updates"] if found else -1
    assert updates >= reported.updates, f"acknowledged checkpoint of update {reported.updates}, found {updates}"
    assert not reported.best or newest_sound([checkpoints / "best.safetensors"])[0], "the best checkpoint is gone"
    return sum(int(str(w.message).split("dropped ")[1].split()[0]) for w in caught)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write docs/survival.md")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--runs", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.runs)
        return
    choice = random.Random(options.seed)
    kills, finished, torn, rows, during = 0, 0, 0, 0, Counter()
    while kills < options.kills:
        with tempfile.TemporaryDirectory() as runs:
            reported, folder, done = Reported(), None, False
            while not done:
                seconds = choice.expovariate(1 / MEAN_LIFE) if kills < options.kills else 600.0
                done, moment = live(folder, Path(runs), seconds, reported)
                folder = next((path.parent for path in Path(runs).glob("run-*/config.yaml")), None)
                if not done:
                    kills, during[moment] = kills + 1, during[moment] + 1
                if folder is not None:
                    torn += verify(folder, reported)
            assert read_counters(folder / "checkpoints" / "last.safetensors")["updates"] == UPDATES
            assert (folder / "report.html").exists(), "the run did not finish"
            finished, rows = finished + 1, rows + len(reported.checks)
            print(f"{kills} kills, {finished} runs finished, {rows} rows acknowledged, {torn} torn", flush=True)
    if options.write:
        (DOCS / "survival.md").write_text(document(kills, finished, rows, torn, during))


def document(kills: int, finished: int, rows: int, torn: int, during: Counter) -> str:
    listed = "\n".join(f"| {moment} | {count} |" for moment, count in during.most_common())
    return f"""# What a run survives

Written by `python scripts/crash_test.py --kills {kills} --write`, which kills real training processes with SIGKILL at
random moments, compares their files with every row and checkpoint that they had acknowledged, and resumes them.

**{kills} kills over {finished} runs; {rows} rows acknowledged, none lost; no acknowledged checkpoint lost; every run
finished.** Rows found half written and dropped with a warning: {torn}.

| the process was | kills |
| --- | --- |
{listed}

A kill between two bytes of a write is too rare to happen by chance; `tests/data/test_records.py` stops at every byte of
every write instead.

The same tests cut and alter stored files. Held-out episodes, and rows of a finished data set, never change: their
header has their number and a checksum, so that a missing row or a changed bit is an error. While rows are still being
collected, the checkpoint and the streams of the other environments count them.
"""


if __name__ == "__main__":
    main()
