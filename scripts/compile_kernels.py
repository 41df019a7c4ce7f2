"""Compile every Triton kernel ahead of time, for GPUs that need not be there: registers, spills, occupancy, loads.

    python scripts/compile_kernels.py                   everything, minutes; rewrites the table of docs/kernels.md
    python scripts/compile_kernels.py --json FILE [--targets sm_90] [--dtypes float16] [--widths 256 32x32]

It compiles what training would launch, in float32 and, as under autocast, in bfloat16 (float16 on demand): the kernels
are called with tensors of these widths, and each launch is recorded with its arguments, constants and tile instead of
being executed. Exits with 1 if a kernel spills, fills less than half of a GPU's threads, or has narrower loads than its
width allows. Needs triton but no GPU; TRITON_INTERPRET must not be set.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mode
from typing import Any
from unittest.mock import patch

# Triton reads both when it is imported. A cache could return the output of an older compiler.
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["TRITON_ALWAYS_COMPILE"] = "1"

import torch
import triton
from docs_blocks import write_block
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from worldmodel.kernels import kl_triton, latent_triton, launch_triton
from worldmodel.models import scan as scan_module
from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worldmodel.models.rssm import RSSM

TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 89, 90, 100)} | {"gfx942": GPUTarget("hip", "gfx942", 64)}
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
WIDTHS = ("32", "256", "1024", "32x32", "48x10", "32x64", "scan")  # S of Gaussians, S x K of categoricals
BATCH, TIME = 64, 16
DETER, BLOCKS, HIDDEN = 512, 8, 256  # of the scan
LEAST_OCCUPANCY = 0.5
LEAST_OCCUPANCY_OF_PRODUCTS = 0.25  # a step has fewer programs than a GPU has multiprocessors
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1"}


@dataclass(frozen=True)
class Launch:
    """A recorded launch: the kernel, its arguments by name, and the warps of a program."""

    kernel: Any
    arguments: dict[str, Any]
    num_warps: int


@dataclass(frozen=True)
class Compiled:
    """The figures of one kernel on one GPU."""

    kernel: str
    width: str
    dtype: str
    target: str
    tile: str
    num_warps: int
    registers: int  # of a thread
    spills: int  # loads and stores of registers to memory, plus bytes of stack
    occupancy: float  # share of a multiprocessor's threads that have registers
    load_bits: int  # of the narrowest load of the inputs
    possible_bits: int  # of a load that the width allows

    @property
    def sound(self) -> bool:
        """Whether it meets the requirements."""
        least = LEAST_OCCUPANCY_OF_PRODUCTS if self.width == "scan" else LEAST_OCCUPANCY
        return self.spills == 0 and self.occupancy >= least and self.load_bits >= self.possible_bits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--json", type=Path, help="write the figures there, and leave the documentation alone")
    options = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET: expected it unset, since nothing compiles while kernels are interpreted")
    rows = []
    for width in options.widths:
        for dtype in options.dtypes:
            by_target = [launches(width, DTYPES[dtype], TARGETS[target].warp_size) for target in options.targets]
            for one in zip(*by_target, strict=True):  # the same launch on every target
                rows += [compiled(x, width, dtype, target) for x, target in zip(one, options.targets, strict=True)]
    if options.json:
        figures = {"triton": triton.__version__, "kernels": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1))
    else:
        write_block("kernels.md", "compiled", table(rows, options.targets))
    unsound = [row for row in rows if not row.sound]
    for row in unsound:
        print("unsound:", row, file=sys.stderr)
    print(f"triton {triton.__version__}: {len(rows)} kernels compiled, {len(unsound)} unsound", file=sys.stderr)
    return 1 if unsound else 0


def launches(width: str, dtype: torch.dtype, lanes: int) -> list[Launch]:
    """The launches, forward and backward, for latents of this width on a GPU whose warps have this many lanes."""
    recorded: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, num_warps: int, **kwargs: Any) -> None:
        kwargs.pop("enable_fp_fusion")
        recorded.append(Launch(kernel, dict(zip(kernel.arg_names, args, strict=False)) | kwargs, num_warps))

    with patch.object(JITFunction, "run", record), patch.object(launch_triton, "lanes", lambda: lanes):
        for operators in [scan_step] if width == "scan" else OPERATORS:
            operators(width, dtype)
    return list({x.kernel: x for x in recorded}.values()) if width == "scan" else recorded  # the last of each


def latent_head(width: str, dtype: torch.dtype) -> None:
    """One step of the recurrent loop, whose noise is a slice of the noise for all steps."""
    S, *K = map(int, width.split("x"))
    noise = torch.rand(BATCH, TIME, S, *K)[:, 0]
    if K:
        logits = torch.zeros(BATCH, S, *K, dtype=dtype, requires_grad=True)
        sample = latent_triton.categorical_head(logits, noise, 0.01)
    else:
        raw = torch.zeros(BATCH, 2 * S, dtype=dtype, requires_grad=True)
        sample = latent_triton.gaussian_head(raw, noise, 0.1)
    sample.backward(torch.ones_like(sample))  # a sum's gradient is one expanded number, which needs no wide load


def kl(width: str, dtype: torch.dtype) -> None:
    """The KL of a batch, twice: with a gradient of the balanced value only, as in training, and with all gradients."""
    S, *K = map(int, width.split("x"))
    shape = (BATCH, TIME, S, *K) if K else (BATCH, TIME, 2 * S)
    posterior, prior = (torch.zeros(shape, dtype=dtype, requires_grad=True) for _ in range(2))
    operator, setting = (kl_triton.categorical_kl, 0.01) if K else (kl_triton.gaussian_kl, 0.1)
    value, q_entropy, p_entropy, balanced, _ = operator(posterior, prior, setting, 0.5, 0.1, 1.0)
    balanced.sum().backward(retain_graph=True)
    torch.autograd.backward([value, q_entropy, p_entropy, balanced], [torch.ones_like(value)] * 3 + [balanced])


def scan_step(width: str, dtype: torch.dtype) -> None:
    """Two steps of a scan, so that the first has a step after it, of both families and of one and two layers."""
    settings = {"embed": 4, "action": 2, "deter": DETER, "hidden": HIDDEN, "blocks": BLOCKS}
    for latent, layers in ((GaussianFamily(32, 0.1), 1), (CategoricalFamily(32, 32, 0.01), 2)):
        model = RSSM(**settings, latent=latent, posterior_layers=layers)
        rows = torch.zeros(16, 2, 4), torch.zeros(16, 2, 2), torch.zeros(16, 2, dtype=torch.bool), model.noise(16, 2)
        reduced = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        with patch.object(scan_module, "gru_on_triton", lambda *_: True), reduced:
            states = model.observe(*rows).states
        torch.autograd.backward([*states], [torch.ones_like(x) for x in states])


OPERATORS: list[Callable[[str, torch.dtype], None]] = [latent_head, kl]


def compiled(launch: Launch, width: str, dtype: str, target: str) -> Compiled:
    """Compile a launch for a target and read the figures off the assembled code."""
    binary = compile_ahead(launch, TARGETS[target])
    amd = TARGETS[target].backend == "hip"
    registers, spills, loads = amd_figures(binary) if amd else nvidia_figures(binary)
    occupancy = (amd_occupancy if amd else nvidia_occupancy)(registers, launch.num_warps, target)
    possible = possible_bits(launch, width, DTYPES[dtype])
    tile = "x".join(str(launch.arguments[name]) for name in TILE_NAMES if name in launch.arguments)
    return Compiled(
        kernel=launch.kernel.__name__,
        width=width,
        dtype=dtype,
        target=target,
        tile=tile,
        num_warps=launch.num_warps,
        registers=registers,
        spills=spills,
        occupancy=occupancy,
        load_bits=mode(loads) if width == "scan" else input_bits(loads, possible, narrow_reads(launch)),
        possible_bits=possible,
    )


TILE_NAMES = ("ROWS", "COLUMNS", "GROUPS", "CLASSES", "INNER")


def compile_ahead(launch: Launch, target: GPUTarget) -> Any:
    """Compile as Triton would at this launch, with the same types, constants and known divisibility by 16."""
    constant = {p.name for p in launch.kernel.params if p.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if name in constant or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = type_of(value)
        known = []
        if isinstance(value, torch.Tensor):
            known = [["tt.divisibility", 16]] if value.data_ptr() % 16 == 0 else []
            known += [["tt.pointer_range", 32]] if target.backend == "hip" else []  # less than 2 GB
        elif isinstance(value, int) and value % 16 == 0:
            known = [["tt.divisibility", 16]]
        if known:
            attributes[(i,)] = known
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options={"num_warps": launch.num_warps, "enable_fp_fusion": True})


def type_of(value: Any) -> str:
    """Triton's name for the type of an argument."""
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def nvidia_figures(binary: Any) -> tuple[int, int, list[int]]:
    """Registers, spills, and bits of each load from global memory, from NVIDIA's disassembly."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = output(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        code = output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code)) + stack
    return (
        registers,
        spills,
        list(loads(re.findall(r"\bLDG(?:STS)?\.([\w.]+)", code), {"U8": 8, "U16": 16, "64": 64, "128": 128})),
    )


def amd_figures(binary: Any) -> tuple[int, int, list[int]]:
    """The same figures from AMD's assembly."""
    code = binary.asm["amdgcn"]
    registers, spills = (int(re.search(rf"\.{name}:\s+(\d+)", code)[1]) for name in ("vgpr_count", "vgpr_spill_count"))
    names = re.findall(r"\b(?:global|buffer)_load_(\w+)", code)
    known = {"ubyte": 8, "ushort": 16, "short": 16, "dwordx2": 64, "dwordx4": 128}
    return registers, spills, list(loads((name.replace("_", ".") for name in names), known))


def loads(names: Any, known: dict[str, int]) -> Iterator[int]:
    """The bits of each load by the parts of the instruction's name; 32 if it names no width."""
    for name in names:
        yield next((known[part] for part in name.split(".") if part in known), 32)


def nvidia_occupancy(registers: int, num_warps: int, target: str) -> float:
    """Occupancy if a multiprocessor has 65,536 registers, gives warps units of 256, and runs whole programs."""
    most = 48 if target == "sm_89" else 64
    warps = 65536 // (-(-registers * 32 // 256) * 256)
    return min(warps // num_warps * num_warps, most) / most


def amd_occupancy(registers: int, num_warps: int, target: str) -> float:
    """Occupancy if each of four SIMDs has 512 registers a lane, for at most 8 wavefronts, in units of 8."""
    waves = min(512 // max(-(-registers // 8) * 8, 8), 8)
    return min(4 * waves // num_warps * num_warps, 32) / 32


def narrow_reads(launch: Launch) -> int:
    """How many loads may be narrow: up to two for each cotangent of a sum, which has one number a step or group."""
    if "backward" not in launch.kernel.__name__:
        return 0
    tensors = [x for x in launch.arguments.values() if isinstance(x, torch.Tensor)]
    return 2 * sum(x.numel() < max(y.numel() for y in tensors) // 2 for x in tensors)


def input_bits(loads: list[int], possible: int, narrow: int) -> int:
    """The narrowest load of an input, not counting up to `narrow` loads of narrow tensors."""
    wide = [bits for bits in loads if bits >= possible]
    return min(wide) if wide and len(loads) - len(wide) <= narrow else min(loads)


def possible_bits(launch: Launch, width: str, dtype: torch.dtype) -> int:
    """The widest load, up to 128 bits, whose size divides that of the shortest row that a program reads."""
    if (
        width == "scan" or launch.kernel.__name__ == "gaussian_kl_backward"
    ):  # four numbers for a thread: more would run out of registers
        return 32 * dtype.itemsize
    return 8 * math.gcd(int(width.split("x")[-1]) * dtype.itemsize, 16)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table(rows: list[Compiled], targets: list[str]) -> str:
    """Markdown: a line for each kernel, width and dtype; a column for each target."""
    lines = [
        f"Triton {triton.__version__}; registers a thread and occupancy (the share of a GPU's threads that registers"
        " leave room for). No kernel here ran on a GPU.",
        "",
        f"| kernel | width | dtype | tile, warps | load | {' | '.join(targets)} |",
        f"| --- | --- | --- | --- | --- |{' --- |' * len(targets)}",
    ]
    lines[0] += f" {sum(row.spills > 0 for row in rows)} of {len(rows)} spill."
    for start in range(0, len(rows), len(targets)):
        group = rows[start : start + len(targets)]
        first = group[0]
        cells = [f"{row.registers}, {row.occupancy:.0%}{' SPILLS' if row.spills else ''}" for row in group]
        bits = "/".join(str(bits) for bits in sorted({row.load_bits for row in group}))
        tile = f"{first.tile}, {first.num_warps}"
        name = f"`{first.kernel}`"
        lines.append(f"| {name} | {first.width} | {first.dtype} | {tile} | {bits} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
