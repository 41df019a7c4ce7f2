"""The report of evidence: means, errors, joining of parts, and the doubts that keep a gap from being printed."""

import pytest
import torch

from oracles.gaussian_worlds import random_model, random_rows
from tiny_hmm import TinyHMM, colours
from worldmodel.evidence.estimate import NARROW, WIDE, Certificate, Doubt, Estimate, evidence, join, per_step

FINE = {"gap": Estimate(0.1, 0.01), "width": Estimate(0.01, 0.001), "degenerate_rows": 0.0}


def test_bound_and_estimates_stand_in_order_below_the_truth(generator):
    model = TinyHMM(colours(300, 8), dull=0.1)
    result = evidence(model, 16, runs=3, generator=generator)
    truth = per_step(model.log_evidence(), result.steps)
    elbo, smc = result.over_sequences("elbo"), result.over_sequences("smc")
    assert elbo.mean < result.over_sequences("iwae").mean < truth.mean and elbo.mean < smc.mean < truth.mean
    assert smc.error == pytest.approx(truth.error, rel=0.2)  # dominated by which sequences were seen
    assert result.over_runs("smc").error < smc.error / 5
    assert abs(smc.mean - truth.mean) < 0.02
    assert result.gap.mean == pytest.approx(smc.mean - elbo.mean)
    assert result.gap.error < smc.error  # paired
    torch.testing.assert_close(result.filtered.increment.sum(1), result.smc.mean(0))
    torch.testing.assert_close(result.bound.elbo.sum(1), result.elbo.mean(0))


def test_of_the_exact_posterior_the_gap_is_zero_without_noise(generator):
    """Bound and estimate are the evidence at every draw, unless resampling adds its own: a difference has no error."""
    model = random_model(generator)
    x, action = random_rows(model, generator)
    result = evidence(model.given(x, action), 4, generator=generator, threshold=0.0)
    torch.testing.assert_close(result.elbo, model.log_evidence(x, action).sum(1).expand(2, -1), rtol=1e-9, atol=1e-9)
    assert abs(result.gap.mean) < 1e-9 and result.gap.error < 1e-9


def test_parts_are_joined_as_if_they_were_one(generator):
    x = colours(5, 9)
    parts = [evidence(TinyHMM(x[:3]), 4, generator=generator), evidence(TinyHMM(x[3:, :4]), 4, generator=generator)]
    whole = join(parts)
    assert whole.steps.tolist() == [9, 9, 9, 4, 4] and whole.smc.shape == (2, 5)
    assert torch.equal(whole.smc[:, 3:], parts[1].smc) and torch.equal(whole.elbo[:, :3], parts[0].elbo)
    torch.testing.assert_close(whole.filtered.increment.sum(1), whole.smc.mean(0))
    torch.testing.assert_close(whole.bound.elbo.sum(1), whole.elbo.mean(0))
    assert torch.equal(whole.degenerate[3:, :4], parts[1].degenerate)
    assert not whole.filtered.ess[3:, 4:].any() and not whole.bound.valid[3:, 4:].any()


def test_the_error_of_a_ratio_is_what_repetition_shows():
    """Sequences of random length, many times over: the spread of the estimates is the error that each claims."""
    g = torch.Generator().manual_seed(0)
    steps = torch.randint(5, 50, (2000, 30), generator=g)
    totals = steps * -1.3 + steps.sqrt() * torch.randn(2000, 30, generator=g, dtype=torch.float64)
    estimates = [per_step(total, n) for total, n in zip(totals, steps, strict=True)]
    spread = torch.tensor([e.mean for e in estimates]).std().item()
    assert sum(e.error for e in estimates) / 2000 == pytest.approx(spread, rel=0.06)
    one = per_step(totals[0, :1], steps[0, :1])
    assert one.error != one.error  # NaN: one sequence has no spread


def test_a_single_run_has_no_error_of_its_own(generator):
    error = evidence(TinyHMM(colours(2, 3)), 2, runs=1, generator=generator).over_runs("smc").error
    assert error != error


def test_degenerate_rows_are_counted_where_rows_count(generator):
    valid = torch.arange(6) < torch.tensor([6, 3])[:, None]
    result = evidence(TinyHMM(colours(2, 6), valid), 1, generator=generator)
    assert result.degenerate_rows == 1.0  # one particle is fewer than two
    assert evidence(TinyHMM(colours(2, 6), valid), 200, generator=generator).degenerate_rows == 0.0


def test_a_run_that_degenerates_is_not_hidden_by_one_that_does_not(generator):
    """Three particles, two runs: where the runs' mean is above, one of them may be below."""
    result = evidence(TinyHMM(colours(50, 6)), 3, runs=2, generator=generator, threshold=0.0)
    assert set(result.degenerate.unique().tolist()) == {0.0, 0.5, 1.0}
    half = (result.degenerate == 0.5) & (result.filtered.ess >= 2)
    assert half.any()
    assert result.degenerate_rows == pytest.approx(result.degenerate.mean().item())


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"degenerate_rows": 0.3}, Doubt.DEGENERATE),
        ({"degenerate_rows": float("nan")}, Doubt.DEGENERATE),
        ({"width": Estimate(WIDE * 0.1 + 0.001, 0.001)}, Doubt.WIDE),
        ({"width": Estimate(-1.0, 0.001)}, Doubt.WIDE),
        ({"width": Estimate(float("nan"), 0.001)}, Doubt.WIDE),
        ({"width": Estimate(0.0, WIDE * 0.1 + 0.001)}, Doubt.WIDE),
        ({"width": Estimate(0.0, float("nan"))}, Doubt.WIDE),
        ({"gap": Estimate(-0.1, 0.01), "width": Estimate(0.0, 0.0)}, Doubt.NEGATIVE),
    ],
)
def test_a_doubtful_gap_is_not_to_be_printed(change, doubt):
    assert Certificate(**{**FINE, **change}).doubts == (doubt,)


def test_a_gap_is_printed_where_nothing_speaks_against_it():
    assert Certificate(**FINE).doubts == ()
    tiny_gap = {"gap": Estimate(-0.0001, 0.001), "width": Estimate(NARROW, 0.0)}
    assert Certificate(**{**FINE, **tiny_gap}).doubts == ()
