"""GIFs of frames: how long each is shown, in which colours, and what a lighter one leaves out."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from worldmodel.report.animation import CURSOR, at_step, drawn, lighter_gif, pale, write, write_gif


def frames(count=9, size=(60, 40)):
    """A black bar that moves to the right on a white page."""
    found = []
    for t in range(count):
        page = Image.new("RGB", size, "white")
        page.paste((0, 0, 0), (t * 5, 10, t * 5 + 4, 30))
        found.append(page)
    return found


def read(gif):
    """The frames of a GIF, and for how long each is shown."""
    with Image.open(io.BytesIO(gif)) as film:
        pages, shown = [], []
        for i in range(film.n_frames):
            film.seek(i)
            pages.append(np.asarray(film.convert("RGB")))
            shown.append(film.info["duration"])
    return pages, shown


def test_frames_are_shown_in_their_order_and_for_their_time():
    given, times = frames(), [40 + 10 * i for i in range(9)]
    pages, shown = read(write_gif(given, times))
    assert shown == times
    for page, frame in zip(pages, given, strict=True):
        np.testing.assert_array_equal(page, np.asarray(frame))


def test_frames_are_as_large_as_the_first_one():
    pages, _ = read(write_gif([*frames(2), *frames(2, (30, 50))], [40] * 4))
    assert {page.shape for page in pages} == {(40, 60, 3)}


def test_a_lighter_film_takes_as_long_and_shows_every_second_frame():
    gif = write_gif(frames(), [40] * 8 + [1200])
    assert lighter_gif(gif, len(gif)) == gif
    light = lighter_gif(gif, len(gif) - 1)
    assert len(light) < len(gif)
    pages, shown = read(light)
    assert shown == [80] * 4 + [1200]
    for page, whole in zip(pages, read(gif)[0][::2], strict=True):
        np.testing.assert_array_equal(page, whole)
    assert len(read(lighter_gif(gif, 0))[0]) == 2


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_cursor_is_where_the_episode_is_and_the_picture_in_its_place(share):
    figure = Figure(figsize=(2, 1), dpi=100)
    picture, strip = figure.add_axes((0.1, 0.5, 0.2, 0.4)), figure.add_axes((0.1, 0.1, 0.8, 0.3))
    strip.fill_between([0, 9], [1, 1], color="black")
    chart = drawn(figure, [picture], [strip], steps=10)
    assert chart.pictures == [(20, 10, 60, 50)] and chart.strips == [(20, 60, 180, 90)]
    page, places = at_step(chart, [np.full((20, 20, 3), 77, np.uint8)], share)
    pixels = np.asarray(page)
    assert places == [(19, 9, 60, 50)] and (pixels[10:50, 20:60] == 77).all()
    red = tuple(int(CURSOR[i : i + 2], 16) for i in (1, 3, 5))
    assert page.getpixel((20 + round(160 * share), 75)) == red
    if share < 1:
        assert page.getpixel((150, 80)) == pale(Image.new("RGB", (1, 1))).getpixel((0, 0)) != (0, 0, 0)
    else:
        assert page.getpixel((150, 80)) == (0, 0, 0)


def test_words_end_where_it_says():
    page = Image.new("RGB", (200, 30), "white")
    behind = write(page, 5, 5, "the dream", "#000000", bold=True)
    dark = np.flatnonzero((np.asarray(page) < 128).any((0, 2)))
    assert 5 <= dark[0] <= 7 and behind - 3 <= dark[-1] <= behind
