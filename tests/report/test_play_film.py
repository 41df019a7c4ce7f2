"""Films of an episode, from numbers that are known: which frames, where the cursor is, what is pale."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from worldmodel.evaluation.watched import Seen, Watched
from worldmodel.report.animation import CURSOR, MILLISECONDS, PAUSE
from worldmodel.report.play_film import FRAMES, episode_frames, play_gif

RED = np.array(ImageColor.getrgb(CURSOR))


def vector(T, n=2):
    truth = np.sin(np.arange(T)[:, None] / 3 + np.arange(n)).astype(np.float32)
    return Seen(truth, truth + 0.1, truth - 0.1, np.stack([truth - 0.3, truth + 0.1]))


def classes(T):
    return Seen(np.zeros((T, 1), np.int32), np.full((T, 3), 1 / 3), np.full((T, 3), 1 / 3), None)


def pixels(T, level):
    def image(offset, dtype=np.float32):
        return np.full((T, 8, 8, 3), level + offset, dtype)

    return Seen(image(0, np.uint8), image(20), image(40), None)


def watched(T=10, leaves=None):
    frames = np.zeros((T, 30, 60, 3), np.uint8)
    frames[:, :, :, 2] = (np.arange(T) * (200 // T) + 50)[:, None, None]  # bluer every step
    leaves = {"obs": vector(T)} if leaves is None else leaves
    return Watched(frames, np.ones(T, np.float32), np.linspace(3, 1, T).astype(np.float32), leaves)


def cursor(frame):
    """The columns that have a tall red line, from left to right."""
    red = (np.asarray(frame) == RED).all(-1).sum(0)
    return np.flatnonzero(red > 40)


def has(frame, colour):
    return (np.abs(np.asarray(frame).astype(int) - colour) <= 1).all(-1).sum()


@pytest.mark.parametrize(
    "leaves", [{"obs": vector(10)}, {"eye": pixels(10, 60)}, {"cards": classes(10)}], ids=["vector", "image", "classes"]
)
def test_the_cursor_walks_through_the_episode_and_what_lies_ahead_is_pale(leaves):
    frames = list(episode_frames(watched(10, leaves), "title"))
    assert len(frames) == 10
    columns = [cursor(frame) for frame in frames]
    assert all(len(found) for found in columns)
    rightmost = [found[-1] for found in columns]
    assert rightmost == sorted(rightmost) and rightmost[0] < rightmost[-1]
    first, last = (np.asarray(frames[i]).astype(float) for i in (0, -1))
    ahead = first[:, rightmost[0] + 3 : rightmost[-1] - 3], last[:, rightmost[0] + 3 : rightmost[-1] - 3]
    below = slice(int(first.shape[0] * 0.75), int(first.shape[0] * 0.88))  # the KL
    assert ahead[0][below].mean() > ahead[1][below].mean() + 3


def test_pictures_are_those_of_the_step():
    frames = list(episode_frames(watched(10, {"eye": pixels(10, 60)}), "title"))
    for t in (0, 9):
        assert has(frames[t], (0, 0, 20 * t + 50)) > 1000  # what the environment showed
        assert has(frames[t], (80, 80, 80)) > 1000 and has(frames[t], (100, 100, 100)) > 1000  # the model's
    alone = list(episode_frames(watched(10), "title"))
    assert has(alone[3], (0, 0, 110)) > 1000 and has(alone[3], (80, 80, 80)) < 100


def test_long_episodes_are_shown_in_strides_up_to_their_end():
    T = 3 * FRAMES - 10
    frames = list(episode_frames(watched(T), "title"))
    assert FRAMES - 10 < len(frames) <= FRAMES + 1
    assert len(list(episode_frames(watched(1), "title"))) == 1
    end, other = cursor(frames[-1]), cursor(list(episode_frames(watched(5), "title"))[-1])
    assert end[-1] == other[-1]  # at the right edge


def test_a_film_shows_one_episode_after_the_other_and_waits_at_their_ends():
    film = Image.open(io.BytesIO(play_gif([watched(4), watched(6)], ["best", "median"])))
    shown = []
    for i in range(film.n_frames):
        film.seek(i)
        shown.append(film.info["duration"])
    assert shown == [MILLISECONDS] * 3 + [PAUSE] + [MILLISECONDS] * 5 + [PAUSE]
    white = np.asarray(film.convert("RGB"))[2, 2]
    assert white.tolist() == [255, 255, 255]
