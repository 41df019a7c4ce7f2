"""How time and memory of an update grow with its sizes, and the time of a batch with the rows that are stored.

    python scripts/growth.py            an update of the world model, each size varied alone; 10,000 to 10^7 rows
    python scripts/growth.py --write    the same, into docs/performance.md and docs/growth.png
    python scripts/growth.py --quick    the smallest values alone, in seconds

Time is processor time of one thread, everything in turns in one process, and a figure is the median of the turns: only
ratios within one run mean anything. Memory is counted, so it never varies: the bytes that an update saves for its
backward pass, parameters left out. The rows lie in temporary folders and fit in memory, so nothing waits for a disk.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from docs_blocks import DOCS, write_block
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from worldmodel import build, build_networks
from worldmodel.config_io import read_config
from worldmodel.data.random_batch import random_batch
from worldmodel.data.replay import Replay
from worldmodel.models.world_model import WorldModel
from worldmodel.report.vocabulary import OPTIMISED, RAW
from worldmodel.training.learner import Learner
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec

TURNS, DRAWS, EPISODE, PIECE = 5, 50, 200, 100_000  # rounds, batches of a round, rows of an episode and of a piece
BASE = {
    "replay.batch_size": 16, "replay.sequence_length": 32, "replay.burn_in": 0, "encoder.units": 128,
    "encoder.depth": 8, "decoder.units": 128, "decoder.depth": 8, "rssm.deter": 256, "rssm.hidden": 128,
    "rssm.latent": "categorical", "rssm.stoch": 16, "rssm.classes": 16,
}  # fmt: skip
# By name: what is set, as the table shows it and as a number, and the values; the base is among them but for images.
SIZES: dict[str, tuple[Callable[[int], dict[str, int]], str, Callable[[int], float], list[int]]] = {
    "batch": (lambda n: {"replay.batch_size": n}, "{n}", float, [4, 8, 16, 32, 64, 128]),
    "length": (lambda n: {"replay.sequence_length": n}, "{n}", float, [8, 16, 32, 64, 128, 256]),
    "deter": (lambda n: {"rssm.deter": n}, "{n}", float, [64, 128, 256, 512, 1024, 2048]),
    "latent width": (
        lambda n: {"rssm.stoch": n, "rssm.classes": n}, "{n} x {n} classes", lambda n: float(n * n), [4, 8, 16, 32, 64],
    ),
    "image side": (lambda n: {"image": n}, "{n} x {n} pixels", float, [16, 32, 64, 128]),
}  # fmt: skip
ROWS = [10**4, 10**5, 10**6, 10**7]
QUICK_ROWS = [10**3, 10**4]
CONTINUOUS = ActionSpec("continuous", 1)
NUMBERS = ObservationSpec("vector", (3,))


class Point(NamedTuple):
    """What one size costs."""

    shown: str
    x: float
    ms: float
    bytes: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put tables and figure into docs/")
    parser.add_argument("--quick", action="store_true", help="the smallest values alone")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--write: expected a full run, got --quick")
    torch.set_num_threads(1)
    series = updates(2 if options.quick else None)
    stored = batches(QUICK_ROWS if options.quick else ROWS)
    text = "\n\n".join([slopes_table(series, stored), points_table(series), rows_table(stored)])
    print(text)
    if options.write:
        write_block("performance.md", "growth", text)
        figure(series, stored).savefig(DOCS / "growth.png", dpi=100)
    return 0


def updates(smallest: int | None) -> dict[str, list[Point]]:
    """By size: what an update costs at each of its values, or at so many of the smallest."""
    runs: dict[tuple[str, int], Callable[[], Any]] = {}
    saved = {}
    for name, (settings, _, _, values) in SIZES.items():
        for n in values[:smallest]:
            learner, batch = job(settings(n))
            runs[name, n] = partial(learner.update, batch)
            saved[name, n] = saved_bytes(runs[name, n], learner.model)  # which warms it up
    times = in_turns(runs, TURNS)
    return {
        name: [Point(shown.format(n=n), number(n), times[name, n], saved[name, n]) for n in values[:smallest]]
        for name, (_, shown, number, values) in SIZES.items()
    }


def job(settings: Mapping[str, int]) -> tuple[Learner[WorldModel], Batch]:
    """A learner and random rows: the base but for these settings, `image` being the side of one beside the numbers."""
    settings = dict(settings)
    side = settings.pop("image", None)
    images = {} if side is None else {"image": ObservationSpec("image", (side, side, 3))}
    spec = EnvSpec({"obs": NUMBERS} | images, CONTINUOUS)
    config = read_config("pendulum_random", BASE | settings)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    learner = build.build_learner(config, build_networks.build_model(config, spec), generator)
    return learner, random_batch(spec, config.replay.batch_size, config.replay.sequence_length, generator)


def saved_bytes(run: Callable[[], Any], model: nn.Module) -> int:
    """The bytes that an update saves for its backward pass, each storage once, without those of parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # by address; they stay alive meanwhile, so that no address is used twice

    def save(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with saved_tensors_hooks(save, lambda x: x):
        run()
    return sum(storage.nbytes() for at, storage in kept.items() if at not in parameters)


def in_turns(runs: Mapping[Any, Callable[[], Any]], turns: int) -> dict[Any, float]:
    """Median processor time of each in milliseconds, by turns."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(turns):
        for key, run in runs.items():
            start = time.process_time()
            run()
            times[key].append(time.process_time() - start)
    return {key: 1e3 * statistics.median(each) for key, each in times.items()}


def batches(counts: Sequence[int]) -> list[Point]:
    """The time of a batch of 16 x 64 rows, by the rows that are stored, and the bytes of those on disk."""
    with ExitStack() as open_files:
        draws, sizes = {}, []
        for rows in counts:
            folder = Path(open_files.enter_context(tempfile.TemporaryDirectory())) / "rows"
            sizes.append(write_rows(folder, rows))
            replay = open_files.enter_context(Replay.open(folder, read_only=True))
            draw = partial(replay.sample, 16, 64, torch.Generator().manual_seed(0), burn_in=4)
            draws[rows] = partial(repeated, draw)
            draws[rows]()
        times = in_turns(draws, 3 * TURNS)
    return [Point(f"{rows:,}", rows, times[rows] / DRAWS, size) for rows, size in zip(counts, sizes, strict=True)]


def repeated(run: Callable[[], Any]) -> None:
    for _ in range(DRAWS):
        run()


def write_rows(folder: Path, rows: int) -> int:
    """Make a replay of random rows of three numbers, in episodes of 200: -> its bytes on disk.

    They are written as `Replay.append` would write them one by one, which takes minutes for 10^7.
    """
    with Replay(folder, EnvSpec({"obs": NUMBERS}, CONTINUOUS), capacity=rows, streams=1) as replay:
        dtype = replay.row_type
    covered, random = dtype.fields["number"][1], np.random.default_rng(0)  # type: ignore[index]
    path = folder / "stream-000.rows"
    with path.open("wb") as file:
        for start in range(0, rows, PIECE):
            i = np.arange(start, min(start + PIECE, rows))
            records = np.zeros(len(i), dtype)
            records["before"], records["number"], records["episode_step"] = i, i + 1, i % EPISODE
            records["is_first"], records["is_last"] = i % EPISODE == 0, i % EPISODE == EPISODE - 1
            records["obs:obs"] = random.standard_normal((len(i), 3))
            records["prev_action"] = random.uniform(-1, 1, (len(i), 1)) * ~records["is_first"][:, None]
            content, size = records.view(np.uint8).data, dtype.itemsize
            records["check"] = [zlib.crc32(content[at + covered : at + size]) for at in range(0, len(content), size)]
            file.write(content)
    return path.stat().st_size


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y over log x, by least squares: y grows as x to this power."""
    return statistics.linear_regression([math.log(a) for a in x], [math.log(b) for b in y]).slope


def slopes(points: Sequence[Point], value: Callable[[Point], float]) -> tuple[float, float]:
    """Over all points, and over the two largest."""
    x, y = [point.x for point in points], [value(point) for point in points]
    return slope(x, y), slope(x[-2:], y[-2:])


def slopes_table(series: Mapping[str, Sequence[Point]], stored: Sequence[Point]) -> str:
    """Markdown: with which power everything grows."""
    lines = [
        "| power of | from | to | time | its last two | memory | its last two |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, points in series.items():
        powers = (*slopes(points, lambda p: p.ms), *slopes(points, lambda p: p.bytes))
        cells = [name, points[0].shown, points[-1].shown, *(f"{power:.2f}" for power in powers)]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["rows stored, of a batch", stored[0].shown, stored[-1].shown]
    cells += [f"{power:.2f}" for power in slopes(stored, lambda p: p.ms)]
    return "\n".join([*lines, f"| {' | '.join(cells)} | | |"])


def points_table(series: Mapping[str, Sequence[Point]]) -> str:
    """Markdown: time and memory of an update at every size."""
    lines = ["| an update with | ms | saved for backward, MB |", "| --- | --- | --- |"]
    for name, points in series.items():
        lines += [f"| {name} {p.shown} | {p.ms:.1f} | {p.bytes / 1e6:.1f} |" for p in points]
    return "\n".join(lines)


def rows_table(stored: Sequence[Point]) -> str:
    """Markdown: time of a batch by the rows that are stored."""
    lines = ["| rows stored | a batch of 16 x 64, ms | on disk, MB |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {p.shown} | {p.ms:.2f} | {p.bytes / 1e6:.1f} |" for p in stored)])


def figure(series: Mapping[str, Sequence[Point]], stored: Sequence[Point]) -> Figure:
    """Time and memory over each size on logarithmic axes, each beside the power of the size that fits it best."""
    drawing = Figure(figsize=(12, 6.8), layout="constrained")
    axes = list(drawing.subplots(2, 3).flat)
    for unused in axes[len(series) : -1]:
        unused.remove()
    axes = [*axes[: len(series)], axes[-1]]
    for axis, (name, points) in zip(axes, series.items(), strict=False):
        draw(axis, points, "time, ms", RAW, lambda p: p.ms)
        draw(axis, points, "memory, MB", OPTIMISED, lambda p: p.bytes / 1e6)
        axis.set(title=f"an update, by {name}", xlabel=name)
    draw(axes[-1], stored, "time, ms", RAW, lambda p: p.ms)
    axes[-1].set(title="a batch of 16 x 64, by rows stored", xlabel="rows", ylim=(0.1, 10))
    for axis, points in zip(axes, [*series.values(), stored], strict=True):
        axis.set(xscale="log", yscale="log")
        axis.set_xticks([p.x for p in points], [f"{p.x:,.0f}" for p in points], fontsize=9)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.legend(frameon=False, fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return drawing


def draw(axis: Axes, points: Sequence[Point], name: str, colour: str, value: Callable[[Point], float]) -> None:
    """Points, and the line through them whose slope the legend says."""
    x, y = np.array([point.x for point in points]), np.array([value(point) for point in points])
    power = slope(x.tolist(), y.tolist())
    axis.plot(x, y, "o", color=colour, markersize=4, label=f"{name}: slope {power:.2f}")
    middle = np.exp(np.log(y).mean() - power * np.log(x).mean())
    axis.plot(x, middle * x**power, "--", color=colour, linewidth=1)


if __name__ == "__main__":
    sys.exit(main())
