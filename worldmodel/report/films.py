"""Imagined images beside what happened: a strip of chosen steps, and an animation of all of them."""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from worldmodel.evaluation.scenes import Scene
from worldmodel.report.vocabulary import RAW, TRUTH
from worldmodel.system.names import label

SEEN, AHEAD = 2, 8  # columns of a strip: the last steps of the context, and steps imagined
EVALUATIONS = 6  # lines of reconstructions, at most
SIDE = 160  # pixels that small frames are enlarged to, at least
MARGIN, BAR, TEXT = 6, 26, 14  # pixels between panels, of the title bar, of its letters
MILLISECONDS, PAUSE = 120, 1000  # a frame is shown, and the last one


def film_strip(name: str, scene: Scene, context: int, episode: int = 0) -> Figure:
    """Chosen steps of one episode: truth, one imagined future, the mean of all, and how far the latter is off."""
    steps = _chosen(context, scene.mean.shape[1])
    truth, one, mean = (pixels[episode] for pixels in (scene.truth, scene.paths[0], scene.mean))
    rows = {"truth": truth, "one future": one, "mean of futures": mean}
    if len(truth) == len(mean):
        off = np.abs(mean - truth)
        rows[f"difference x {gain(off)}"] = gain(off) * off
    figure = Figure(figsize=(1.15 * len(steps) + 1.3, 1.2 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), len(steps), squeeze=False)
    for line, (words, pixels) in zip(axes, rows.items(), strict=True):
        for axis, t in zip(line, steps, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color(TRUTH if t < context else RAW)
            if t < len(pixels):
                axis.imshow(as_rgb(pixels[t]), interpolation="nearest")
        line[0].set_ylabel(words, fontsize=10)
    for axis, t in zip(axes[0], steps, strict=True):
        axis.set_title(_when(t, context), fontsize=10, color=TRUTH if t < context else RAW)
    figure.suptitle(f"Imagined {label(name)}: steps ahead of the last step seen", fontsize=12)
    return figure


def film_gif(scene: Scene, context: int, episode: int = 0) -> bytes:
    """One episode as an animated GIF: truth, one imagined future, their difference; a frame for every step.

    Up to the last step seen, the middle shows the filtered reconstruction; its bar turns blue where imagination begins.
    """
    truth, one = scene.truth[episode], scene.paths[0][episode]
    off = np.abs(one[: len(truth)] - truth)
    frames = []
    for t, imagined in enumerate(one):
        panels = {"truth": truth[t] if t < len(truth) else np.zeros_like(imagined)}
        panels["filtered" if t < context else "imagined"] = imagined
        panels[f"difference x {gain(off)}"] = gain(off) * off[t] if t < len(off) else np.zeros_like(imagined)
        frames.append(_frame(panels, _when(t, context), TRUTH if t < context else RAW))
    buffer = io.BytesIO()
    shown = [MILLISECONDS] * (len(frames) - 1) + [PAUSE]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0)
    return buffer.getvalue()


def sharpening(name: str, truth: np.ndarray, reconstructions: Mapping[int, np.ndarray]) -> Figure:
    """The same images, seen and reconstructed, over training: the truth above, then a line of every evaluation shown.

    Args:
        name: of the leaf.
        truth: [F, H, W, C] levels.
        reconstructions: [F, H, W, C] levels by update; of many, the first, the last and some between are shown.
    """
    updates = sorted(reconstructions)
    shown = np.unique(np.linspace(0, len(updates) - 1, min(EVALUATIONS, len(updates))).round().astype(int))
    rows = {"truth": truth} | {f"update {updates[i]}": reconstructions[updates[i]] for i in shown}
    figure = Figure(figsize=(1.15 * len(truth) + 1.3, 1.2 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(truth), squeeze=False)
    for line, (words, frames) in zip(axes, rows.items(), strict=True):
        for axis, frame in zip(line, frames, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color(TRUTH if words == "truth" else RAW)
            axis.imshow(as_rgb(frame), interpolation="nearest")
        line[0].set_ylabel(words, fontsize=10)
    figure.suptitle(f"Reconstruction of {label(name)}: steps of one held-out episode, over training", fontsize=12)
    return figure


def gain(off: np.ndarray) -> int:
    """The whole factor by which absolute differences are brightened, so that the largest is near white; at most 8."""
    return int(np.clip(255 // max(1.0, float(off.max())), 1, 8))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] levels -> [H, W, 3] bytes; of a stack that is not red, green and blue, the last channel in grey."""
    levels = pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return levels if levels.shape[-1] == 3 else np.repeat(levels[..., -1:], 3, -1)


def _frame(panels: dict[str, np.ndarray], when: str, colour: str) -> Image.Image:
    """Panels side by side under a title bar, enlarged by a whole factor, pixel by pixel."""
    size = next(iter(panels.values())).shape[0]
    side = size * max(1, -(-SIDE // size))
    width = len(panels) * (side + MARGIN) + MARGIN
    frame = Image.new("RGB", (width, side + BAR + MARGIN), colour)
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(TEXT)
    for i, (words, pixels) in enumerate(panels.items()):
        left = MARGIN + i * (side + MARGIN)
        frame.paste(Image.fromarray(as_rgb(pixels)).resize((side, side), Image.Resampling.NEAREST), (left, BAR))
        draw.text((left + 2, 4), words, fill="white", font=font)
    draw.text((width - MARGIN - 2, 4), when, fill="white", font=font, anchor="ra")
    return frame


def _chosen(context: int, rows: int) -> list[int]:
    seen = range(max(0, context - SEEN), context)
    ahead = np.unique(np.linspace(context, rows - 1, min(AHEAD, rows - context)).round().astype(int))
    return [*seen, *ahead.tolist()]


def _when(t: int, context: int) -> str:
    ahead = t - context + 1
    return f"{ahead:+d}" if ahead > 0 else f"seen {ahead}" if ahead else "last seen"
