"""A learner's state as named tensors: what it holds, that it comes back, and what is refused, with nothing changed."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from worldmodel.training.states import learner_state, restore_learner, restore_model, under


def trained(seed=0, steps=2, width=3):
    """A small model with a buffer, and its optimiser, after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 2)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def test_weights_buffers_and_the_optimisers_slots_have_names_of_their_own():
    model, optimizer = trained()
    state = learner_state(model, optimizer)
    assert under("model/", state).keys() == model.state_dict().keys()
    assert under("optimizer/0/", state).keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert len(state) == len(model.state_dict()) + 3 * len(list(model.parameters()))
    assert state["optimizer/1/step"] == 2 and state["model/1.num_batches_tracked"] == 2


def test_a_restored_learner_goes_on_as_the_first_one_does():
    model, optimizer = trained()
    state = copied(learner_state(model, optimizer))
    other, its_optimizer = trained(seed=1, steps=1)
    restore_learner(other, its_optimizer, state)
    assert_close(learner_state(other, its_optimizer), state, rtol=0, atol=0)
    for net, stepping in ((model, optimizer), (other, its_optimizer)):
        stepping.zero_grad()
        net(torch.ones(4, 2) * torch.arange(4.0)[:, None]).square().mean().backward()
        stepping.step()
    assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_restored_learner_keeps_the_settings_of_its_own_optimiser():
    state = learner_state(*trained())
    model, optimizer = trained(seed=1)
    optimizer.param_groups[0]["lr"] = 0.5
    restore_learner(model, optimizer, state)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("model/2.bias"), r"2\.bias of shape \(1,\), got nothing"),
        (lambda state: state.update({"model/3.bias": torch.ones(1)}), r"3\.bias of shape nothing, got \(1,\)"),
        (
            lambda state: state.update({"model/0.weight": torch.ones(2, 3)}),
            r"0\.weight of shape \(3, 2\), got \(2, 3\)",
        ),
    ],
    ids=["missing", "unknown", "another shape"],
)
def test_the_state_of_another_model_is_refused_and_changes_nothing(change, words):
    state = copied(learner_state(*trained()))
    change(state)
    model, optimizer = trained(seed=1)
    before = copied(learner_state(model, optimizer))
    for restore in (lambda: restore_learner(model, optimizer, state), lambda: restore_model(model, state)):
        with pytest.raises(ValueError, match=f"^expected {words}; it was written with another configuration$"):
            restore()
    assert_close(learner_state(model, optimizer), before, rtol=0, atol=0)
