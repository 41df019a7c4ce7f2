"""Scores of imagination against hand computation, and against themselves in other pieces."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm

from worldmodel.behaviour.imagination import filter_samples, recorded
from worldmodel.data import batches
from worldmodel.evaluation.baselines import fit_baselines
from worldmodel.evaluation.hedging import hedged_nll
from worldmodel.evaluation.open_loop import futures, open_loop_errors
from worldmodel.evaluation.scores import _score_futures, score_imagination
from worldmodel.models.latents import GaussianFamily
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, State
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

CONTEXT, HORIZON = 2, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def padded(spec=VECTOR_SPEC):
    """Three episodes of 12, 9 and 6 rows: futures of four rows start at rows 1, 3, 5, 7 where they fit."""
    batch = make_batch(spec, length=12, first=())
    return batch._replace(valid=torch.arange(12) < torch.tensor([[12], [9], [6]]))


def score(model, batch, samples=3, **others):
    fitted = fit_baselines(model, make_batch(model.spec, batch=4, length=20, seed=5), HORIZON)
    settings = {"context": CONTEXT, "horizon": HORIZON, "samples": samples} | others
    return score_imagination(model, batch, fitted, generator=seeded(), resampling=seeded(1), **settings), fitted


def without_noise(spec):
    """A model whose latents hardly vary, so that other noise gives the same futures."""
    model = make_model(spec, GaussianFamily(groups=4, min_std=1e-6), std=0.1)
    for head in (model.dynamics.prior_head, model.dynamics.posterior_rest):
        with torch.no_grad():
            head[-1].weight[4:] = 0  # raw stds
            head[-1].bias[4:] = -40
    return model


def test_scores_are_those_of_a_computation_by_hand_start_by_start_and_sample_by_sample():
    model, batch = make_model(), padded()
    got, fitted = score(model, batch)
    generator, x = seeded(), batch.obs["obs"]
    filtered = filter_samples(model, batch, 3, generator)
    collected = {"nll": [], "squared_error": [], "crps": []}
    for t in (1, 3, 5, 7):
        whole = [b for b in range(3) if batch.valid[b, t + HORIZON]]
        start = State(*(y[:, whole, t].flatten(0, 1) for y in filtered))
        act = recorded(batch.prev_action[whole, t + 1 : t + 1 + HORIZON], 3)
        states, _ = model.imagine(start, start, act, model.noise(3 * len(whole), HORIZON, generator))
        densities, means, draws = [], [], []
        for n in range(3):
            decoded = model.decode(State(*(y.unflatten(0, (3, -1))[n] for y in states)))
            p, actual = decoded["obs"], x[whole, t + 1 : t + 1 + HORIZON]
            mean, std = (y.detach().double().numpy() for y in (p.mean, p.std))
            densities.append(norm.pdf(actual.double().numpy(), mean, std).prod(-1))
            means.append(mean)
            draws.append(p.sample(generator).detach().numpy())
            decoded["reward"].sample(generator)
        unit, truth = fitted["obs"].unit.numpy(), actual.numpy()
        collected["nll"] += list(-np.log(np.mean(densities, 0)))
        collected["squared_error"] += list((((np.mean(means, 0) - truth) / unit) ** 2).mean(-1))
        pairs = [np.abs(draws[i] - draws[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        crps = np.mean([np.abs(d - truth) for d in draws], 0) - np.mean(pairs, 0) / 2
        collected["crps"] += list((crps / unit).mean(-1))
    assert (got.episodes, got.futures) == (3, len(collected["nll"])) == (3, 7)
    for metric, values in collected.items():
        np.testing.assert_allclose(got.scores["obs"][metric]["model"].mean, np.mean(values, 0), rtol=1e-4)


def test_scores_in_two_chunkings_agree(monkeypatch):
    model, batch = without_noise(MIXED_SPEC), padded(MIXED_SPEC)
    whole, _ = score(model, batch, samples=20)
    monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 1)
    pieces, _ = score(model, batch, samples=20)
    assert (whole.episodes, whole.futures) == (pieces.episodes, pieces.futures)
    for leaf, metrics in whole.scores.items():
        for metric, methods in metrics.items():
            for method, curve in methods.items():
                # Draws of the likelihood are drawn again; a few edges of 20 draws decide on coverage.
                tolerance = {"crps": 0.1, "coverage": 0.25}.get(metric, 1e-4) if method == "model" else 1e-5
                for a, b in zip(curve, pieces.scores[leaf][metric][method], strict=True):
                    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=f"{leaf} {metric}")


def test_squared_errors_are_the_open_loop_errors_in_units_of_the_training_rows():
    spec = EnvSpec({"obs": ObservationSpec("vector", (1,))}, ActionSpec("continuous", 2))
    model, batch = without_noise(spec), padded(spec)
    got, fitted = score(model, batch)
    errors = open_loop_errors(model, batch, context=CONTEXT, horizon=HORIZON, samples=3, generator=seeded())["obs"]
    scale = (batch.obs["obs"][batch.valid].var() / fitted["obs"].unit.square()).item()
    curves = got.scores["obs"]["squared_error"]
    np.testing.assert_allclose(curves["model"].mean, scale * errors.model, rtol=1e-4)
    np.testing.assert_allclose(curves["repeat_last"].mean, scale * errors.repeat_last, rtol=1e-4)


def test_every_leaf_has_the_scores_that_are_defined_for_it():
    got, _ = score(make_model(MIXED_SPEC), padded(MIXED_SPEC))
    everything = {"nll", "squared_error", "crps", "coverage"}
    numbers = {"joints/angle", "reward"}
    assert got.scores.keys() == {*MIXED_SPEC.observations, "reward", "continue"}
    for leaf, metrics in got.scores.items():
        assert metrics.keys() == (everything if leaf in numbers else {"nll", "squared_error"})
        for metric, methods in metrics.items():
            absent = {"repeat_last"} if metric == "nll" and leaf not in numbers else set()
            hedged = {"hedged"} if metric == "nll" else set()
            assert methods.keys() == {"model", "repeat_last", "marginal"} - absent | hedged
            for mean, low, high in methods.values():
                assert ((low <= mean + 1e-9) & (mean <= high + 1e-9)).all()
    alone, _ = score(make_model(), padded(), samples=1)
    assert alone.scores["obs"]["nll"].keys() == {"model", "hedged", "repeat_last", "marginal"}
    assert alone.scores["obs"]["crps"].keys() == alone.scores["obs"]["coverage"].keys() == {"repeat_last", "marginal"}


@torch.no_grad()
def test_the_hedged_nats_are_those_of_each_future_with_what_the_others_taught():
    """Recomputed from the same futures, one at a time, in place of the sums by episode."""
    model, batch = make_model(), padded()
    got, fitted = score(model, batch)
    nats = {"model": [], "marginal": []}
    episode = []
    generator = seeded()
    for future in futures(model, batch, context=CONTEXT, horizon=HORIZON, samples=3, generator=generator):
        for (leaf, metric, method), values in _score_futures(model, future, fitted, generator):
            if (leaf, metric) == ("obs", "nll") and method in nats:
                nats[method].append(values.double())
        episode.append(future.episode)
    by_method = (torch.cat(nats[name]) for name in ("model", "marginal"))
    expected = hedged_nll(*by_method, torch.cat(episode)).mean(0)
    np.testing.assert_allclose(got.scores["obs"]["nll"]["hedged"].mean, expected.numpy(), rtol=1e-6)


def test_what_never_varied_in_training_has_no_error_in_units_of_its_variance():
    model, rows = make_model(), make_batch(VECTOR_SPEC, batch=4, length=20, seed=5)
    scored = []
    for ended in (False, True):
        rows.is_terminal[:] = False
        rows.is_terminal[0, -1] = ended
        fitted = fit_baselines(model, rows, HORIZON)
        options = {"context": CONTEXT, "horizon": HORIZON, "samples": 3}
        got = score_imagination(model, padded(), fitted, generator=seeded(), resampling=seeded(1), **options)
        scored.append(got.scores["continue"].keys())
    assert scored == [{"nll"}, {"nll", "squared_error"}]


def test_the_json_is_as_agreed_and_has_no_number_that_json_lacks():
    got, _ = score(make_model(), padded())
    data = json.loads(json.dumps(got.as_json(), allow_nan=False))
    assert list(data) == ["context", "horizon", "samples", "episodes", "futures", "scores"]
    assert (data["context"], data["horizon"], data["samples"]) == (CONTEXT, HORIZON, 3)
    curve = data["scores"]["obs"]["crps"]["repeat_last"]
    np.testing.assert_array_equal(curve["mean"], got.scores["obs"]["crps"]["repeat_last"].mean)
    assert list(curve) == ["mean", "low", "high"] and len(curve["high"]) == HORIZON
    one, _ = score(make_model(), make_batch(batch=1, length=12, first=()))
    assert one.as_json()["scores"]["obs"]["nll"]["model"]["low"] == [None] * HORIZON
    json.dumps(one.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"context": 9}, r"context \+ horizon: expected at most 12, the longest episode; got 13"),
        ({"samples": 0}, "samples: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(others, words):
    with pytest.raises(ValueError, match=words):
        score(make_model(), padded(), **others)
