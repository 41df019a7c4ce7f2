"""What several processes add to an update: bytes and sums from the parameters, and processor time on this machine.

    python scripts/benchmark_processes.py            one process and two, by turns
    python scripts/benchmark_processes.py --write    the same, into docs/scaling.md

Updates of the world model on random rows, 16 x 64 in all, on the CPU through gloo. A figure is the median of the
rounds; processor time is that of all processes together, since what else runs changes the clock's time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from docs_blocks import write_block
from torch import Tensor

from worldmodel import build, build_acting
from worldmodel.config import Config
from worldmodel.config_io import read_config
from worldmodel.data.random_batch import random_batch
from worldmodel.system.launched import launched
from worldmodel.training.processes import Group, Processes, joined
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec

SPEC = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 1))  # Pendulum's
SIZES = ("small", "medium", "large")
B, T, WARM, UPDATES, ROUNDS = 16, 64, 2, 8, 3
MEASURED = ("small",)


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
            model = build.build_model(config, SPEC)
        agent = build_acting.build_agent(config, model)
        assert agent is not None
        world, acting = trained(model), trained(agent)
        lines.append(f"| `sizes/{size}` | {world:,} | {acting:,} | {4 * (world + acting):,} |")
    lines += ["", "| size | processes | sums an update | bytes summed | processor ms | of one process's | clock, ms |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for size in MEASURED:
        rounds = [[launch(size, world) for world in (1, 2)] for _ in range(ROUNDS)]
        alone = statistics.median(one["processor"] for one, _ in rounds)
        for index, world in enumerate((1, 2)):
            found = [each[index] for each in rounds]
            processor, clock = (statistics.median(one[name] for one in found) for name in ("processor", "clock"))
            cells = [f"`sizes/{size}`", f"{world}", f"{found[0]['sums']:g}", f"{found[0]['bytes']:,.0f}"]
            cells += [f"{processor:.1f}", f"{processor / alone:.2f}", f"{clock:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def settings(size: str) -> Config:
    """The default job at a size."""
    return read_config(("pendulum", f"sizes/{size}"), {"replay.batch_size": B, "replay.sequence_length": T})


def trained(module: torch.nn.Module) -> int:
    """How many numbers of a module have gradients."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def launch(size: str, world: int) -> dict[str, float]:
    """Measure in so many processes: -> milliseconds, sums and bytes of an update."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, __file__, "--measure", size], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(size: str) -> None:
    """Take updates on this process's share of a batch; the first process says what they took."""
    torch.set_num_threads(1)
    config = settings(size)
    with joined(torch.device("cpu")) as processes:
        counted = Counting(processes.group) if processes.group is not None else None
        shared = Processes(processes.rank, processes.world, counted, processes.meetings, processes.members)
        generator = torch.Generator().manual_seed(launched().rank)
        learner = build.build_learner(config, build.build_model(config, SPEC), generator, shared)
        batch = random_batch(SPEC, shared.share_of(B, "batch"), T, generator)
        for _ in range(WARM):
            learner.update(batch).scalars()
        processes.greatest(0)
        before = (counted.sums, counted.bytes) if counted is not None else (0, 0)
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(UPDATES):
            learner.update(batch).scalars()
            processes.greatest(0)
        mine = time.process_time() - processor
        took = time.perf_counter() - clock
        after = (counted.sums, counted.bytes) if counted is not None else (0, 0)
        all_of_them = sum(float(text) for text in processes.exchange(repr(mine).encode()))
        if processes.writes:
            each = {"processor": 1e3 * all_of_them / UPDATES, "clock": 1e3 * took / UPDATES}
            each |= {"sums": (after[0] - before[0]) / UPDATES, "bytes": (after[1] - before[1]) / UPDATES}
            sys.stdout.write(json.dumps(each) + "\n")


if __name__ == "__main__":
    sys.exit(main())
