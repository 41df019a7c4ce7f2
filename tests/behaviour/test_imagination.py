"""Imagination: it sees the context and no more, follows the recorded actions, and its errors are what they say."""

import numpy as np
import pytest
import torch

from worldmodel.behaviour.imagination import filter_samples, imagine, open_loop_errors, relative_error
from worldmodel.data.batches import fitting_rows, select
from worldmodel.types import ObservationSpec, State
from worlds import CATEGORICAL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

families = pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dream_of(model, batch, seed=0):
    return imagine(model, batch, context=3, horizon=4, samples=5, generator=seeded(seed))


@families
@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
def test_a_dream_is_the_rssm_rolled_forward_from_the_filtered_context(spec, latent):
    model, batch = make_model(spec, latent), make_batch(spec, first=())
    dream = dream_of(model, batch)
    generator = seeded()
    filtered = filter_samples(model, select(batch, rows=slice(3)), 5, generator)
    start = State(*(x[:, :, -1].flatten(0, 1) for x in filtered))
    states = model.imagine(start, batch.prev_action[:, 3:7].repeat(5, 1, 1), model.rssm.noise(15, 4, generator))
    torch.testing.assert_close(dream.states.deter.flatten(0, 1), states.deter)
    for name, likelihood in model.decode(states).items():
        torch.testing.assert_close(dream.prediction[name].flatten(0, 1), likelihood.mean)


@families
def test_the_future_is_not_looked_at_but_its_actions_are_followed(latent):
    model, batch = make_model(latent=latent), make_batch(first=())
    dream = dream_of(model, batch).prediction["obs"]
    blind = batch._replace(obs={"obs": batch.obs["obs"].clone()}, reward=batch.reward.clone())
    blind.obs["obs"][:, 3:] += 100
    blind.reward[:, 3:] += 100
    assert torch.equal(dream_of(model, blind).prediction["obs"], dream)
    other = batch._replace(prev_action=batch.prev_action.clone())
    other.prev_action[:, 5] *= -1
    changed = (dream_of(model, other).prediction["obs"] - dream).abs().amax((0, 1, 3))
    assert changed[:2].eq(0).all() and changed[2:].gt(1e-6).all()


@families
def test_samples_differ_from_each_other_and_not_between_runs_of_one_seed(latent):
    model, batch = make_model(latent=latent), make_batch(first=())
    first, again, other = (dream_of(model, batch, seed).prediction["obs"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.std(0).gt(0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"context": 5, "horizon": 3}, "at most the 7 rows"), ({"context": 0, "horizon": 3}, "at least 1")],
)
def test_what_cannot_be_imagined_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        imagine(make_model(), make_batch(), samples=2, **arguments)


def test_open_loop_errors_are_the_mean_squared_errors_of_the_mean_future():
    """Against a second computation, start by start and episode by episode, over padded episodes of unequal length."""
    model, batch = make_model(), make_batch(length=12, first=())
    valid = torch.arange(12) < torch.tensor([[12], [9], [6]])
    batch = batch._replace(valid=valid)
    got = open_loop_errors(model, batch, context=2, horizon=4, samples=3, generator=seeded())["obs"]

    generator, x = seeded(), batch.obs["obs"]
    filtered = filter_samples(model, batch, 3, generator)
    rows = x[valid].numpy()
    mean, std = rows.mean(0), rows.std(0, ddof=1)
    errors = {"model": [], "repeat_last": [], "data_mean": []}
    for t in (1, 3, 5, 7):
        whole = [b for b in range(3) if valid[b, t + 4]]
        start = State(*(y[:, whole, t].flatten(0, 1) for y in filtered))
        action = batch.prev_action[whole, t + 1 : t + 5].repeat(3, 1, 1)
        noise = model.rssm.noise(3 * len(whole), 4, generator)
        predicted = model.decode(model.imagine(start, action, noise))["obs"].mean.detach()
        predicted = predicted.unflatten(0, (3, len(whole))).mean(0).numpy()
        for i, b in enumerate(whole):
            actual = x[b, t + 1 : t + 5].numpy()
            errors["model"].append(((predicted[i] - actual) / std) ** 2)
            errors["repeat_last"].append(((x[b, t].numpy() - actual) / std) ** 2)
            errors["data_mean"].append(((mean - actual) / std) ** 2)
    for name, values in errors.items():
        np.testing.assert_allclose(getattr(got, name), np.mean(values, (0, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("leaf", "x"),
    [
        (ObservationSpec("vector", (3,)), torch.randn(40, 5, 3, generator=seeded()) * torch.tensor([1.0, 5.0, 0.1])),
        (ObservationSpec("image", (16, 16, 1)), torch.full((40, 5, 16, 16, 1), 255.0)),
        (ObservationSpec("categorical", (1,), (4,)), torch.eye(4)[torch.arange(200).view(40, 5) % 2]),  # two never come
    ],
    ids=lambda x: x.kind if isinstance(x, ObservationSpec) else "",
)
def test_the_mean_of_what_varies_has_a_relative_error_of_one_however_much_of_it_is_constant(leaf, x):
    if leaf.kind == "image":
        x[:20, :, 3, 4] = 55.0  # a single pixel changes
    rows = x.flatten(0, 1)
    error = relative_error(leaf, rows.mean(0), x, rows.std(0, correction=0))
    torch.testing.assert_close(error.mean(), torch.tensor(1.0))


def test_a_large_constant_is_not_said_to_vary():
    model, batch = make_model(), make_batch(length=12, first=())
    constant = torch.full_like(batch.obs["obs"], 123456.7)  # three times twelve of these round in float32
    errors = open_loop_errors(model, batch._replace(obs={"obs": constant}), context=2, horizon=4, samples=1)["obs"]
    assert errors.repeat_last.eq(0).all() and errors.data_mean.eq(0).all()
    ahead = batch._replace(obs={"obs": constant + torch.arange(12.0)[:, None]})  # it varies by more than rounding
    errors = open_loop_errors(model, ahead, context=2, horizon=4, samples=1)["obs"]
    variance = np.var(np.tile(np.arange(12.0), 3), ddof=1)
    np.testing.assert_allclose(errors.repeat_last, np.arange(1, 5) ** 2 / variance, rtol=0.02)  # 1/128 in float32


def test_episodes_too_short_to_score_give_no_errors():
    assert open_loop_errors(make_model(), make_batch(first=()), context=4, horizon=5, samples=1) == {}


@pytest.mark.parametrize(
    ("longest", "asked", "rows"),
    [
        (64, (None, None), (16, 48)),
        (1000, (None, None), (16, 48)),
        (63, (None, None), (15, 48)),
        (20, (None, None), (5, 15)),
        (4, (None, None), (1, 3)),
        (2, (None, None), (1, 1)),
        (20, (19, None), (19, 1)),
        (20, (4, None), (4, 16)),
        (20, (None, 10), (10, 10)),
        (20, (None, 4), (16, 4)),
        (20, (None, 19), (1, 19)),
        (20, (30, 40), (30, 40)),  # asked for, and for others to refuse
        (20, (30, None), (30, 1)),
    ],
)
def test_context_and_horizon_shrink_together_unless_they_are_asked_for(longest, asked, rows):
    assert fitting_rows(longest, (16, 48), *asked) == rows


def test_whatever_the_usual_rows_two_are_enough_to_imagine():
    for context in range(1, 9):
        for horizon in range(1, 9):
            for longest in range(2, 20):
                seen, imagined = fitting_rows(longest, (context, horizon))
                assert 1 <= seen <= context and 1 <= imagined <= horizon
                assert seen + imagined == min(longest, context + horizon)
