"""What one run says of its own error: against the variance over many runs of oracles; known Pareto tails."""

import math

import pytest
import torch

from springs import Spring
from tiny_hmm import TinyHMM, colours
from worldmodel.evidence.reliability import pareto_k
from worldmodel.evidence.smc import smc

COPIES = 1000


def hidden_markov(generator):
    model = TinyHMM(colours(1, 6, seed=3).expand(COPIES, -1), dull=0.1)
    return model, model.log_evidence()


def spring(generator):
    world = Spring(4, COPIES, generator, noise=1.0)
    return world.sequence, world.truth()


oracles = pytest.mark.parametrize("oracle", [hidden_markov, spring])


@oracles
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_one_run_gives_the_variance_over_runs_without_bias(oracle, threshold, generator):
    sequence, truth = oracle(generator)
    found = smc(sequence, 128, generator=generator, threshold=threshold, resampling="multinomial")
    assert found.resampled.any() == (threshold > 0)
    told = ~found.relative_variance.isnan()
    assert told.float().mean() > 0.99
    ratio = (found.log_evidence - truth).exp()[told]
    difference = ratio.square() * found.relative_variance[told] - (ratio - 1).square()
    error = difference.std() / len(ratio) ** 0.5
    assert difference.mean().abs() < 4 * error < 0.5 * (ratio - 1).square().mean()  # or the test could not fail


def test_after_systematic_resampling_it_is_not_told(generator):
    sequence, _ = hidden_markov(generator)
    found = smc(sequence, 128, generator=generator, threshold=0.5)
    assert torch.equal(found.relative_variance.isnan(), found.resampled.any(1))


def test_more_particles_are_surer_in_proportion(generator):
    model = TinyHMM(colours(1, 6, seed=3).expand(COPIES, -1), dull=0.1)
    few, many = (
        smc(model, n, generator=generator, resampling="multinomial").relative_variance.nanmean() for n in (64, 256)
    )
    assert few / many == pytest.approx(4, rel=0.2)


def test_a_long_sequence_a_fixed_path_and_a_single_particle_tell_nothing(generator):
    long = TinyHMM(colours(50, 60, seed=3), dull=0.1)
    assert smc(long, 8, generator=generator, threshold=1.0, resampling="multinomial").relative_variance.isnan().all()
    x, path = TinyHMM(colours(50, 6), dull=0.1).simulate(generator)
    assert smc(TinyHMM(x, dull=0.1), 64, generator=generator, path=path).relative_variance.isnan().all()
    assert smc(TinyHMM(x, dull=0.1), 1, generator=generator).relative_variance.isnan().all()


@pytest.mark.parametrize("k", [0.1, 0.5, 0.9])
def test_the_shape_of_a_known_pareto_tail_is_found(k, generator):
    """Weights (1 - u)^-k have a generalised Pareto tail of shape k above every threshold."""
    N, M = 10_000, 300
    u = torch.rand(N, 400, generator=generator, dtype=torch.float64)
    found = pareto_k(-k * torch.log1p(-u))
    expected = (M * k + 10 * 0.5) / (M + 10)
    assert found.mean() == pytest.approx(expected, abs=0.02)
    assert found.std() == pytest.approx((1 + k) / M**0.5 * M / (M + 10), rel=0.25)  # of the maximum likelihood


def test_light_tails_have_small_shapes_whatever_the_unit_and_equal_weights_none(generator):
    uniform = torch.rand(1_000, 50, generator=generator, dtype=torch.float64).log()
    assert pareto_k(uniform).max() < 0.3
    torch.testing.assert_close(pareto_k(uniform), pareto_k(uniform - 2_000))
    assert (pareto_k(torch.zeros(100, 3, dtype=torch.float64)) == 0).all()
    one_alone = torch.full((100, 1), -math.inf, dtype=torch.float64)
    one_alone[3] = 0.0
    assert pareto_k(one_alone) > 0.7
    assert pareto_k(uniform[:24]).isnan().all() and pareto_k(uniform[:25]).isfinite().all()
