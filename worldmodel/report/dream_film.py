"""The world and the dream side by side, as an animation: frames of both, their variables below, and what they earned.

The first rows are the same in both: the model sees them. Then the dream begins, and its frame and its curves turn blue.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from worldmodel.evaluation.dream_film import Half, Halves
from worldmodel.evaluation.watched import SIDE
from worldmodel.report.animation import (
    DPI,
    MILLISECONDS,
    PAUSE,
    Box,
    Chart,
    at_step,
    bare,
    drawn,
    lighter_gif,
    pale,
    write,
    write_gif,
)
from worldmodel.report.films import as_rgb
from worldmodel.report.vocabulary import DREAM_LOOKS
from worldmodel.system.names import label

TRACES = 3  # variables that are drawn, at most
FRAMES = 240  # of an episode, at most; of longer ones every second, third, ... step that is dreamt is shown
SLOWLY = 160  # milliseconds that a row is shown which the model sees: there are few of them
BYTES = 2_000_000  # of a film, at most: a page of text should not have to carry more
WIDTH, MARGIN = 720, 18  # pixels: of the page, and left and right of everything
TITLE, HEAD, TOP = 12, 38, 60  # pixels from the top: the title, the words over the pictures, the pictures
TRACE, APART, ABOVE, FOOT = 52, 9, 24, 38  # pixels: a curve's height; between two, above the first, below the last
CURVES = 64  # pixels from the left at which curves begin, for the numbers before them
EDGE = 3  # pixels of the frame around a dream
WORLD, DREAM = (DREAM_LOOKS[name].colour for name in ("world", "dream"))


def dream_gif(films: Sequence[Halves], titles: Sequence[str]) -> bytes:
    """Starts one after the other, as an animated GIF of at most BYTES.

    Args:
        films: of each start.
        titles: a line each.
    """
    frames: list[Image.Image] = []
    shown: list[int] = []
    for one, title in zip(films, titles, strict=True):
        steps = shown_steps(one)
        frames += dream_frames(one, title)
        shown += [SLOWLY if t < one.context else MILLISECONDS for t in steps[:-1]] + [PAUSE]
    return lighter_gif(write_gif(frames, shown), BYTES)


def shown_steps(film: Halves) -> list[int]:
    """The rows that have a frame: all that the model sees, and of what is dreamt at most FRAMES, the last one too."""
    T = _rows(film)
    stride = -(-(T - film.context) // FRAMES)
    return sorted({*range(min(film.context, T)), *range(film.context, T, max(1, stride)), T - 1})


def dream_frames(film: Halves, title: str) -> Iterator[Image.Image]:
    """The frames of one start."""
    chart, T = _chart(film, title), _rows(film)
    for t in shown_steps(film):
        pictures = [as_rgb(half.frames[min(t, len(half.frames) - 1)]) for half in (film.world, film.dream)]
        page, (left, right) = at_step(chart, pictures, t / max(1, T - 1))
        _tell(page, left, film.world, t, "world", "", WORLD)
        if t < film.context:
            _tell(page, right, film.dream, t, "model", "sees", WORLD)
        else:
            _tell(page, right, film.dream, t, "model", f"dreams, {_steps(t - film.context + 1)} on", DREAM)
            ImageDraw.Draw(page).rectangle(right, outline=DREAM, width=EDGE)
        yield page


def _tell(page: Image.Image, place: Box, half: Half, t: int, who: str, doing: str, colour: str) -> None:
    """Say over a picture what it is, and what was earned so far. Behind an episode's end the picture is pale."""
    left, top, right, bottom = place
    last = len(half.reward) - 1
    if t > last:
        inside = (left + 1, top + 1, right, bottom)
        page.paste(pale(page.crop(inside)), inside)
        doing = f"ended after {_steps(last)}"
    behind = write(page, left, HEAD, who, colour, bold=True)
    write(page, behind + 5, HEAD, doing, colour)
    write(page, right, HEAD, f"return {half.reward[: t + 1].sum():.1f}", anchor="ra")


def _chart(film: Halves, title: str) -> Chart:
    """Room for two pictures, and the curves of both halves below."""
    curves = _curves(film)
    h, w = film.world.frames.shape[1:3]
    tall = min(SIDE, round(SIDE * h / w))
    height = TOP + tall + ABOVE + len(curves) * (TRACE + APART) + FOOT
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)

    def room(left: int, top: int, width: int, tall: int) -> Axes:
        return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

    pictures = [room(left, TOP, SIDE, tall) for left in (MARGIN, WIDTH - MARGIN - SIDE)]
    strips = []
    for i, (name, halves) in enumerate(curves.items()):
        axis = room(CURVES, TOP + tall + ABOVE + i * (TRACE + APART), WIDTH - CURVES - MARGIN, TRACE)
        for look, begin, values in zip(DREAM_LOOKS.values(), (0, max(0, film.context - 1)), halves, strict=True):
            lw, alpha = (3.2, 0.3) if look.colour == WORLD else (1.4, 1.0)  # both are seen where they agree
            axis.plot(
                np.arange(begin, len(values)), values[begin:], color=look.colour, lw=lw, alpha=alpha, label=look.name
            )
        axis.axvline(film.context - 0.5, color=DREAM, lw=1, ls=(0, (3, 2)))
        bare(axis, label(name))
        axis.tick_params(labelbottom=i == len(curves) - 1)
        strips.append(axis)
    where = strips[0].get_xaxis_transform()
    strips[0].text(film.context - 0.5, 1.03, "the dream begins", color=DREAM, fontsize=8, va="bottom", transform=where)
    strips[-1].set_xlabel("step", fontsize=8.5, labelpad=1)
    handles, words = strips[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="upper right", ncols=2, frameon=False, fontsize=8.5, bbox_to_anchor=(1.0, 1.01))
    figure.text(MARGIN / WIDTH, 1 - TITLE / height, title, fontsize=10.5, va="top", weight="bold")
    return drawn(figure, pictures, strips, _rows(film))


def _curves(film: Halves) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The variables that are drawn, in the world and in the dream; where there are none, the rewards."""
    names = [*film.world.variables][:TRACES]
    if not names:
        return {"reward": (film.world.reward, film.dream.reward)}
    return {name: (film.world.variables[name], film.dream.variables[name]) for name in names}


def _rows(film: Halves) -> int:
    return max(len(half.reward) for half in (film.world, film.dream))


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"
