"""Pictures of imagination: they hold the numbers they are given, and every file can be opened."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel.evaluation.scenes import make_scenes
from worldmodel.evaluation.scores import Scores
from worldmodel.evaluation.scoring_rules import Band
from worldmodel.report import imagination as report
from worldmodel.report.fans import class_chart, fan_chart
from worldmodel.report.figures import bound_curves, open_loop_figure, render
from worldmodel.report.films import as_rgb, film_gif, film_strip, gain, sharpening
from worlds import MIXED_SPEC, make_batch, make_model

CONTEXT, HORIZON = 3, 4


@pytest.fixture(scope="module")
def scenes():
    settings = {"context": CONTEXT, "horizon": HORIZON, "samples": 3, "shown": 2}
    batch = make_batch(MIXED_SPEC, first=())
    return make_scenes(make_model(MIXED_SPEC), batch, **settings, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def blind():
    """The same under other actions than those recorded: there is no truth beyond the context."""
    settings = {"context": CONTEXT, "horizon": HORIZON, "samples": 3, "shown": 2, "action": torch.ones(2, HORIZON, 3)}
    batch = make_batch(MIXED_SPEC, first=())
    return make_scenes(make_model(MIXED_SPEC), batch, **settings, generator=torch.Generator().manual_seed(0))


def curve(start):
    mean = np.linspace(start, start + 1, HORIZON)
    return Band(mean, mean - 0.1, mean + 0.1)


def lines(axis):
    return {line.get_label(): line.get_xydata() for line in axis.get_lines()}


def pictures(file):
    """Every frame of a file as pixels."""
    with Image.open(io.BytesIO(file)) as image:
        frames = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
    return frames


def test_every_leaf_has_its_file_and_every_file_is_a_picture(scenes, blind):
    scores = Scores(CONTEXT, HORIZON, 3, 2, 2, {"lamps": {"nll": {"model": curve(1.0)}}})
    files = report.imagination_files(scenes, scores)
    leaves = {"film_camera.png", "film_camera.gif", "classes_cards.png", "classes_lamps.png", "fan_joints_angle.png"}
    expected = leaves | {"fan_reward.png", "fan_continue.png", "latents.png"}
    assert files.keys() == expected | {"scores.png", "scores.json"}
    assert json.loads(files["scores.json"]) == scores.as_json()
    without = report.imagination_files(blind, None)
    assert without.keys() == expected
    for name, file in [*files.items(), *without.items()]:
        if name != "scores.json":
            frames = pictures(file)
            assert len(frames) == (CONTEXT + HORIZON if name.endswith(".gif") else 1), name
            assert min(frames[0].shape[:2]) > 100 and frames[0].std() > 5, name


def test_names_that_would_be_one_file_are_two():
    assert report.file_stems(["a/b", "a_b", "c", "a/b/c"]) == ["a_b", "a_b_2", "c", "a_b_c"]


def test_a_fan_holds_paths_truth_and_split(scenes, blind):
    scene = scenes.leaves["joints/angle"]
    figure = fan_chart("joints/angle", scene, CONTEXT)
    axes = np.array(figure.axes).reshape(2, 2)  # dimensions by episodes
    for i in range(2):
        for episode in range(2):
            drawn = lines(axes[i, episode])
            np.testing.assert_allclose(drawn["what happened"][:, 1], scene.truth[episode, :, i])
            np.testing.assert_allclose(drawn["expected, mean of futures"][:, 1], scene.mean[episode, :, i])
            first = drawn["expected, single futures"]
            np.testing.assert_allclose(first[:, 0], np.arange(CONTEXT, CONTEXT + HORIZON))
            np.testing.assert_allclose(first[:, 1], scene.paths[0, episode, CONTEXT:, i])
            assert any(np.all(xy[:, 0] == CONTEXT - 0.5) for xy in drawn.values())
            bands = [c.get_paths()[0].vertices for c in axes[i, episode].collections]
            for band, (low, high) in zip(bands, scene.bands[[[0, 3], [1, 2]], episode, :, i], strict=True):
                assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((low.min(), high.max()))
    (axis, *_) = fan_chart("joints/angle", blind.leaves["joints/angle"], CONTEXT).axes
    assert len(lines(axis)["what happened"]) == CONTEXT


def test_class_charts_hold_probabilities_and_mark_what_happened(scenes):
    cards = scenes.leaves["cards"]
    axes = np.array(class_chart("cards", cards, CONTEXT).axes[:4]).reshape(2, 2)
    for v, part in enumerate((slice(0, 3), slice(3, 7))):
        shown = axes[v, 1].get_images()[0].get_array()
        np.testing.assert_allclose(shown, cards.mean[1, :, part].T)
        np.testing.assert_allclose(shown.sum(0), 1, rtol=1e-5)
        np.testing.assert_array_equal(lines(axes[v, 1])["what happened"][:, 1], cards.truth[1, :, v])
    lamps = scenes.leaves["lamps"]
    axis = class_chart("lamps", lamps, CONTEXT).axes[0]
    np.testing.assert_allclose(axis.get_images()[0].get_array(), lamps.mean[0].T)
    steps, bits = lines(axis)["what happened"].T.astype(int)
    assert lamps.truth[0][steps, bits].all() and len(steps) == lamps.truth[0].sum()


def test_a_strip_has_truth_imagination_and_difference_at_the_same_steps(scenes, blind):
    scene = scenes.leaves["camera"]
    axes = np.array(film_strip("camera", scene, CONTEXT).axes).reshape(4, -1)
    steps = [1, 2, 3, 4, 5, 6]  # the last two seen, and all that were imagined
    assert [axis.get_title() for axis in axes[0]] == ["seen -1", "last seen", "+1", "+2", "+3", "+4"]
    off = np.abs(scene.mean[0] - scene.truth[0])
    rows = (scene.truth[0], scene.paths[0, 0], scene.mean[0], gain(off) * off)
    for line, pixels in zip(axes, rows, strict=True):
        for axis, t in zip(line, steps, strict=True):
            np.testing.assert_array_equal(axis.get_images()[0].get_array(), as_rgb(pixels[t]))
    axes = np.array(film_strip("camera", blind.leaves["camera"], CONTEXT).axes).reshape(3, -1)
    assert [len(axis.get_images()) for axis in axes[0]] == [1, 1, 0, 0, 0, 0]


def test_a_film_has_a_frame_for_every_step_with_truth_imagination_and_difference_enlarged(scenes):
    scene = scenes.leaves["camera"]
    with Image.open(io.BytesIO(film_gif(scene, CONTEXT))) as image:
        assert image.n_frames == CONTEXT + HORIZON and image.info["loop"] == 0
        width = image.size[0]
    assert width == 3 * 160 + 4 * 6
    factor = gain(np.abs(scene.paths[0, 0] - scene.truth[0]))
    for t, frame in enumerate(pictures(film_gif(scene, CONTEXT))):
        truth, imagined = scene.truth[0, t], scene.paths[0, 0, t]
        panels = (truth, imagined, factor * np.abs(imagined - truth))
        for i, pixels in enumerate(panels):
            left = 6 + i * 166
            shown = frame[26:186, left : left + 160].astype(float)
            cells = shown.reshape(16, 10, 16, 10, 3)
            assert np.ptp(cells, axis=(1, 3)).max() == 0  # every pixel is a square of its own
            error = np.abs(cells[:, 0, :, 0] - as_rgb(pixels))  # 256 colours stand for all of a frame's
            assert error.mean() < 40, (t, i, error.mean())


def test_differences_are_brightened_by_a_whole_factor_that_clips_nothing():
    assert [gain(np.array([0.0, largest])) for largest in (0.0, 10.0, 60.0, 127.0, 128.0, 255.0)] == [8, 8, 4, 2, 1, 1]


def test_reconstructions_stand_under_the_truth_by_update_the_first_and_the_last_among_them():
    truth = np.full((4, 16, 16, 3), 200.0)
    figure = sharpening("camera", truth, {update: np.full_like(truth, update) for update in range(10, 101, 10)})
    lines = np.array(figure.axes).reshape(7, 4)
    shown = [line[0].get_ylabel() for line in lines]
    assert (shown[0], shown[1], shown[-1]) == ("truth", "update 10", "update 100")
    assert len(set(shown)) == 7
    for line, label in zip(lines, shown, strict=True):
        level = 200 if label == "truth" else int(label.split()[1])
        assert all((axis.images[0].get_array() == level).all() for axis in line)


def test_channels_that_are_no_colours_are_shown_in_grey():
    stack = np.zeros((2, 2, 4))
    stack[..., 3] = [[0, 100.4], [300, -5]]
    np.testing.assert_array_equal(as_rgb(stack)[..., 1], [[0, 100], [255, 0]])
    assert as_rgb(stack).shape == (2, 2, 3)


def test_scores_are_drawn_with_their_intervals_and_what_is_not_defined_is_left_out():
    metrics = {"nll": {"model": curve(1.0), "marginal": curve(2.0)}, "coverage": {"model": curve(0.0)}}
    figure = report.score_chart(Scores(16, HORIZON, 8, 5, 40, {"obs": metrics, "reward": {"nll": metrics["nll"]}}))
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert axes.keys() == {"obs: negative log-likelihood", "obs: coverage", "reward: negative log-likelihood"}
    drawn = lines(axes["obs: negative log-likelihood"])
    np.testing.assert_allclose(drawn["the model"], np.stack([np.arange(1, HORIZON + 1), curve(1.0).mean], -1))
    np.testing.assert_allclose(drawn["marginal of the training data"][:, 1], curve(2.0).mean)
    band = axes["obs: negative log-likelihood"].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.9, 2.1))
    assert "nominal coverage" in lines(axes["obs: coverage"])
    assert "40 futures of 5 held-out episodes" in figure.get_suptitle()


def test_the_map_shows_paths_that_leave_from_the_last_row_seen(scenes):
    latents = scenes.latents
    axis = report.latent_map(latents, CONTEXT).axes[1]
    drawn = lines(axis)
    start = latents.filtered[1, CONTEXT - 1]
    np.testing.assert_allclose(drawn["posterior states of the held-out episodes"], latents.posterior)
    np.testing.assert_allclose(drawn["imagined futures"], np.vstack([start, latents.imagined[0, 1]]))
    np.testing.assert_allclose(drawn["what happened, filtered"], latents.filtered[1])
    np.testing.assert_allclose(drawn["last step seen"], [start])
    assert f"{latents.explained[0]:.0%}" in axis.get_xlabel()


def test_observations_of_any_name_are_drawn_and_filed(scenes, tmp_path):
    names = ["cost in $", r"$\frac$", "a\0b", "x" * 300, "a/b", "a_b", "../up"][: len(scenes.leaves)]
    named = replace(scenes, leaves=dict(zip(names, scenes.leaves.values(), strict=True)))
    files = report.imagination_files(named, None)
    assert len(files) == 2 + len(names)  # the map, and the film's animation
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    frames = scenes.leaves["camera"].truth[0]
    for name in names[:4]:
        assert render(sharpening(name, frames[:1], {1: frames[:1]}))
    assert render(open_loop_figure({name: [np.ones(3)] * 3 for name in names[:4]}))
    assert render(bound_curves({"update": [1, 2], **{name: [0.0, 1.0] for name in names[:4]}}, {}))
