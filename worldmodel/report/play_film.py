"""An episode as an animation: the environment's frame beside what the model made of it, and the KL of every step.

A chart is drawn once an episode; frame by frame, only the picture changes and a cursor moves. What lies ahead of the
cursor is pale.
"""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageSequence

from worldmodel.evaluation.watched import Seen, Watched
from worldmodel.report.films import as_rgb
from worldmodel.report.vocabulary import OPTIMISED, RAW, TRUTH
from worldmodel.system.names import label

TRACES = 4  # variables of a vector that are drawn, at most
FRAMES = 240  # of an episode, at most; of longer ones every second, third, ... step is shown
MILLISECONDS, PAUSE = 40, 1200  # a frame is shown, and an episode's last one
PALE = 0.72  # share of white over what lies ahead
DPI = 100
COLOURS, NEAR = 128, 8  # of the whole film; levels from the page's colour that are taken for it
CURSOR, FRAMED = "#b03030", "#c8c8c8"
MARGIN, SUBTITLE = 18, 36  # pixels from the left and from the top, of the line under the title
RECONSTRUCTION, PREDICTION = "reconstruction", "one step ahead"


class Chart(NamedTuple):
    """A drawn page: its pixels, where pictures go, and where the cursor runs."""

    pixels: Image.Image
    pictures: list[tuple[int, int, int, int]]  # left, top, right, bottom
    strips: list[tuple[int, int, int, int]]  # likewise, of the axes over steps, from the first to the last


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
    size = frames[0].size
    frames = [frame if frame.size == size else frame.resize(size) for frame in frames]
    return _gif(frames, shown)


def lighter_gif(gif: bytes, limit: int) -> bytes:
    """A film that takes as long and has at most so many bytes: every second frame is left out until it has, or until
    two frames are left.
    """
    if len(gif) <= limit:
        return gif
    with Image.open(io.BytesIO(gif)) as film:
        read = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
    frames, shown = [frame for frame, _ in read], [duration for _, duration in read]
    while len(gif) > limit and len(frames) > 2:
        shown = [sum(shown[i : i + 2]) for i in range(0, len(shown), 2)]
        frames = frames[::2]
        gif = _gif(frames, shown)
    return gif


def _gif(frames: list[Image.Image], shown: list[int]) -> bytes:
    """Frames of one size, each shown for so many milliseconds."""
    palette = _palette(frames)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0)
    return buffer.getvalue()


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
        words = f"step {t}    return so far {earned[t]:.1f}"
        yield _frame(chart, pictures, t / max(1, T - 1), words)


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
        _bare(axis, label(name))
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
    return _drawn(figure, title, watched, [picture], [*axes[: len(traces)], kl], kl)


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
    return _drawn(figure, title, watched, pictures, [kl], kl)


def _drawn(figure: Figure, title: str, watched: Watched, pictures: list[Axes], strips: list[Axes], kl: Axes) -> Chart:
    """Finish a page and find out where everything is on it."""
    steps = np.arange(len(watched.kl))
    top = float(np.quantile(watched.kl, 0.99)) * 1.25 + 1e-3  # the first row may tell more than all others
    kl.fill_between(steps, watched.kl, color=RAW, alpha=0.25, lw=0)
    kl.plot(steps, watched.kl, color=RAW, lw=1.1)
    kl.set_ylim(0, top)
    _bare(kl, "KL, nats")
    kl.set_xlabel("step", fontsize=8.5, labelpad=1)
    for axis in strips:
        axis.set_xlim(0, max(1, len(steps) - 1))
    for axis in pictures:
        axis.set_axis_off()
    figure.text(0.02, 0.962, title, fontsize=11.5, va="center", weight="bold")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    height = pixels.size[1]

    def box(axis: Axes) -> tuple[int, int, int, int]:
        inside = axis.get_window_extent()
        return round(inside.x0), round(height - inside.y1), round(inside.x1), round(height - inside.y0)

    return Chart(pixels, [box(axis) for axis in pictures], [box(axis) for axis in strips])


def _frame(chart: Chart, pictures: list[np.ndarray], share: float, words: str) -> Image.Image:
    """The page at one step, which is this share of the way through the episode."""
    page = chart.pixels.copy()
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, SUBTITLE), words, fill="#555555", font=ImageFont.load_default(13))
    for left, top, right, bottom in chart.strips:
        x = round(left + share * (right - left))
        ahead = (min(x + 1, right), top, right, bottom)
        if ahead[0] < right:
            part = page.crop(ahead)
            page.paste(Image.blend(part, Image.new("RGB", part.size, "white"), PALE), ahead)
        draw.line((x, top, x, bottom), fill=CURSOR, width=2)
    for pixels, (left, top, right, bottom) in zip(pictures, chart.pictures, strict=True):
        picture = _fitted(pixels, right - left, bottom - top)
        x, y = left + (right - left - picture.size[0]) // 2, top + (bottom - top - picture.size[1]) // 2
        page.paste(picture, (x, y))
        draw.rectangle((x - 1, y - 1, x + picture.size[0], y + picture.size[1]), outline=FRAMED)
    return page


def _fitted(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture as large as there is room for: few pixels stay squares, many are smoothed."""
    h, w = pixels.shape[:2]
    scale = min(width / w, height / h)
    way = Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((max(1, int(w * scale)), max(1, int(h * scale))), way)


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


def _bare(axis: Axes, words: str) -> None:
    axis.set_ylabel(words, fontsize=8.5, labelpad=3)
    axis.tick_params(labelsize=7.5, length=2.5, pad=2)
    axis.locator_params(axis="y", nbins=4)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _palette(frames: list[Image.Image]) -> Image.Image:
    """One palette for the film, from a few of its frames: with one each, colours would flicker."""
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, 6).round().astype(int))]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for i, frame in enumerate(chosen):
        sheet.paste(frame, (0, i * height))
    palette = sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    page = np.array(sheet.getpixel((0, 0)))
    colours[np.abs(colours - page).max(1) < NEAR] = page  # the page is as white as it was drawn
    palette.putpalette(colours.flatten().tolist())
    return palette
