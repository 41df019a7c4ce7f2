"""Starts to look at: whole episodes, of rows that are known, in the world and in the dream."""

import numpy as np

from worldmodel.evaluation.dream_film import drawn_halves, dreamt, image_halves, recorded
from worldmodel.evaluation.dream_gap import Course, DreamGap

E, CONTEXT, H = 2, 2, 4
WORLD, DREAM = [4, 2], [3, 4]  # steps that each start lasts


def course(first, steps, lengths, shape):
    """Entries that count up from `first` along an episode; rewards and actions are their row's number too."""
    rows = np.broadcast_to(first + np.arange(steps, dtype=np.float64), (E, steps)) + 100 * np.arange(E)[:, None]
    obs = np.broadcast_to(rows.reshape(E, steps, *[1] * len(shape)), (E, steps, *shape)).copy()
    if len(shape) == 1:
        obs[..., 1] *= -1
    return Course({"obs": obs}, rows[..., None], rows, np.arange(steps) < np.array(lengths)[:, None])


def gap(shape=(2,)):
    before = course(0, CONTEXT, [CONTEXT] * E, shape)
    parts = before, course(CONTEXT, H, WORLD, shape), course(10, H, DREAM, shape)
    return DreamGap(np.array([70, 71]), *parts, 0, {})


def test_an_episode_can_be_played_again():
    again = recorded(gap(), 1)
    assert again.seed == 71 and again.action.tolist() == [[101], [102], [103]]  # not what led to the first row
    assert again.earned == 100 + 101 + 102 + 103


def test_only_what_was_dreamt_has_to_be_drawn():
    obs, action = dreamt(gap(), 0)
    assert obs["obs"].tolist() == [[10, -10], [11, -11], [12, -12]] and action.tolist() == [[10], [11], [12]]


def test_the_dream_goes_on_from_the_rows_of_the_world():
    world = np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 8, 8, 3), np.uint8)
    dream = (np.full((8, 8, 3), 200 + t, np.uint8) for t in range(4))
    halves = drawn_halves(gap(), 1, world, dream, {"speed": 1, "place": 0})
    assert halves.context == 2
    assert halves.world.frames is world
    assert halves.dream.frames[:, 0, 0, 0].tolist() == [0, 1, 200, 201, 202, 203]
    assert [*halves.world.variables] == ["speed", "place"]
    assert halves.world.variables["speed"].tolist() == [-100, -101, -102, -103]
    assert halves.dream.variables["place"].tolist() == [100, 101, 110, 111, 112, 113]
    assert halves.world.reward.tolist() == [100, 101, 102, 103]
    assert halves.dream.reward.tolist() == [100, 101, 110, 111, 112, 113]


def test_frames_that_were_drawn_are_kept_as_small_as_those_of_the_world():
    world, large = np.zeros((4, 320, 160, 3), np.uint8), [np.zeros((640, 320, 3), np.uint8)] * 4
    assert drawn_halves(gap(), 1, world, large, {}).dream.frames.shape == (6, 320, 160, 3)


def test_images_are_shown_as_the_model_sees_them():
    halves = image_halves(gap((16, 16, 1)), 0, "obs")
    assert halves.world.frames.shape == (6, 16, 16, 1) and halves.world.variables == {}
    assert halves.world.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert halves.dream.frames[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 12]
