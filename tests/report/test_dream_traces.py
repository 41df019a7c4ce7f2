"""The picture of a dream beside its world: which starts, which numbers, and where they end."""

import numpy as np

from worldmodel.evaluation.dream_gap import Course, DreamGap
from worldmodel.report.dream_traces import dream_figure
from worldmodel.report.vocabulary import DREAM_LOOKS

RUNNING = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)


def gap(shape=(2,), dtype=np.float32):
    obs = np.arange(12 * np.prod(shape)).reshape(3, 4, *shape).astype(dtype)
    action = np.zeros((3, 4, 1))
    world = Course({"obs": obs}, action, np.ones((3, 4)), RUNNING)
    dream = Course({"obs": obs + dtype(5)}, action, np.full((3, 4), 0.5), np.roll(RUNNING, 1, 0))
    before = Course({}, np.zeros((3, 7, 1)), np.zeros((3, 7)), np.ones((3, 7), bool))
    return DreamGap(np.arange(3), before, world, dream, 0, {})


def drawn(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines()}


def test_the_best_and_the_median_start_are_drawn_up_to_their_ends():
    figure = dream_figure(gap())
    best, median = figure.subfigs
    assert best.get_suptitle() == "best start: return 4.0 in the world, 1.5 in the dream"
    assert median.get_suptitle() == "median start: return 3.0 in the world, 1.0 in the dream"
    reward, first, second = best.axes
    assert [axis.get_ylabel() for axis in best.axes] == ["reward", "obs[0]", "obs[1]"]
    assert drawn(reward)["dream"].tolist() == [[7, 0.5], [8, 0.5], [9, 0.5]]
    assert drawn(first)["world"].tolist() == [[7, 0], [8, 2], [9, 4], [10, 6]]
    assert drawn(second)["dream"].tolist() == [[7, 6], [8, 8], [9, 10]]
    assert drawn(median.axes[1])["world"].tolist() == [[7, 16], [8, 18], [9, 20]]
    colours = {line.get_label(): line.get_color() for line in first.get_lines()}
    assert colours == {name: look.colour for name, look in DREAM_LOOKS.items()}


def test_images_are_strips_of_the_world_and_the_dream():
    best, _ = dream_figure(gap((4, 4, 3), np.uint8)).subfigs
    world, dream, reward = best.axes[:6], best.axes[6:12], best.axes[12]
    assert reward.get_ylabel() == "reward" and len(best.axes) == 13
    one = gap((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(world[-1].get_images()[0].get_array(), one.world.obs["obs"][0, 3])
    np.testing.assert_array_equal(dream[0].get_images()[0].get_array(), one.dream.obs["obs"][0, 0])
    assert not dream[-1].get_images() and not dream[-1].axison  # it had ended


def test_a_single_start_stands_alone():
    one = gap()
    parts = (one.before, one.world, one.dream)
    first = [Course({name: x[:1] for name, x in c.obs.items()}, *(x[:1] for x in c[1:])) for c in parts]
    (only,) = dream_figure(DreamGap(one.seeds[:1], *first, 0, {})).subfigs
    assert only.get_suptitle().startswith("only start: return 4.0")
