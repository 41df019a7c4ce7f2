"""What the KL and the latent head cost: counts that are the same on every machine, and times of this one.

    python scripts/benchmark_kl.py          with a GPU: times; without: counts and times of the CPU
    python scripts/benchmark_kl.py --write  without a GPU: the same, into docs/kernels.md

Without a GPU the kernels are interpreted, which counts right and times nothing, so they are not timed.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar
from unittest.mock import patch

import torch

# Triton looks at it when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from docs_blocks import write_block
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldmodel.kernels import kl_reference, latent, latent_triton
from worldmodel.kernels.kl import balanced_categorical_kl, balanced_gaussian_kl
from worldmodel.models import latents
from worldmodel.models.latents import CategoricalFamily, GaussianFamily, LatentFamily
from worldmodel.models.rssm import RSSM

MIN_STD, UNIMIX, DYN, REP, FREE = 0.1, 0.01, 0.5, 0.1, 1.0
BATCH, TIME = 16, 64
TIMED_ON_CPU = {"categorical [64, 16, 32, 32]": (64, 16, 32, 32), "Gaussian [64, 16, 1024]": (64, 16, 1024)}
TIMED_ON_GPU = {
    **{f"Gaussian [{B}, 64, {S}]": (B, 64, S) for B, S in ((16, 32), (16, 256), (16, 1024), (64, 1024))},
    **{f"categorical [{B}, 64, {S}, {K}]": (B, 64, S, K) for B, S, K in ((16, 32, 32), (16, 48, 10), (64, 32, 64))},
}


class Operations(TorchDispatchMode):
    """Counts the operations that reach a device, views left out, and the bytes that they read and write.

    The launches of the latent head, which are no operations of torch's, are counted by the latest one made.
    """

    latest: ClassVar["Operations"]

    def __init__(self) -> None:
        super().__init__()
        self.count, self.bytes = 0, 0
        Operations.latest = self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        nothing_runs = func.is_view or func in (torch.ops.aten.detach.default, torch.ops.aten.new_empty.default)
        if not nothing_runs and any(isinstance(x, Tensor) for x in tree_leaves(out)):
            self.count += 1
            self.bytes += sum(map(moved, tree_leaves((args, kwargs, out))))
        return out


def moved(x: object) -> int:
    """Bytes of a tensor; what is expanded is read once."""
    if not isinstance(x, Tensor):
        return 0
    return x.element_size() * torch.Size(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride).numel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put counts and CPU times into docs/kernels.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        print(gpu_times())
        return 0
    text = "\n\n".join([counts_of_kl(), counts_of_a_step(), cpu_times()])
    print(text)
    if options.write:
        write_block("kernels.md", "counts", text)
    return 0


def inputs(shape: tuple[int, ...], device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Heads of posterior and prior: [B, T, 2S] or [B, T, S, K]."""
    generator = torch.Generator(device).manual_seed(0)
    shape = shape if len(shape) == 4 else (*shape[:-1], 2 * shape[-1])
    q, p = (torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_() for _ in range(2))
    return q, p


def by_distributions(q: Tensor, p: Tensor) -> Tensor:
    """The balanced KL as it is usually written: two torch.distributions a side, one of each detached."""

    def distribution(x: Tensor) -> torch.distributions.Distribution:
        if x.ndim == 4:
            probs = (1 - UNIMIX) * x.softmax(-1) + UNIMIX / x.shape[-1]
            return Independent(OneHotCategorical(probs=probs), 1)
        mean, raw_std = x.chunk(2, -1)
        return Independent(Normal(mean, MIN_STD + softplus(raw_std)), 1)

    to_prior = kl_divergence(distribution(q.detach()), distribution(p)).clamp(min=FREE)
    return DYN * to_prior + REP * kl_divergence(distribution(q), distribution(p.detach())).clamp(min=FREE)


def ours(q: Tensor, p: Tensor, backend: str) -> Tensor:
    """The same with every group's KL and both entropies beside it; they are not returned, but worked out."""
    settings = {"dyn": DYN, "rep": REP, "free_nats": FREE, "backend": backend}
    if q.ndim == 4:
        return balanced_categorical_kl(q, p, unimix=UNIMIX, **settings).balanced
    return balanced_gaussian_kl(q, p, min_std=MIN_STD, **settings).balanced


def formula_alone(q: Tensor, p: Tensor) -> Tensor:
    """The reference's balanced value and nothing beside it, so that a compiler has nothing to leave out."""
    if q.ndim == 4:
        formula = partial(kl_reference.categorical_kl, unimix=UNIMIX)
    else:
        formula = partial(kl_reference.gaussian_kl, min_std=MIN_STD)
    return kl_reference.balance(formula, q, p, DYN, REP, FREE)


FORMULATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "two `torch.distributions`": by_distributions,
    "reference, balanced value alone": formula_alone,
    "reference, with all that comes beside it": partial(ours, backend="reference"),
    "without kernels, with all that comes beside it": partial(ours, backend="auto"),
    "kernels": partial(ours, backend="triton"),
}


def counts_of_kl() -> str:
    """Markdown: operations, bytes moved and bytes kept of the balanced KL and both its gradients."""
    lines = [
        "| balanced KL, float32 | operations forward | backward | bytes moved per number of a head | kept, in heads |",
        "| --- | --- | --- | --- | --- |",
    ]
    for family, shape in (("Gaussian", (64, 16, 32)), ("categorical", (64, 16, 32, 32))):
        for name, formula in FORMULATIONS.items():
            q, p = inputs(shape)
            forward, backward, kept = measured(partial(formula, q, p), (q, p))
            traffic = (forward.bytes + backward.bytes) / q.numel()
            counts = f"{forward.count} | {backward.count} | {traffic:.0f} | {kept / (4 * q.numel()):.1f}"
            lines.append(f"| {family}, {name} | {counts} |")
    return "\n".join(lines)


def counts_of_a_step() -> str:
    """Markdown: operations of the latent head, and of one whole step of the recurrent loop."""
    lines = [
        "| at every step of the loop | operations forward | backward |",
        "| --- | --- | --- |",
    ]
    families = {"Gaussian": GaussianFamily(32, MIN_STD), "categorical": CategoricalFamily(32, 32, UNIMIX)}
    for family_name, family in families.items():
        drawn_by = ("reference", "kernels") if family_name == "categorical" else ("reference",)
        for scope, count in (("latent head", counts_of_head), ("whole step", counts_of_filter)):
            for backend in drawn_by:
                fused = backend == "kernels"
                with (
                    patch.object(latents, "categorical_head_on_triton", lambda *_, fused=fused: fused),
                    patch.object(latent, "categorical_head_on_triton", lambda *_, fused=fused: fused),
                    patch.object(latent_triton, "launch", count_launch),
                ):
                    forward, backward = count(family)
                lines.append(f"| {scope}, {family_name}, {backend} | {forward.count} | {backward.count} |")
    return "\n".join(lines)


def count_launch(*_: object) -> None:
    Operations.latest.count += 1


def counts_of_head(family: LatentFamily) -> tuple[Operations, Operations]:
    """From what a head puts out to a sample."""
    raw = torch.randn(BATCH, family.parameters).requires_grad_()
    noise = family.noise(BATCH, like=raw)
    return measured(lambda: family.distribution(raw).rsample(noise), (raw,))[:2]


def counts_of_filter(family: LatentFamily) -> tuple[Operations, Operations]:
    """h_t, the posterior and a sample, in DreamerV3's cell, with the gradients of states and weights."""
    model = RSSM(embed=128, action=4, deter=128, hidden=128, latent=family)
    wide = (torch.randn(BATCH, n).requires_grad_() for n in (128, family.width, 128, 128))
    deter, stoch, action_in, embed_in = wide
    keep, noise = torch.ones(BATCH, 1), family.noise(BATCH, like=deter)
    step = partial(model._filter, deter, stoch, action_in, embed_in, keep, noise)
    used = [p for name, p in model.named_parameters() if name.startswith(("cell", "posterior_deter", "posterior_rest"))]
    return measured(lambda: torch.cat(step()[:2], -1), (deter, stoch, action_in, embed_in, *used))[:2]


def measured(formula: Callable[[], Tensor], sources: tuple[Tensor, ...]) -> tuple[Operations, Operations, int]:
    """Operations forward and backward, and the bytes of everything that is kept in between, each storage once."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), Operations() as forward:
        value = formula()
    cotangent = torch.ones_like(value)
    with Operations() as backward:
        torch.autograd.grad(value, sources, cotangent)
    return forward, backward, sum(kept.values())


def cpu_times() -> str:
    """Markdown: median processor time, one thread, of the reference's balanced value, eager and compiled."""
    lines = [
        "| reference on a CPU, one thread, forward and backward | eager, ms | `torch.compile`, ms | of eager |",
        "| --- | --- | --- | --- |",
    ]
    for name, shape in TIMED_ON_CPU.items():
        q, p = inputs(shape)
        compiled = torch.compile(formula_alone, fullgraph=True, dynamic=False)
        for formula in (formula_alone, compiled):
            gradients(formula, q, p)
        runs = [(processor_time(formula_alone, q, p), processor_time(compiled, q, p)) for _ in range(31)]
        first, second = (1e3 * statistics.median(column) for column in zip(*runs, strict=True))
        lines.append(f"| {name} | {first:.1f} | {second:.1f} | {second / first:.2f} |")
    return "\n".join(lines)


def gradients(formula: Callable[[Tensor, Tensor], Tensor], q: Tensor, p: Tensor) -> None:
    torch.autograd.grad(formula(q, p).mean(), (q, p))


def processor_time(formula: Callable[[Tensor, Tensor], Tensor], q: Tensor, p: Tensor) -> float:
    """Seconds of this process, whatever else the machine does."""
    start = time.process_time()
    gradients(formula, q, p)
    return time.process_time() - start


def gpu_times() -> str:
    """Markdown: milliseconds forward and backward by formulation, and the share of the bandwidth of a copy."""
    from triton.testing import do_bench

    timed = partial(do_bench, return_mode="median")
    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / timed(partial(target.copy_, source))  # bytes a millisecond
    lines = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a copy moves {bandwidth / 1e6:.0f} GB/s.",
        "",
        "| balanced KL, forward and backward | dtype | reference, ms | compiled | kernels | of a copy's bandwidth |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, shape in TIMED_ON_GPU.items():
        for dtype in (torch.float32, torch.bfloat16):
            q, p = inputs(shape, "cuda", dtype)
            reference, kernels = formula_alone, FORMULATIONS["kernels"]
            torch.compiler.reset()  # or the ninth size is one too many for one function, and refused
            compiled = torch.compile(reference, fullgraph=True, dynamic=False)
            times = [timed(partial(gradients, formula, q, p)) for formula in (reference, compiled, kernels)]
            forward, backward, _ = measured(partial(kernels, q, p), (q, p))
            share = (forward.bytes + backward.bytes) / times[2] / bandwidth
            cells = " | ".join(f"{milliseconds:.3f}" for milliseconds in times)
            lines.append(f"| {name} | {str(dtype).removeprefix('torch.')} | {cells} | {share:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
