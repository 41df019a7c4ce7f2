"""The truth lies between the bounds, and the width between them tells a good estimate from a bad one."""

import pytest
import torch

from tiny_hmm import TinyHMM, colours
from worldmodel.evidence.sandwich import sandwich
from worldmodel.models.simulation import simulate
from worlds import CATEGORICAL, FULL, GAUSSIAN, make_batch, make_model


def simulated(batch=600, length=10, **options):
    x, path = TinyHMM(colours(batch, length), **options).simulate(torch.Generator().manual_seed(0))
    return TinyHMM(x, **options), path


def test_the_truth_is_between(generator):
    model, path = simulated()
    result = sandwich(model, path, 8, runs=2, generator=generator)
    truth = model.log_evidence()
    for below, above in ((result.lower.mean(0), truth), (truth, result.upper.mean(0))):
        difference = above - below
        assert difference.mean() > 3 * difference.std() / 600**0.5
    width = (result.upper - result.lower).mean(0)
    assert result.lower.shape == (2, 600)
    assert result.width.mean == pytest.approx(width.mean().item() / 10)
    assert result.width.error == pytest.approx(width.std().item() / 600**0.5 / 10)


def test_it_narrows_with_the_particles_and_one_particle_is_the_widest(generator):
    model, path = simulated()
    widths = [sandwich(model, path, n, generator=generator).width for n in (1, 8, 64)]
    for wide, narrow in ((widths[0], widths[1]), (widths[1], widths[2])):
        assert wide.mean - narrow.mean > 3 * (wide.error**2 + narrow.error**2) ** 0.5
    assert abs(widths[2].mean) < 0.02


@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
def test_a_world_model_is_sandwiched_on_what_it_dreamt(latent, generator):
    model, template = make_model(latent=latent), make_batch(batch=64, length=5, first=())
    drawn, path = simulate(model, template, generator=generator)
    sequence = model.given(drawn)
    few, many = (sandwich(sequence, path, n, generator=generator).width for n in (2, 128))
    assert few.mean > 3 * few.error and many.mean < few.mean / 3 and many.mean > -3 * many.error


def test_runs_must_be_positive():
    model, path = simulated(batch=2)
    with pytest.raises(ValueError, match="runs"):
        sandwich(model, path, 4, runs=0)
