"""Animations: a page that is drawn once, on which pictures change and a cursor moves over curves; and GIFs of them.

What lies ahead of the cursor is pale.
"""

import io
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont, ImageSequence

MILLISECONDS, PAUSE = 40, 1200  # a frame is shown, and an episode's last one
PALE = 0.72  # share of white over what lies ahead
DPI = 100
COLOURS, NEAR = 128, 8  # of the whole film; levels from the page's colour that are taken for it
CURSOR, FRAMED, QUIET = "#b03030", "#c8c8c8", "#555555"

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class Chart(NamedTuple):
    """A drawn page: its pixels, where pictures go, and where the cursor runs."""

    pixels: Image.Image
    pictures: list[Box]
    strips: list[Box]  # of the axes over steps, from the first to the last


def drawn(figure: Figure, pictures: Sequence[Axes], strips: Sequence[Axes], steps: int) -> Chart:
    """Draw a page, and find out where everything is on it.

    Args:
        figure: the page.
        pictures: axes that pictures are pasted over.
        strips: axes over steps.
        steps: that they have.
    """
    for axis in strips:
        axis.set_xlim(0, max(1, steps - 1))
    for axis in pictures:
        axis.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    height = pixels.size[1]

    def box(axis: Axes) -> Box:
        inside = axis.get_window_extent()
        return round(inside.x0), round(height - inside.y1), round(inside.x1), round(height - inside.y0)

    return Chart(pixels, [box(axis) for axis in pictures], [box(axis) for axis in strips])


def at_step(chart: Chart, pictures: Sequence[np.ndarray], share: float) -> tuple[Image.Image, list[Box]]:
    """The page at one step, which is this share of the way through the episode, and where its pictures are."""
    page, places = chart.pixels.copy(), []
    draw = ImageDraw.Draw(page)
    for left, top, right, bottom in chart.strips:
        x = round(left + share * (right - left))
        ahead = (min(x + 1, right), top, right, bottom)
        if ahead[0] < right:
            page.paste(pale(page.crop(ahead)), ahead)
        draw.line((x, top, x, bottom), fill=CURSOR, width=2)
    for pixels, (left, top, right, bottom) in zip(pictures, chart.pictures, strict=True):
        picture = _fitted(pixels, right - left, bottom - top)
        x, y = left + (right - left - picture.size[0]) // 2, top + (bottom - top - picture.size[1]) // 2
        page.paste(picture, (x, y))
        places.append((x - 1, y - 1, x + picture.size[0], y + picture.size[1]))
        draw.rectangle(places[-1], outline=FRAMED)
    return page, places


def pale(part: Image.Image) -> Image.Image:
    """A part of a page as what lies ahead is shown."""
    return Image.blend(part, Image.new("RGB", part.size, "white"), PALE)


def write(
    page: Image.Image, x: int, y: int, words: str, colour: str = QUIET, *, bold: bool = False, anchor: str = "la"
) -> int:
    """Put words on a page: -> the pixel behind them. The anchor is Pillow's: la is their upper left corner."""
    draw = ImageDraw.Draw(page)
    draw.text((x, y), words, fill=colour, font=_font(bold), anchor=anchor)
    return x + round(draw.textlength(words, font=_font(bold)))


def bare(axis: Axes, words: str) -> None:
    """The axes of a curve over steps, with little ink."""
    axis.set_ylabel(words, fontsize=8.5, labelpad=3)
    axis.tick_params(labelsize=7.5, length=2.5, pad=2)
    axis.locator_params(axis="y", nbins=4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def write_gif(frames: list[Image.Image], shown: list[int]) -> bytes:
    """A GIF of frames, each shown for so many milliseconds, as large as the first one."""
    size = frames[0].size
    frames = [frame if frame.size == size else frame.resize(size) for frame in frames]
    palette = _palette(frames)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0)
    return buffer.getvalue()


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
        gif = write_gif(frames, shown)
    return gif


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """The letters of the charts."""
    return ImageFont.truetype(findfont(FontProperties(weight="bold" if bold else "normal")), 13)


def _fitted(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture as large as there is room for: few pixels stay squares, many are smoothed."""
    h, w = pixels.shape[:2]
    scale = min(width / w, height / h)
    way = Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((max(1, int(w * scale)), max(1, int(h * scale))), way)


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
