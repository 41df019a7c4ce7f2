"""Open-loop errors are what they log: squared errors of the mean future, in units of the data's variance."""

import numpy as np
import pytest
import torch

from worldmodel.behaviour.imagination import filter_samples, recorded
from worldmodel.data import batches
from worldmodel.evaluation import open_loop
from worldmodel.evaluation.open_loop import futures, open_loop_errors, relative_error, spread
from worldmodel.models.world_model import Standardiser
from worldmodel.types import ObservationSpec, State
from worlds import make_batch, make_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
        act = recorded(batch.prev_action[whole, t + 1 : t + 5], 3)
        states, _ = model.imagine(start, start, act, model.noise(3 * len(whole), 4, generator))
        predicted = model.decode(states)["obs"].mean.detach()
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


def test_episodes_are_filtered_as_many_at_a_time_as_the_memory_budget_has_room_for(monkeypatch):
    model, batch, taken = make_model(), make_batch(batch=3, length=12, first=()), []

    def noticed(model, part, samples, generator):
        taken.append(len(part.valid))
        return filter_samples(model, part, samples, generator)

    monkeypatch.setattr(open_loop, "filter_samples", noticed)
    monkeypatch.setattr(open_loop, "FEWEST_A_ROW", 1)
    for numbers, parts in ((3 * model.carried_numbers, [2, 1]), (model.spec.width, [1, 1, 1])):
        monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 2 * 12 * numbers)
        taken.clear()
        list(futures(model, batch, context=2, horizon=4, samples=3))
        assert taken == parts


def test_small_models_are_filtered_two_to_the_fifteenth_rows_at_a_time():
    assert batches.at_once(batches.FEWEST_A_ROW) == 2**15


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-3])
def test_what_varies_is_what_the_model_standardises(noise):
    """A constant that was stored with rounding does not vary, and a small change does."""
    x = (5000 * (1 + noise * torch.linspace(-1, 1, 12)))[None, :, None].double()
    _, std = spread(ObservationSpec("vector", (1,)), x, torch.ones(1, 12, dtype=torch.bool))
    scaler = Standardiser(1).double()
    scaler.set(x[0].mean(0), x[0].std(0))
    assert (std > 0).item() == (scaler.scale != 1).item() == (noise == 1e-3)
