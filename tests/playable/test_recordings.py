"""What a page knows of held-out episodes is what was recorded, and what filtering makes of it."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from playable_cases import rows_of
from worldmodel.evaluation.latents import infer_latents
from worldmodel.playable.arrays import Arrays
from worldmodel.playable.recordings import few, picture_strip, recordings, start_rows
from worlds import MIXED_SPEC, make_model


def look(arrays, reference):
    store, begins, *shape = reference
    numbers = np.frombuffer(base64.b64decode(arrays.texts()[store][1]), "u1" if store == "bytes" else "<f4")
    return numbers[begins : begins + int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize("smoothing", [False, True])
def test_rows_their_kl_and_the_states_at_the_starts(smoothing):
    model, arrays = make_model(smoothing=smoothing), Arrays()
    episodes = rows_of(model, 3, 9)
    episodes.valid[1, 6:] = False
    episodes.is_terminal[0, -1] = True
    kept, _ = recordings(model, episodes, arrays, torch.Generator().manual_seed(5))
    latents = infer_latents(model, episodes, torch.Generator().manual_seed(5), filtering=True)
    assert [one["rows"] for one in kept] == [9, 6, 9] and [one["terminal"] for one in kept] == [True, False, False]
    for b, one in enumerate(kept):
        rows = one["rows"]
        np.testing.assert_allclose(one["kl"], latents.kl[b, :rows], rtol=1e-5)
        np.testing.assert_allclose(one["reward"], episodes.reward[b, :rows], rtol=1e-5)
        np.testing.assert_allclose(one["entropy"], latents.prior.entropy().sum(-1)[b, :rows].detach(), rtol=1e-5)
        np.testing.assert_array_equal(look(arrays, one["action"]), episodes.prev_action[b, :rows])
        np.testing.assert_array_equal(look(arrays, one["leaves"][0]["values"]), episodes.obs["obs"][b, :rows])
        for start in one["starts"]:
            np.testing.assert_array_equal(look(arrays, start["h"]), latents.states.deter[b, start["row"]])
            np.testing.assert_array_equal(look(arrays, start["z"]), latents.states.stoch[b, start["row"]])


def test_starts_are_spread_and_none_is_the_last_row():
    assert start_rows(40) == [0, 10, 20, 30] and start_rows(3) == [0, 1] and start_rows(2) == [0]


def test_pictures_are_a_strip_that_loses_nothing_and_classes_take_a_byte():
    model, arrays = make_model(MIXED_SPEC), Arrays()
    episodes = rows_of(model, 1, 4)
    kept, _ = recordings(model, episodes, arrays, torch.Generator().manual_seed(0))
    camera, cards, angle, lamps = kept[0]["leaves"]
    np.testing.assert_array_equal(pixels(camera["strip"]).reshape(4, 16, 16, 3), episodes.obs["camera"][0])
    for leaf, path in ((cards, "cards"), (lamps, "lamps")):
        assert leaf["values"][0] == "bytes"
        np.testing.assert_array_equal(look(arrays, leaf["values"]), episodes.obs[path][0])
    assert angle["values"][0] == "numbers"


@pytest.mark.parametrize(("channels", "seen"), [(1, 0), (4, 3)])
def test_other_than_three_channels_are_shown_by_the_last(channels, seen):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, channels), np.uint8)
    np.testing.assert_array_equal(pixels(picture_strip(frames)).reshape(2, 16, 16), frames[..., seen])


def test_few_episodes_are_cut_and_those_of_one_row_left_out():
    episodes = rows_of(make_model(), 4, 9)
    episodes.valid[0, 1:] = False
    chosen = few(episodes, 2, 5)
    assert chosen.valid.shape == (2, 5)
    torch.testing.assert_close(chosen.obs["obs"], episodes.obs["obs"][1:3, :5])
    episodes.valid[:, 1:] = False
    with pytest.raises(ValueError, match="expected a held-out episode of two rows at least, found none"):
        few(episodes, 2, 5)


def pixels(uri: str) -> np.ndarray:
    head, _, text = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
