"""The parts of the gap on a linear-Gaussian model, where each of them is known."""

import pytest
import torch

from oracles.gaussian_worlds import normal, random_model, random_rows
from worldmodel.evidence.gap import GapDecomposition, decompose_gap, join_gaps
from worldmodel.oracles.filtering_gap import best_filter, filtering_gap
from worldmodel.oracles.markov_gaussian import MarkovGaussian


def world(generator, B):
    model = random_model(generator, n=2)
    return model, *random_rows(model, generator, B=B, T=6, missing=False)


def test_the_filtering_part_is_the_closed_form_where_the_smoother_is_exact(generator):
    """Best filter and exact smoother: all of the gap is filtering, in the mean over rows of the model."""
    model, x, action = world(generator, 300)
    taken = decompose_gap(
        model.given(x, action, proposal=best_filter(model, x, action)),
        model.given(x, action),
        model.log_evidence(x, action).sum(1),
        steps=1,
        samples=1,
        draws=16,
        generator=generator,
    )
    parts = taken.parts()
    closed = filtering_gap(model, torch.ones(1, 6, 2, dtype=torch.bool)).mean().item()
    assert closed > 0.05 and abs(parts["filtering"].mean - closed) < 3.5 * parts["filtering"].error
    assert abs(parts["amortisation"].mean) < 1e-6 and abs(parts["family"].mean) < 1e-6
    assert parts["filtering"].error < 0.2 * closed


def test_a_bad_network_is_amortisation_and_a_mean_field_is_family(generator):
    model, x, action = world(generator, 3)
    exact, log_evidence = model.posterior(x, action), model.log_evidence(x, action).sum(1)
    filtering = model.given(x, action, proposal=best_filter(model, x, action))
    moved = MarkovGaussian(exact.F, exact.f + 0.2 * normal(generator, *exact.f.shape), 1.5 * exact.V)
    blind = MarkovGaussian(torch.zeros_like(exact.F), model.smooth(x, action).mean, exact.V)
    settings = {"steps": 40, "learning_rate": 0.1, "draws": 16, "generator": generator}
    bad = decompose_gap(filtering, model.given(x, action, proposal=moved), log_evidence, **settings).parts()
    assert bad["amortisation"].mean > 0.2 and abs(bad["family"].mean) < 0.03
    rigid = decompose_gap(filtering, model.given(x, action, proposal=blind), log_evidence, **settings).parts()
    # The best mean field: exact means, covariances the inverses of the diagonal blocks of the precision.
    joint = exact.joint()
    precision = torch.linalg.inv(joint.cov)
    V = torch.stack([torch.linalg.inv(precision[:, 2 * t : 2 * t + 2, 2 * t : 2 * t + 2]) for t in range(6)], 1)
    best = model.elbo(MarkovGaussian(blind.F, joint.mean.unflatten(-1, (6, 2)), V), x, action).sum(1)
    assert rigid["family"].mean == pytest.approx((log_evidence - best).mean().item() / 6, rel=0.3)
    assert rigid["family"].mean > 0.05


def test_parts_sum_to_the_gap_and_joining_is_what_all_at_once_would_be(generator):
    levels = [normal(generator, 5).sort().values for _ in range(4)]
    steps = torch.tensor([3, 4, 5, 6, 7])
    whole = GapDecomposition(*levels, steps, trained=levels[0] - 1)
    pieces = [
        GapDecomposition(*(x[i] for x in levels), steps[i], trained=levels[0][i] - 1) for i in (slice(2), slice(2, 5))
    ]
    joined = join_gaps(pieces)
    assert joined.levels() == whole.levels() and joined.parts() == whole.parts()
    parts = whole.parts()
    assert sum(parts[name].mean for name in ("filtering", "amortisation", "family")) == pytest.approx(parts["gap"].mean)
    assert parts["gap"].mean == pytest.approx(((levels[3] - levels[0]).sum() / 25).item())
    assert joined.as_json()["levels"]["trained"] == whole.as_json()["levels"]["trained"]


def test_different_rows_are_refused(generator):
    model, x, action = world(generator, 4)
    shorter = torch.ones(4, 6, dtype=torch.bool)
    shorter[0, 5] = False
    with pytest.raises(ValueError, match="expected the same rows"):
        decompose_gap(model.given(x, action), model.given(x, action, valid=shorter), torch.zeros(4).double())
