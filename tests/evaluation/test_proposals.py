"""Which proposals are offered to which model, and which of them is chosen."""

from types import SimpleNamespace

import pytest
import torch

from worldmodel.evaluation import proposals
from worldmodel.evaluation.proposals import (
    EARLY,
    FROM_RESET,
    GUIDED,
    PROPOSALS,
    RARELY,
    SHARP,
    can_sharpen,
    certifying,
    choose_proposal,
    proposals_for,
)
from worldmodel.evidence.look_ahead import LookAhead
from worldmodel.evidence.sharpened import Mixture
from worldmodel.models.latents import DiagonalGaussian
from worlds import CATEGORICAL, FULL, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model


def fake_smc(totals):
    """An SMC that gives the episodes these totals, by proposal."""

    def smc(given, particles, *, generator, prior_share, threshold, first=None):
        sharpened = type(given).__name__ == "LookAhead"
        return SimpleNamespace(
            log_evidence=torch.tensor(totals[prior_share, threshold, sharpened], dtype=torch.float64)
        )

    return smc


@pytest.mark.parametrize(
    ("defensive", "rare", "early", "chosen"),
    [
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.1], [0.0, 0.0, 0.0], 2),  # both are better; the better one of them
        ([2.0, 2.0, 2.1], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 1),
        ([2.0, 2.0, 2.1], [1.0, 1.0, 1.0], [3.0, 3.0, 3.1], 3),
        ([-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0], [-1.0, -1.0, -1.0], 0),
        ([30.0, -14.0, -14.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0),  # better in the mean, by less than its error
    ],
)
def test_another_proposal_is_chosen_where_it_is_surely_better(defensive, rare, early, chosen, monkeypatch):
    model, episodes = make_model(), make_batch(batch=3, length=7, first=())
    offered = proposals_for(model)
    keys = [(proposal.prior_share, proposal.threshold, proposal.sharpened != 0) for proposal in offered]
    totals = dict(zip(keys, ([0.0, 0.0, 0.0], defensive, rare, early), strict=True))
    monkeypatch.setattr(proposals, "smc", fake_smc(totals))
    assert choose_proposal(model, episodes, 4) is offered[chosen]


@pytest.mark.parametrize("others", [[-1.0, -1.0, -1.0], [30.0, -14.0, -14.0]], ids=["worse", "not surely better"])
def test_a_posterior_that_smooths_is_rarely_resampled_unless_another_is_surely_better(others, monkeypatch):
    model, episodes = make_model(smoothing=True), make_batch(batch=3, length=7, first=())
    offered = proposals_for(model)
    assert set(offered) == {*PROPOSALS, EARLY} and offered[0] is RARELY
    keys = [(proposal.prior_share, proposal.threshold, proposal.sharpened != 0) for proposal in offered]
    totals = {key: others for key in keys} | {keys[0]: [0.0, 0.0, 0.0]}
    monkeypatch.setattr(proposals, "smc", fake_smc(totals))
    assert choose_proposal(model, episodes, 4) is RARELY
    totals[keys[1]] = [1.0, 1.0, 1.1]
    assert choose_proposal(model, episodes, 4) is GUIDED


@pytest.mark.parametrize(
    ("model", "sharp"),
    [
        (make_model(VECTOR_SPEC), True),
        (make_model(VECTOR_SPEC, vector="symlog"), True),
        (make_model(VECTOR_SPEC, latent=FULL), True),
        (make_model(VECTOR_SPEC, latent=CATEGORICAL), False),
        (make_model(MIXED_SPEC), False),
    ],
    ids=["vectors", "symlog", "full covariance", "classes", "images"],
)
def test_rows_are_looked_at_where_latents_and_vectors_are_gaussian(model, sharp):
    assert can_sharpen(model) is sharp
    assert proposals_for(model) == ((*PROPOSALS, EARLY) if sharp else PROPOSALS)
    assert certifying(model, GUIDED, from_reset=True) is (FROM_RESET if sharp else GUIDED)
    assert certifying(model, EARLY, from_reset=False) is (SHARP if sharp else EARLY)


def test_a_sequence_is_given_the_proposal_and_its_settings(generator):
    given = make_model().given(make_batch(batch=2, length=10, first=()))
    assert GUIDED.of(given) is given
    early, sharp = EARLY.of(given), FROM_RESET.of(given, generator)
    assert isinstance(sharp, LookAhead)
    for sequence, row, kind in (
        (early, 0, Mixture),
        (early, 8, DiagonalGaussian),
        (sharp, 0, Mixture),
        (sharp, 8, Mixture),
    ):
        _, deter, _ = sequence.step(sequence.initial(3), 0)
        assert isinstance(sequence.proposal(deter, row), kind)
    assert FROM_RESET.settings(128)["first"] == (2, 1024) and FROM_RESET.settings(4096)["first"] == (2, 4096)
    assert GUIDED.settings(8) == {"prior_share": 0.0, "threshold": 0.5}
