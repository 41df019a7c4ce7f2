"""The measurement of the evidence: its sums agree, every row is scored once, and the proposal is chosen by its rule."""

import json
import math

import numpy as np
import pytest
import torch

from evidence_reports import make_parts, make_report
from worldmodel.data import batches
from worldmodel.data.batches import select
from worldmodel.evaluation import proposals
from worldmodel.evaluation.evidence import (
    EvidenceReport,
    _estimate,
    _tails,
    measure_evidence,
    over_episodes,
    rough_evidence,
)
from worldmodel.evaluation.proposals import GUIDED
from worldmodel.evidence.estimate import Doubt
from worldmodel.types import Batch
from worlds import CATEGORICAL, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

LENGTHS = (7, 4, 6)


def make_episodes(spec=VECTOR_SPEC, *, seed=0) -> Batch:
    """Whole episodes of different lengths, padded with rows that would be noticed."""
    batch = make_batch(spec, batch=len(LENGTHS), length=7, first=(), seed=seed)
    return batch._replace(valid=torch.arange(7) < torch.tensor(LENGTHS)[:, None])


@pytest.fixture(scope="module")
def episodes():
    return make_episodes()


@pytest.fixture(scope="module")
def report(episodes):
    exact = torch.arange(21.0, dtype=torch.float64).reshape(3, 7) / 8
    return measure_evidence(make_model(), episodes, particles=[16, 4], runs=3, seed=1, exact=exact)


def test_terms_and_curves_add_up_to_the_bound_and_to_the_estimate(report):
    best, steps = report.best, report.steps
    assert [one.particles for one in report.estimates] == [4, 16]
    assert sum(term.bound for term in report.terms.values()) - report.kl == pytest.approx(best.elbo.mean, rel=1e-6)
    filtered = sum(term.filtered for term in report.terms.values())
    assert filtered - report.information == pytest.approx(best.smc.mean, rel=1e-6)
    assert steps.episodes.tolist() == [3, 3, 3, 3, 2, 2, 1]
    assert report.rows == steps.episodes.sum() == sum(LENGTHS)
    assert (steps.bound * steps.episodes).sum() / report.rows == pytest.approx(best.elbo.mean, rel=1e-6)
    assert (steps.evidence * steps.episodes).sum() / report.rows == pytest.approx(best.smc.mean, rel=1e-6)
    assert best.gap.mean == pytest.approx(best.smc.mean - best.elbo.mean, rel=1e-6)
    assert ((steps.ess > 0) & (steps.ess <= 1 + 1e-9)).all()
    assert report.variables == 3 + 1 + 1


def test_the_distance_to_the_exact_evidence_is_paired_by_episode(report):
    kept = [np.arange(length) + 7 * b for b, length in enumerate(LENGTHS)]  # its rows, in eighths of a nat
    exact = sum(rows.sum() for rows in kept) / 8 / sum(LENGTHS)
    assert report.exact.mean == pytest.approx(exact)
    for name in ("elbo", "iwae", "smc"):
        assert report.best.below_exact[name].mean == pytest.approx(exact - getattr(report.best, name).mean, rel=1e-6)
    by_step = [np.mean([(t + 7 * b) / 8 for b, length in enumerate(LENGTHS) if t < length]) for t in range(7)]
    np.testing.assert_allclose(report.steps.exact, by_step)


def test_the_same_seed_gives_the_same_numbers_and_nothing_else_is_drawn_from(episodes):
    model, settings = make_model(), {"particles": [4], "runs": 1}
    before = torch.get_rng_state()
    one, again, other = (measure_evidence(model, episodes, **settings, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.best.smc == again.best.smc != other.best.smc
    assert one.exact is None and one.best.below_exact == {} and one.steps.exact is None
    assert math.isnan(one.best.run_error["smc"])


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_every_kind_of_observation_is_measured_a_few_episodes_at_a_time(latent, monkeypatch):
    model = make_model(MIXED_SPEC, **({"latent": CATEGORICAL} if latent == "categorical" else {}))
    monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 1)
    mixed = make_episodes(MIXED_SPEC)
    assert [part.valid.shape for part in proposals.parts(model, mixed, 4)] == [(1, n) for n in LENGTHS]
    report = measure_evidence(model, mixed, particles=[4], runs=1, seed=0, pilot=mixed)
    assert {name: term.variables for name, term in report.terms.items()} == {
        **{"camera": 16 * 16 * 3, "cards": 2, "joints/angle": 2, "lamps": 2},
        **{"reward": 1, "continue": 1},
    }
    assert np.isfinite([report.best.smc.mean, report.best.iwae.mean, *report.steps.evidence]).all()
    assert report.chosen_on == 3


def test_where_the_posterior_is_exact_there_is_no_gap_and_no_width(episodes):
    """Latents that nothing depends on, and q = p: every particle weighs the same."""
    model = make_model(skip=False)
    with torch.no_grad():
        for head in (model.dynamics.posterior_rest, model.dynamics.prior_head):
            for parameter in head[-1].parameters():
                parameter.zero_()
        for part in (model.dynamics.cell, model.decoder):
            for name, parameter in part.named_parameters():
                if "stoch" in name or (part is model.decoder and parameter.shape[-1:] == (8 + 4,)):
                    parameter[..., -4:] = 0
    found = measure_evidence(model, episodes, particles=[8], runs=1, seed=0).best
    assert found.gap.mean == pytest.approx(0, abs=1e-6)
    assert found.width.mean == pytest.approx(0, abs=1e-6)
    assert found.smc.mean == pytest.approx(found.iwae.mean, abs=1e-6)
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"particles": []}, r"particles: expected numbers of at least 2, got \[\]"),
        ({"particles": [64, 1]}, r"particles: expected numbers of at least 2, got \[64, 1\]"),
        ({"runs": 0}, "runs: expected at least 1, got 0"),
        ({"context": -1}, "context: expected zero or more, got -1"),
    ],
)
def test_a_mistake_is_refused(change, words, episodes):
    with pytest.raises(ValueError, match=words):
        measure_evidence(make_model(), episodes, **{"particles": [4], "runs": 1, "seed": 0} | change)


def test_a_single_episode_has_no_error(episodes):
    with pytest.raises(ValueError, match="episodes: expected at least 2, which errors are taken over, got 1"):
        measure_evidence(make_model(), select(episodes, slice(1)), particles=[4], runs=1, seed=0)


def test_a_rough_look_is_of_the_first_rows_and_repeats_itself(episodes):
    model, settings = make_model(), {"particles": 8, "sequences": 2, "rows": 5, "seed": 0}
    rough = rough_evidence(model, episodes, **settings)
    assert rough == rough_evidence(model, episodes, **settings)
    assert rough.gap == pytest.approx(rough.smc - rough.elbo)
    assert 0 < rough.ess <= 1
    beginnings = select(episodes, slice(2), slice(5))
    spoilt = episodes._replace(reward=episodes.reward + 100 * (torch.arange(7) >= 5))
    assert rough_evidence(model, spoilt, **settings) == rough
    assert rough_evidence(model, beginnings, **settings) == rough
    assert rough_evidence(model, episodes, **settings | {"sequences": 3}) != rough


def test_a_rough_look_at_large_rows_is_of_fewer_episodes(monkeypatch):
    model, mixed = make_model(MIXED_SPEC), make_episodes(MIXED_SPEC)
    settings = {"particles": 2, "rows": 3, "seed": 0}
    one = rough_evidence(model, mixed, sequences=1, **settings)
    monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 1)
    found = rough_evidence(model, mixed, sequences=3, **settings)
    assert found == pytest.approx(one, rel=1e-5)  # particles are decoded one by one now, which rounds otherwise


def test_curves_are_means_over_the_episodes_that_have_the_step():
    valid = np.array([[True, True, True], [True, True, False], [True, False, False]])
    rows = np.array([[1.0, 2.0, 3.0], [2.0, 6.0, 99.0], [6.0, 99.0, 99.0]])
    ((mean, error),) = over_episodes([rows], valid)
    np.testing.assert_allclose(mean, [3.0, 4.0, 3.0])
    # standard deviation over the square root of how many: sqrt((4 + 1 + 9) / 2 / 3), sqrt((4 + 4) / 1 / 2), none
    np.testing.assert_allclose(error, [math.sqrt(14 / 6), 2.0, np.nan])


def test_the_gap_of_the_first_rows_adds_up_evidence_minus_bound():
    steps = make_report().steps
    np.testing.assert_allclose(steps.bound, [-3.0, 1.0, 1.5])
    np.testing.assert_allclose(steps.gap_so_far, [1.0, 1.25, 1.25])


@pytest.mark.parametrize("exact", [True, False])
def test_json_is_read_back_as_it_was_written_nan_included(exact):
    report = make_report(exact=exact, parts=make_parts())
    text = json.dumps(report.as_json(), allow_nan=False)
    again = EvidenceReport.from_json(json.loads(text))
    assert json.dumps(again.as_json()) == text
    assert again.best.gap == report.best.gap
    assert again.exact == report.exact
    assert math.isnan(again.best.run_error["smc"])
    assert (again.steps.exact is None) is not exact
    assert again.terms == report.terms and again.parts == report.parts
    np.testing.assert_array_equal(again.steps.width_so_far, report.steps.width_so_far)


def test_a_file_of_an_earlier_version_knows_no_tails():
    data = make_report().as_json()
    for one in data["estimates"]:
        del one["pareto_k"], one["heavy_rows"]
    assert math.isnan(EvidenceReport.from_json(data).best.pareto_k)


def test_tails_are_those_of_the_weights_over_the_rows_that_count(episodes):
    model = make_model()
    found = _estimate(model, episodes, 32, 1, GUIDED, torch.Generator().manual_seed(0))
    k = found.filtered.pareto_k[found.bound.valid]
    median, heavy = _tails(found)
    assert heavy == (k > 0.7).sum().item() / len(k)
    assert ((k <= median).double().mean() - 0.5).abs() <= 1 / len(k)
    few = _tails(_estimate(model, episodes, 8, 1, GUIDED, torch.Generator().manual_seed(0)))
    assert all(map(math.isnan, few))


def test_a_file_of_an_earlier_version_has_no_parts():
    written = make_report(parts=make_parts(wide=True)).as_json()
    assert [one["doubts"] for one in written["parts"]] == [["wide"], []]
    del written["parts"]
    assert EvidenceReport.from_json(written).parts == ()


def test_the_parts_are_measured_with_the_most_particles_where_there_is_a_context(episodes):
    found = measure_evidence(make_model(), episodes, particles=[4, 8], runs=1, seed=0, context=4)
    assert [(part.first, part.last, part.particles, part.episodes) for part in found.parts] == [
        (1, 4, 8, 3),
        (5, 7, 8, 2),
    ]
    without = measure_evidence(make_model(), episodes, particles=[4, 8], runs=1, seed=0)
    assert without.parts == () and without.best == found.best


def test_doubts_are_written_by_name_and_follow_from_the_numbers():
    """Files of earlier versions hold sentences instead, which are not needed."""
    written = make_report(wide=True).as_json()
    assert [one["doubts"] for one in written["estimates"]] == [["wide"], []]
    written["estimates"][0]["doubts"] = ["the sandwich is wide"]
    assert [one.doubts for one in EvidenceReport.from_json(written).estimates] == [(Doubt.WIDE,), ()]


@pytest.mark.parametrize("damage", [{"estimates": []}, {"steps": {"evidence": [1.0], "kl": [1.0, 2.0]}}, {"best": 1}])
def test_something_else_is_refused(damage):
    with pytest.raises((KeyError, TypeError, ValueError)):
        EvidenceReport.from_json({**make_report().as_json(), **damage})
