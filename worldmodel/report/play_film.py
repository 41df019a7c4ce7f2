"""An episode as an animation: the environment's frame beside what the model made of it, and the KL of every step."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from worldmodel.evaluation.watched import Seen, Watched
from worldmodel.report.animation import DPI, MILLISECONDS, PAUSE, Chart, at_step, bare, drawn, write, write_gif
from worldmodel.report.films import as_rgb
from worldmodel.report.vocabulary import OPTIMISED, RAW, TRUTH
from worldmodel.system.names import label

TRACES = 4  # variables of a vector that are drawn, at most
FRAMES = 240  # of an episode, at most; of longer ones every second, third, ... step is shown
MARGIN, SUBTITLE = 18, 36  # pixels from the left and from the top, of the line under the title
RECONSTRUCTION, PREDICTION = "reconstruction", "one step ahead"


def play_gif(watched: Sequence[Watched], titles: Sequence[str]) -> bytes:
    """Episodes one after the other, as an animated GIF.

    Args:
        watched: what was seen of each.
        titles: a line each.
    """
    frames: list[Image.Image] = []
    shown: list[int] = []
    for one, title in zip(watched, titles, strict=True):
        new = list(episode_frames(one, title))
        frames += new
        shown += [MILLISECONDS] * (len(new) - 1) + [PAUSE]
    return write_gif(frames, shown)


def episode_frames(watched: Watched, title: str) -> Iterator[Image.Image]:
    """The frames of one episode."""
    image = next((name for name, seen in watched.leaves.items() if seen.truth.ndim == 4), None)
    chart = _image_chart(watched, title, image) if image else _trace_chart(watched, title)
    T, earned = len(watched.frames), watched.reward.cumsum()
    for t in sorted({*range(0, T, -(-T // FRAMES)), T - 1}):
        pictures = [watched.frames[t]]
        if image is not None:
            seen = watched.leaves[image]
            pictures += [as_rgb(seen.reconstruction[t]), as_rgb(seen.prediction[t])]
        page, _ = at_step(chart, pictures, t / max(1, T - 1))
        write(page, MARGIN, SUBTITLE, f"step {t}    return so far {earned[t]:.1f}")
        yield page


def _trace_chart(watched: Watched, title: str) -> Chart:
    """The environment's frame on the left, traces of the observation on the right, the KL below."""
    traces = list(_traces(watched.leaves))[:TRACES]
    rows = max(1, len(traces))
    figure = Figure(figsize=(9.0, 5.2), dpi=DPI)
    grid = figure.add_gridspec(
        rows + 1,
        2,
        width_ratios=(1, 1.15),
        height_ratios=[1] * rows + [0.42 * rows],
        left=0.02,
        right=0.985,
        top=0.88,
        bottom=0.09,
        wspace=0.16,
        hspace=0.28,
    )
    picture = figure.add_subplot(grid[:rows, 0])
    axes = [figure.add_subplot(grid[i, 1]) for i in range(rows)]
    for axis, (name, truth, reconstruction, prediction, band) in zip(axes, traces, strict=False):
        steps = np.arange(len(truth))
        if band is not None:
            axis.fill_between(steps, *band, color=OPTIMISED, alpha=0.22, lw=0)
        axis.plot(steps, truth, color=TRUTH, lw=1.6, label="observed")
        axis.plot(steps, prediction, color=OPTIMISED, lw=1.1, label=PREDICTION)
        axis.plot(steps, reconstruction, color=RAW, lw=1.2, ls=(0, (2, 1.4)), label=RECONSTRUCTION)
        bare(axis, label(name))
        axis.tick_params(labelbottom=False)
    if traces:
        handles, words = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, words, loc="upper right", ncols=3, frameon=False, fontsize=8.5, bbox_to_anchor=(0.99, 0.955)
        )
    else:
        axes[0].remove()
    kl = figure.add_subplot(grid[rows, :])
    kl.set_position((0.075, 0.09, 0.91, kl.get_position().height))
    return _finished(figure, title, watched, [picture], [*axes[: len(traces)], kl], kl)


def _image_chart(watched: Watched, title: str, image: str) -> Chart:
    """The environment's frame, the reconstruction and the prediction side by side, the KL below."""
    figure = Figure(figsize=(9.0, 4.6), dpi=DPI)
    grid = figure.add_gridspec(
        2, 3, height_ratios=(2.3, 1), left=0.02, right=0.985, top=0.82, bottom=0.11, wspace=0.05, hspace=0.16
    )
    pictures = [figure.add_subplot(grid[0, i]) for i in range(3)]
    for axis, words in zip(pictures, ("environment", RECONSTRUCTION, PREDICTION), strict=True):
        axis.set_title(words, fontsize=10, color={RECONSTRUCTION: RAW, PREDICTION: OPTIMISED}.get(words, TRUTH), pad=4)
    kl = figure.add_subplot(grid[1, :])
    kl.set_position((0.075, 0.11, 0.91, kl.get_position().height))
    return _finished(figure, title, watched, pictures, [kl], kl)


def _finished(
    figure: Figure, title: str, watched: Watched, pictures: list[Axes], strips: list[Axes], kl: Axes
) -> Chart:
    """A page with its title and its KL."""
    steps = np.arange(len(watched.kl))
    top = float(np.quantile(watched.kl, 0.99)) * 1.25 + 1e-3  # the first row may tell more than all others
    kl.fill_between(steps, watched.kl, color=RAW, alpha=0.25, lw=0)
    kl.plot(steps, watched.kl, color=RAW, lw=1.1)
    kl.set_ylim(0, top)
    bare(kl, "KL, nats")
    kl.set_xlabel("step", fontsize=8.5, labelpad=1)
    figure.text(0.02, 0.962, title, fontsize=11.5, va="center", weight="bold")
    return drawn(figure, pictures, strips, len(steps))


def _traces(leaves: dict[str, Seen]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]:
    """The variables of leaves that are drawn as curves, those that hardly vary last."""
    found = []
    for name, seen in leaves.items():
        if seen.truth.shape != seen.reconstruction.shape or seen.truth.ndim != 2:
            continue  # classes, which are no curves
        for i in range(seen.truth.shape[1]):
            words = name if seen.truth.shape[1] == 1 else f"{name}[{i}]"
            band = None if seen.band is None else seen.band[..., i]
            found.append((words, seen.truth[:, i], seen.reconstruction[:, i], seen.prediction[:, i], band))
    yield from sorted(found, key=lambda one: np.ptp(one[1]) == 0)
