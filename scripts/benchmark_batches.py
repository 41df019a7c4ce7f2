"""What a batch of stored rows costs, part by part, and how long an update waits for it in line and read ahead.

    python scripts/benchmark_batches.py            16 x 64 rows of 64 x 64 colour images, and of three numbers
    python scripts/benchmark_batches.py --write    the same, into docs/performance.md

The replay is in a temporary folder and fits in memory, so nothing waits for a disk. Everything is interleaved in one
process, and a figure is the median of the runs.
"""

import argparse
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_scan import interleaved
from docs_blocks import write_block

from worldmodel import build, build_networks
from worldmodel.config_io import read_config
from worldmodel.data.offline import episode_rows
from worldmodel.data.random_batch import random_batch
from worldmodel.data.replay import Replay
from worldmodel.training.read_ahead import ReadAhead
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec

B, T, STORED, BURN_IN, RUNS, DEVICE = 16, 64, 12_000, 4, 9, 0.03
LEAVES = {"64 x 64 colour images": ObservationSpec("image", (64, 64, 3)), "3 numbers": ObservationSpec("vector", (3,))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = ["| 16 x 64 rows, processor time | ms | microseconds a row |", "| --- | --- | --- |"]
    waits = [
        "| an update and its batch | in line, ms | read ahead, ms | processor time of each, ms |",
        "| --- | --- | --- | --- |",
    ]
    for name, leaf in LEAVES.items():
        with tempfile.TemporaryDirectory() as folder, stored_rows(Path(folder), leaf) as replay:
            for part, ms in interleaved(contestants(replay)).items():
                parts.append(f"| {name}: {part} | {ms:.2f} | {1e3 * ms / (B * T):.2f} |")
            for update, run in updates(replay.spec).items():
                waits.append(f"| {name}: {update} | {' | '.join(in_line_and_ahead(replay, run))} |")
    text = "\n".join([*parts, "", *waits])
    print(text)
    if options.write:
        write_block("performance.md", "batches", text)
    return 0


def stored_rows(folder: Path, leaf: ObservationSpec) -> Replay:
    """A replay of random rows of one environment, in episodes of 200."""
    spec = EnvSpec({"obs": leaf}, ActionSpec("continuous", 1))
    replay = Replay(folder / "rows", spec, capacity=STORED, streams=1)
    episode = random_batch(spec, 1, 200, torch.Generator().manual_seed(0))
    for _ in range(STORED // 200):
        for rows in episode_rows(episode):
            replay.append(rows)
    return replay


def contestants(replay: Replay) -> dict[str, Callable[[], Any]]:
    """A batch as it is drawn, and the parts that it cannot do without, alone."""
    size, leaf = replay.row_type.itemsize, replay.row_type["obs:obs"]
    file = (replay.folder / "stream-000.rows").open("rb", buffering=0)
    records = np.empty(T, replay.row_type)
    content = records.view(np.uint8).data
    starts = np.random.default_rng(0).integers(STORED - T, size=B).tolist()

    def read() -> None:
        for start in starts:
            file.seek(start * size)
            file.readinto(content)

    def check() -> None:
        for _ in starts:
            for at in range(0, len(content), size):
                zlib.crc32(content[at : at + size])

    def copy() -> None:
        column = np.empty((B, T, *leaf.shape), leaf.base)
        for b in range(B):
            column[b] = records["obs:obs"]

    draw = partial(replay.sample, B, T, torch.Generator().manual_seed(0), burn_in=BURN_IN)
    return {"reading the file": read, "checksums": check, "one copy": copy, "a batch": draw}


def updates(spec: EnvSpec) -> dict[str, Callable[[Batch], Any]]:
    """What is done with a batch: waiting for a device, keeping the interpreter busy, or for vectors a real update."""
    x = torch.randn(16, 64)

    def small_operations(_: Batch) -> None:
        for _ in range(8000):
            x.relu()

    named = {"waiting 30 ms for a device": lambda _: time.sleep(DEVICE), "8,000 small operations": small_operations}
    if spec.observations["obs"].kind == "vector":
        config = read_config("pendulum_random")
        model = build_networks.build_model(config, spec)
        learner = build.build_learner(config, model, torch.Generator().manual_seed(0))
        named["an update of `pendulum_random`"] = learner.update
    return named


def in_line_and_ahead(replay: Replay, update: Callable[[Batch], Any]) -> list[str]:
    """Wall clock of an update with its batch, in line and read ahead, and the processor time of each."""

    def draw(generator: torch.Generator, update: int) -> Batch:
        return replay.sample(B, T, generator, burn_in=BURN_IN)

    wall: dict[bool, list[float]] = {False: [], True: []}
    processor: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(RUNS):
        for ahead in wall:
            with ReadAhead(draw, torch.Generator().manual_seed(0)) as batches:
                update(batches.next(0, ahead=ahead))
                started = time.perf_counter(), time.process_time()
                for number in range(1, 5):
                    update(batches.next(number, ahead=ahead))
                wall[ahead].append((time.perf_counter() - started[0]) / 4)
                processor[ahead].append((time.process_time() - started[1]) / 4)
    ms = [1e3 * statistics.median(times[ahead]) for times in (wall, processor) for ahead in (False, True)]
    return [f"{ms[0]:.1f}", f"{ms[1]:.1f}", f"{ms[2]:.1f} and {ms[3]:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
