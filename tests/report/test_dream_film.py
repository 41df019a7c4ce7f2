"""Films of a dream beside its world, from numbers that are known: frames, order, words, and where the dream begins."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from worldmodel.evaluation.dream_film import Half, Halves
from worldmodel.report import dream_film
from worldmodel.report.animation import CURSOR, MILLISECONDS, PAUSE
from worldmodel.report.dream_film import BYTES, DREAM, FRAMES, SLOWLY, TRACES, dream_frames, dream_gif, shown_steps

BLUE, RED = (np.array(ImageColor.getrgb(colour)) for colour in (DREAM, CURSOR))


def half(T, green, variables=2):
    """Frames that are greener every step, and redder the more of it is the dream's."""
    frames = np.zeros((T, 40, 40, 3), np.uint8)
    frames[..., 0], frames[..., 1] = green, (np.arange(T) * 10 % 200)[:, None, None]
    named = {f"x{k}": np.sin(np.arange(T) / 3 + k) for k in range(variables)}
    return Half(frames, named, np.ones(T))


def halves(world=12, dream=12, context=3, variables=2):
    return Halves(context, half(world, 50, variables), half(dream, 90, variables))


def count(frame, colour, part=slice(None)):
    return (np.asarray(frame)[:, part] == colour).all(-1).sum()


def said(monkeypatch, film):
    """The words over the pictures, by frame: of the world, then of the dream."""
    words = []
    monkeypatch.setattr(dream_film, "write", lambda page, x, y, text, *more, **others: words.append(text) or x)
    frames = len(list(dream_frames(film, "title")))
    return [(words[6 * t : 6 * t + 3], words[6 * t + 3 : 6 * t + 6]) for t in range(frames)]


def test_the_world_is_on_the_left_and_the_dream_on_the_right_step_by_step():
    frames = list(dream_frames(halves(), "title"))
    assert len(frames) == 12
    left, right = slice(0, 360), slice(360, 720)
    for t, frame in enumerate(frames):
        assert frame.size[0] == 720
        ours, theirs = (50, 10 * t, 0), (90, 10 * t, 0)
        assert count(frame, ours, left) > 50_000 and count(frame, theirs, right) > 50_000
        assert count(frame, theirs, left) == count(frame, ours, right) == 0


def test_the_frame_around_the_dream_turns_blue_where_it_begins():
    frames = list(dream_frames(halves(context=3), "title"))
    right = slice(360, 720)
    edges = [count(frame.crop((0, 0, 720, 382)), BLUE, right) for frame in frames]
    assert max(edges[:3]) == 0 and min(edges[3:]) > 3000
    assert count(frames[-1].crop((0, 58, 720, 382)), BLUE, slice(0, 360)) == 0


def test_words_tell_what_is_seen_and_what_is_dreamt_and_what_was_earned(monkeypatch):
    told = said(monkeypatch, halves(context=3))
    assert told[2] == (["world", "", "return 3.0"], ["model", "sees", "return 3.0"])
    assert told[3] == (["world", "", "return 4.0"], ["model", "dreams, 1 step on", "return 4.0"])
    assert told[11][1] == ["model", "dreams, 9 steps on", "return 12.0"]


def test_what_is_over_stays_and_is_pale(monkeypatch):
    film = halves(world=12, dream=6)
    frames = list(dream_frames(film, "title"))
    assert len(frames) == 12
    right = slice(360, 720)
    assert count(frames[5], (90, 50, 0), right) > 50_000 and count(frames[6], (90, 50, 0), right) == 0
    pale = tuple(round(0.28 * x + 0.72 * 255) for x in (90, 50, 0))
    assert (np.abs(np.asarray(frames[11])[100:350, 400:680].astype(int) - pale) <= 1).all()
    told = said(monkeypatch, film)
    assert told[5][1] == ["model", "dreams, 3 steps on", "return 6.0"]
    assert told[11] == (["world", "", "return 12.0"], ["model", "ended after 5 steps", "return 6.0"])
    assert said(monkeypatch, halves(world=5, dream=6))[5][0] == ["world", "ended after 4 steps", "return 5.0"]


@pytest.mark.parametrize(("variables", "curves"), [(0, 1), (2, 2), (5, TRACES)])
def test_the_cursor_walks_over_a_few_curves(variables, curves):
    frames = list(dream_frames(halves(variables=variables), "title"))
    columns = []
    for frame in frames:
        red = (np.asarray(frame) == RED).all(-1)
        columns.append(np.flatnonzero(red.sum(0) > 40)[0])
        starts = np.diff(red[:, columns[-1]].astype(int)) == 1
        assert starts.sum() == curves
    assert columns == sorted(set(columns))


def test_long_dreams_are_shown_in_strides_and_what_was_seen_is_shown_whole():
    steps = shown_steps(halves(world=3 * FRAMES, dream=10, context=7))
    assert steps[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 10] and steps[-1] == 3 * FRAMES - 1
    assert len(steps) <= FRAMES + 8
    assert shown_steps(halves(world=8, dream=8)) == list(range(8))


def test_a_film_shows_one_start_after_the_other_slowly_at_first_and_waits_at_their_ends():
    with Image.open(io.BytesIO(dream_gif([halves(5, 5), halves(6, 4)], ["median", "best"]))) as film:
        shown = []
        for i in range(film.n_frames):
            film.seek(i)
            shown.append(film.info["duration"])
    assert shown == [SLOWLY] * 3 + [MILLISECONDS, PAUSE] + [SLOWLY] * 3 + [MILLISECONDS] * 2 + [PAUSE]


def test_a_film_has_at_most_so_many_bytes(monkeypatch):
    limits = []
    monkeypatch.setattr(dream_film, "lighter_gif", lambda gif, limit: limits.append(limit) or gif)
    dream_gif([halves(5, 5)], ["only"])
    assert limits == [BYTES] == [2_000_000]
