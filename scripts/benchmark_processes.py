"""What several processes add to an update: bytes and sums from the parameters, and processor time on this machine.

    python scripts/benchmark_processes.py            one process and two, by turns
    python scripts/benchmark_processes.py --write    the same, into docs/scaling.md

Updates of the world model on random rows, 16 x 64 in all, on the CPU through gloo. The first process takes updates
alone, while the second one waits, and then both take them together, by turns. A figure is the median of the rounds;
processor time is that of both, since what else runs changes the clock's time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from docs_blocks import write_block
from torch import Tensor

from worldmodel import build, build_acting, build_networks
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.random_batch import random_batch
from worldmodel.models.world_model import WorldModel
from worldmodel.training.learner import Learner
from worldmodel.training.processes import ALONE, Group, Processes, joined
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec

SPEC = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 1))  # Pendulum's
SIZES = ("small", "medium", "large")
B, T, WORLD, UPDATES, ROUNDS = 16, 64, 2, 5, 3
MEASURED = ("small", "medium")


@dataclass
class Counting:
    """Passes on to a group, and counts its sums and their bytes."""

    group: Group
    sums: int = 0
    bytes: int = 0

    def allreduce(self, tensors: list[Tensor]) -> Any:
        self.sums += 1
        self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return self.group.allreduce(tensors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one of the processes, with the size of its model
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return 0
    text = tables()
    sys.stdout.write(text + "\n")
    if options.write:
        write_block("scaling.md", "processes", text)
    return 0


def tables() -> str:
    """Both tables."""
    lines = [
        "| size | world model, parameters | actor and critic | bytes of gradients an update |",
        "| --- | --- | --- | --- |",
    ]
    for size in SIZES:
        config = settings(size)
        with torch.device("meta"):
            model = build_networks.build_model(config, SPEC)
        agent = build_acting.build_agent(config, model)
        assert agent is not None
        own, acting = trained(model), trained(agent)
        lines.append(f"| `sizes/{size}` | {own:,} | {acting:,} | {4 * (own + acting):,} |")
    lines += ["", "| size | processes | sums an update | bytes summed | processor ms | of one process's | clock, ms |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for size in MEASURED:
        found = launch(size)
        alone = found["1"]["processor"]
        for world, each in found.items():
            cells = [f"`sizes/{size}`", world, f"{each['sums']:g}", f"{each['bytes']:,.0f}"]
            cells += [f"{each['processor']:.1f}", f"{each['processor'] / alone:.2f}", f"{each['clock']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings(size: str) -> Config:
    """The default job at a size."""
    return read_config(("pendulum", f"sizes/{size}"), {"replay.batch_size": B, "replay.sequence_length": T})


def trained(module: torch.nn.Module) -> int:
    """How many numbers of a module have gradients."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def launch(size: str) -> dict[str, dict[str, float]]:
    """Measure one process and two: -> milliseconds, sums and bytes of an update, by the number of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    measuring = [*command, str(Path(__file__)), "--measure", size]
    done = subprocess.run(measuring, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(size: str) -> None:
    """Take updates alone and together, by turns; the first process says what they took."""
    torch.set_num_threads(1)
    config = settings(size)
    with joined(torch.device("cpu")) as both:
        assert both.group is not None
        counted = Counting(both.group)
        kinds = {"1": ALONE, str(WORLD): replace(both, group=counted)}
        updates = {}
        for name, processes in kinds.items():
            generator = torch.Generator().manual_seed(both.rank)
            learner = build.build_learner(config, build_networks.build_model(config, SPEC), generator, processes)
            batch = random_batch(SPEC, processes.share_of(B, "batch"), T, generator)
            updates[name] = partial(update, learner, batch, processes)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for _ in range(1 + ROUNDS):  # the first one warms up
            for name, processes in kinds.items():
                both.greatest(0)
                counted.sums, counted.bytes, clock, processor = 0, 0, time.perf_counter(), time.process_time()
                for _ in range(UPDATES if both.writes or processes is not ALONE else 0):
                    updates[name]()
                took, own = time.perf_counter() - clock, time.process_time() - processor
                one = {"clock": 1e3 * took, "processor": 1e3 * sum(map(float, both.exchange(repr(own).encode())))}
                rounds[name].append(one | {"sums": counted.sums, "bytes": counted.bytes})
        if both.writes:
            median = {
                name: {key: statistics.median(one[key] for one in found[1:]) / UPDATES for key in found[0]}
                for name, found in rounds.items()
            }
            sys.stdout.write(json.dumps(median) + "\n")


def update(learner: Learner[WorldModel], batch: Batch, processes: Processes) -> None:
    """One update with all that the training loop asks of it."""
    learner.update(batch).scalars()
    processes.greatest(0)


if __name__ == "__main__":
    sys.exit(main())
