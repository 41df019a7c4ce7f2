"""Certificates: each part is of its own rows, the state after a context knows no later row, the sandwich holds."""

import math

import pytest
import torch

from worldmodel.data import batches
from worldmodel.data.batches import select
from worldmodel.evaluation import certificates
from worldmodel.evaluation.certificates import RowsFrom, certify, measure_parts
from worldmodel.evaluation.proposals import EARLY, FROM_RESET, GUIDED, SHARP
from worlds import CATEGORICAL, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

LENGTHS = (9, 6, 4, 9)


def make_episodes(spec=VECTOR_SPEC):
    batch = make_batch(spec, batch=len(LENGTHS), length=9, first=())
    return batch._replace(valid=torch.arange(9) < torch.tensor(LENGTHS)[:, None])


def test_the_parts_are_of_the_first_rows_and_of_those_after_them(generator, monkeypatch):
    monkeypatch.setattr(certificates, "ROWS", 3)
    first, after = measure_parts(
        make_model(), make_episodes(), context=4, particles=4, proposal=GUIDED, generator=generator
    )
    assert (first.first, first.last, first.episodes, first.rows) == (1, 4, 4, 16)
    assert (after.first, after.last, after.episodes, after.rows) == (5, 7, 3, 3 + 2 + 3)
    for part in (first, after):
        assert part.gap.mean == pytest.approx(part.smc.mean - part.elbo.mean, abs=1e-6)
        assert math.isfinite(part.width.mean) and part.certificate.width == part.width


def test_a_part_that_one_episode_alone_has_is_left_out_and_no_context_has_none(generator):
    settings = {"particles": 4, "proposal": GUIDED, "generator": generator}
    model, episodes = make_model(), select(make_episodes(), slice(1, 3))
    assert [part.last for part in measure_parts(model, episodes, context=5, **settings)] == [5]
    assert measure_parts(model, episodes, context=0, **settings) == ()


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_state_after_the_context_knows_no_later_row(smoothing):
    model, episodes = make_model(smoothing=smoothing), make_episodes()
    spoilt = episodes._replace(obs={"obs": episodes.obs["obs"] + 9.0 * (torch.arange(9) >= 4)[:, None]})
    carries = [
        certificates._after(model, batch, 4, torch.Generator().manual_seed(0)).start for batch in (episodes, spoilt)
    ]
    torch.testing.assert_close(*carries, rtol=0, atol=0)


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_images_and_classes_are_certified_a_few_episodes_at_a_time(latent, generator, monkeypatch):
    model = make_model(MIXED_SPEC, **({"latent": CATEGORICAL} if latent == "categorical" else {}))
    monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 1)
    found = measure_parts(
        model, make_episodes(MIXED_SPEC), context=3, particles=2, proposal=GUIDED, generator=generator
    )
    assert [part.rows for part in found] == [12, 6 + 3 + 1 + 6]


@pytest.mark.parametrize("proposal", [GUIDED, EARLY, pytest.param(FROM_RESET, marks=pytest.mark.slow)])
def test_more_particles_make_every_sandwich_narrower(proposal, generator):
    model = make_model()
    template = RowsFrom(make_batch(batch=12, length=5, first=()))
    (few, few_rows), (many, _) = (certify(model, template, n, proposal, generator) for n in (2, 24))
    assert few.width.mean > -3 * few.width.error
    wide = few.width.mean if proposal is GUIDED else 0.2  # the others are narrow with two particles already
    assert abs(many.width.mean) < wide / 2
    assert few.lower.shape == few.upper.shape == (1, 12)
    total = (few.upper - few.lower).mean()
    assert few_rows[-1].item() == pytest.approx(total.item(), rel=1e-6)


def test_the_sandwich_of_the_rows_after_a_context_is_of_that_state(generator):
    """The episodes are simulated from the state that they are explained from: with many particles nothing is left."""
    model = make_model()
    after = certificates._after(model, make_batch(batch=30, length=8, first=()), 4, generator)
    exact = certify(model, after, 200, SHARP, generator)[0].width
    assert abs(exact.mean) < 0.02 + 3 * exact.error and exact.error < 0.05
