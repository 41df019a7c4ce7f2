"""Random rows are rows: every field as `types` says it."""

import pytest
import torch

from worldmodel.behaviour.imagination import dream
from worldmodel.data.random_batch import random_batch
from worldmodel.types import ActionSpec, EnvSpec
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch, make_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
def test_rows_are_whole_episodes_of_what_the_spec_says(spec):
    batch, model_rows = random_batch(spec, 3, 7, seeded()), make_batch(spec, first=())
    for path, leaf in spec.observations.items():
        assert (batch.obs[path].dtype, batch.obs[path].shape) == (model_rows.obs[path].dtype, (3, 7, *leaf.shape))
    for name in ("is_first", "episode_step", "valid"):
        assert torch.equal(getattr(batch, name), getattr(model_rows, name))
    assert batch.is_last.nonzero()[:, 1].tolist() == [6, 6, 6] and not batch.is_terminal.any()
    assert batch.prev_action[:, 0].eq(0).all() and batch.reward[:, 0].eq(0).all()


def test_values_fill_their_range():
    spec = EnvSpec(MIXED_SPEC.observations, ActionSpec("binary", 4))
    batch = random_batch(spec, 20, 20, seeded())
    assert set(batch.obs["lamps"].unique().tolist()) == set(batch.prev_action.unique().tolist()) == {0, 1}
    assert [column.unique().tolist() for column in batch.obs["cards"].unbind(-1)] == [[0, 1, 2], [0, 1, 2, 3]]
    assert len(batch.obs["camera"].unique()) == 256
    assert batch.obs["joints/angle"].std().item() == pytest.approx(1, abs=0.1)
    one_hot = random_batch(MIXED_SPEC, 2, 5, seeded()).prev_action[:, 1:]
    assert one_hot.sum(-1).eq(1).all() and set(one_hot.unique().tolist()) == {0, 1}


def test_the_seed_decides_and_an_untrained_model_can_dream_of_them():
    one, again, other = (random_batch(VECTOR_SPEC, 2, 9, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.obs["obs"], again.obs["obs"]) and not torch.equal(one.obs["obs"], other.obs["obs"])
    imagined = dream(make_model(), one, context=4, horizon=5, samples=3, generator=seeded())
    assert imagined.prediction["obs"].shape == (3, 2, 5, 3)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="length: expected at least 1, got 0"):
        random_batch(VECTOR_SPEC, 2, 0, seeded())
