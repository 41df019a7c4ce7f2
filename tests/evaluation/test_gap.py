"""Posteriors trained against a frozen model, and the gap between them measured on its episodes."""

import pytest
import torch

from run_folder import nothing_sharpened
from worldmodel.evaluation import certificates, gap
from worldmodel.evaluation.gap import measure_gap
from worldmodel.evaluation.proposals import FROM_RESET, GUIDED, PROPOSALS
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.models.posteriors import posterior_parts
from worldmodel.training.posterior_fit import fit_posterior
from worlds import CATEGORICAL, GAUSSIAN, make_batch, make_model


def fitted(model, kind, batch, updates, generator):
    return fit_posterior(model, kind, lambda: batch, updates=updates, learning_rate=1e-2, generator=generator)


def test_a_fitted_posterior_raises_the_bound_and_leaves_the_generative_model_as_it_is(generator):
    model, batch = make_model(), make_batch(batch=8, length=5, first=())
    changed = fitted(model, "smoothing", batch, 20, generator)
    before, after = (mean_elbo(m.given(batch), 32, generator=generator).mean() for m in (model, changed))
    assert after > before + 1
    posterior = {id(p) for part in posterior_parts(changed) for p in part.parameters()}
    old, new = dict(model.named_parameters()), dict(changed.named_parameters())
    frozen = [name for name, p in new.items() if id(p) not in posterior]
    assert frozen and all(torch.equal(new[name], old[name]) for name in frozen)
    moved = [name for name in new if name in old and name not in frozen and new[name].shape == old[name].shape]
    assert moved and not any(torch.equal(new[name], old[name]) for name in moved)


def test_the_gap_of_episodes_of_different_length(generator, monkeypatch):
    """Parts sum to the gap, more is known of q than the model came with, and few particles leave doubts."""
    nothing_sharpened(monkeypatch)
    model, batch = make_model(), make_batch(batch=6, length=5, first=())
    valid = torch.arange(5) < torch.tensor([5, 5, 4, 3, 5, 2])[:, None]
    batch = batch._replace(valid=valid, is_last=valid & ~valid.roll(-1, 1))
    filtering, smoothing = (fitted(model, kind, batch, 10, generator) for kind in ("filtering", "smoothing"))
    taken = measure_gap(model, filtering, smoothing, batch, particles=32, runs=1, steps=10, generator=generator)
    levels, parts = taken.levels(), taken.parts()
    assert taken.steps.tolist() == [5, 5, 4, 3, 5, 2]
    assert levels["trained"].mean < levels["filtering"].mean < levels["log_evidence"].mean
    assert parts["gap"].mean == pytest.approx(levels["log_evidence"].mean - levels["filtering"].mean)
    assert parts["amortisation"].mean > 0 and taken.trained is not None
    few = measure_gap(model, model, smoothing, batch, particles=2, runs=1, steps=1, generator=generator)
    written = few.as_json()
    assert few.doubts and written["doubts"] == [doubt.value for doubt in few.certificate.doubts]
    width, error = few.certificate.width
    share = few.certificate.degenerate_rows
    assert written["certificate"] == {"width": {"mean": width, "error": error}, "degenerate_rows": share}
    with pytest.raises(ValueError, match="particles: expected at least 1, got 0"):
        measure_gap(model, filtering, smoothing, batch, particles=0, runs=1, steps=1, generator=generator)


def test_the_log_evidence_is_estimated_from_the_rows_themselves_or_by_what_the_pilot_chose(generator, monkeypatch):
    asked = []

    def certify(model, template, particles, proposal, generator):
        asked.append(proposal)
        return certificates.certify(model, template, particles, proposal, generator)

    monkeypatch.setattr(gap, "certify", certify)
    monkeypatch.setattr(gap, "choose_proposal", lambda *arguments: PROPOSALS[1])
    settings = {"particles": 2, "runs": 1, "steps": 1, "generator": generator}
    batch = make_batch(batch=2, length=3, first=())
    for latent in (GAUSSIAN, CATEGORICAL):
        model, smoothing = make_model(latent=latent), make_model(latent=latent, smoothing=True)
        measure_gap(model, model, smoothing, batch, **settings)
        measure_gap(model, model, smoothing, batch, pilot=batch, **settings)
    assert asked == [FROM_RESET, FROM_RESET, GUIDED, PROPOSALS[1]]
