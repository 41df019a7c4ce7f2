"""What calling a kernel costs the processor: Triton's own way to a launch, over a driver that launches nothing.

    python scripts/benchmark_launches.py [--write]    prints a table; --write puts it into docs/kernels.md

It needs no GPU. It times Python, dispatch and autograd on tensors of a few numbers, beside the formulas on the CPU.
A real launch costs a few microseconds more, of a kernel as of each operation of a formula. TRITON_INTERPRET must not be
set.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="launches-")

import torch
from docs_blocks import write_block
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from worldmodel.kernels import kl, kl_triton, latent_reference, latent_triton

MIN_STD, UNIMIX, DYN, REP, FREE = 0.1, 0.01, 0.5, 0.1, 1.0
CALLS, RUNS = 200, 15
BATCH, GROUPS, CLASSES = 2, 4, 4  # so few that arithmetic costs nothing


def pretended_driver() -> Any:
    """A driver of an sm_90 that loads every kernel and launches none."""
    limits = {"max_shared_mem": 232448, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32}
    return SimpleNamespace(
        utils=SimpleNamespace(
            load_binary=lambda *_: (1, 2, 32, 0, 1024), get_device_properties=lambda device: limits
        ),
        launcher_cls=lambda source, metadata: lambda *_, **__: None,
        get_current_device=lambda: 0,
        get_current_stream=lambda device=None: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/kernels.md")
    options = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET: expected it unset: interpreted kernels are never launched")
    torch.set_num_threads(1)
    driver.set_active(pretended_driver())
    text = table()
    print(text)
    if options.write:
        write_block("kernels.md", "launches", text)
    return 0


def subjects() -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]]:
    """By name: the formula, the kernels, and what both take; gradients are those of the first tensors."""
    raw, other = (torch.randn(BATCH, 2 * GROUPS, requires_grad=True) for _ in range(2))
    logits, others = (torch.randn(BATCH, GROUPS, CLASSES, requires_grad=True) for _ in range(2))
    normal, uniform = torch.randn(BATCH, GROUPS), torch.rand(BATCH, GROUPS, CLASSES)
    balance = {"dyn": DYN, "rep": REP, "free_nats": FREE}
    gaussian = partial(kl.balanced_gaussian_kl, min_std=MIN_STD, **balance)
    categorical = partial(kl.balanced_categorical_kl, unimix=UNIMIX, **balance)
    return {
        "Gaussian head": (
            lambda x: latent_reference.gaussian_head(x, normal, MIN_STD),
            lambda x: latent_triton.gaussian_head(x, normal, MIN_STD),
            [raw],
        ),
        "categorical head": (
            lambda x: latent_reference.categorical_head(x, uniform, UNIMIX),
            lambda x: latent_triton.categorical_head(x, uniform, UNIMIX),
            [logits],
        ),
        "Gaussian KL": (
            lambda q, p: gaussian(q, p).balanced,
            lambda q, p: kl_triton.gaussian_kl(q, p, MIN_STD, DYN, REP, FREE)[3],
            [raw, other],
        ),
        "categorical KL": (
            lambda q, p: categorical(q, p).balanced,
            lambda q, p: kl_triton.categorical_kl(q, p, UNIMIX, DYN, REP, FREE)[3],
            [logits, others],
        ),
    }


def table() -> str:
    """Markdown: microseconds of processor time of a call, with gradients and without."""
    lines = [
        "| microseconds of a call | formula, with its gradient | kernels | formula, no gradient | kernels |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (formula, kernels, sources) in subjects().items():
        times = [measured(formula, kernels, sources, call) for call in (with_gradients, without)]
        lines.append(f"| {name} | " + " | ".join(f"{t:.0f}" for pair in times for t in pair) + " |")
    return "\n".join(lines)


def measured(
    formula: Callable[..., Tensor], kernels: Callable[..., Tensor], sources: list[Tensor], call: Callable[..., None]
) -> list[float]:
    """Medians of both, taken by turns."""
    runs: list[list[float]] = [[], []]
    for turn in range(RUNS + 1):
        for times, function in zip(runs, (formula, kernels), strict=True):
            start = time.process_time()
            for _ in range(CALLS):
                call(function, sources)
            if turn:  # the first compiles
                times.append(1e6 * (time.process_time() - start) / CALLS)
    return [statistics.median(times) for times in runs]


def with_gradients(function: Callable[..., Tensor], sources: list[Tensor]) -> None:
    value = function(*sources)
    torch.autograd.grad(value, sources, torch.ones_like(value))


@torch.no_grad()
def without(function: Callable[..., Tensor], sources: list[Tensor]) -> None:
    function(*sources)


if __name__ == "__main__":
    sys.exit(main())
