"""Auxiliary losses with parameters of their own: optimised, priced in the ledger, kept in checkpoints."""

import pytest
import torch
from torch import nn

from worldmodel.objectives.batch_bound import bound_loss_and_states
from worldmodel.objectives.loss import Objective
from worldmodel.training.learner import Learner
from worlds import make_batch, make_model

SETTINGS = {"learning_rate": 1e-2, "warmup": 0, "final_fraction": 1.0, "total_updates": 100, "clip_norm": 1e6}
SETTINGS |= {"weight_decay": 0.0, "eps": 1e-8}


class Inverse(nn.Module):
    """The action that led to each row, from its state and the one before; zero at an episode's first row."""

    def __init__(self, model, factor=1.0):
        super().__init__()
        self.head, self.factor = nn.Linear(2 * sum(model.decoder.widths), model.spec.action.width), factor

    def forward(self, states, batch):
        features = torch.cat(states, -1)
        both = torch.cat([features.roll(1, 1), features], -1)
        error = (self.head(both) - batch.prev_action).square().sum(-1)
        return self.factor * torch.where(batch.is_first, 0.0, error)


def generator():
    return torch.Generator().manual_seed(0)


def make_learner(auxiliary=None, **others):
    model = others.pop("model", None) or make_model()
    return Learner(model, Objective(beta=0.5), generator(), **SETTINGS, auxiliary=auxiliary)


def test_the_ledger_leads_from_the_negative_bound_through_each_of_them_to_the_loss():
    model, batch = make_model(), make_batch()
    batch = batch._replace(valid=batch.valid & (torch.arange(7) > 1))
    losses = {"inverse": Inverse(model), "small": Inverse(model, 0.01)}
    _, loss, states = bound_loss_and_states(model, batch, Objective(beta=0.5), generator(), auxiliary=losses)
    _, without, _ = bound_loss_and_states(model, batch, Objective(beta=0.5), generator())
    expected = losses["inverse"](states, batch)[batch.valid].mean()
    torch.testing.assert_close(loss.ledger["auxiliary_inverse"], expected.detach())
    torch.testing.assert_close(
        loss.value - without.value, sum(x(states, batch)[batch.valid].mean() for x in losses.values())
    )
    torch.testing.assert_close(sum(loss.ledger.values()), loss.value.detach())
    assert {*loss.ledger} - {*without.ledger} == {"auxiliary_inverse", "auxiliary_small"}
    assert torch.equal(loss.ledger["negative_elbo"], without.ledger["negative_elbo"])


def test_its_parameters_are_trained_and_it_reaches_the_model():
    model, batch = make_model(), make_batch()
    inverse = Inverse(model)
    with_it, without = make_learner({"inverse": inverse}, model=model), make_learner()
    before = inverse.head.weight.clone()
    values = [with_it.update(batch).loss.ledger["auxiliary_inverse"].item() for _ in range(60)]
    for _ in range(60):
        update = without.update(batch)
    assert values[-1] < 0.6 * values[0] and not torch.equal(inverse.head.weight, before)
    assert "auxiliary" not in update.grad_norm
    assert with_it.update(batch).grad_norm["auxiliary"] > 0
    pairs = zip(with_it.model.dynamics.parameters(), without.model.dynamics.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs if a.grad is not None and a.grad.any())


def test_a_checkpoint_has_it_beside_the_model_and_goes_on_as_it_would_have():
    batch = make_batch()
    first = make_learner({"inverse": Inverse(make_model())})
    first.update(batch)
    state = {name: x.clone() for name, x in first.state().items()}
    assert {name for name in state if name.startswith("auxiliary/")} == {
        "auxiliary/inverse.head.weight",
        "auxiliary/inverse.head.bias",
    }
    noise = first.generator.get_state()
    second = make_learner({"inverse": Inverse(make_model())})
    second.restore(state, updates=1)
    second.generator.set_state(noise)
    assert torch.equal(first.update(batch).loss.value, second.update(batch).loss.value)
    assert all(torch.equal(x, second.state()[name]) for name, x in first.state().items())
    with pytest.raises(ValueError, match=r"expected inverse\.head\.bias of shape nothing, got"):
        make_learner().restore(state, updates=1)


def test_a_loss_that_is_no_number_at_every_row_is_refused():
    learner = make_learner(
        {"wrong": type("Wrong", (nn.Module,), {"forward": lambda self, states, batch: states.stoch})()}
    )
    with pytest.raises(ValueError, match=r"auxiliary loss wrong: expected a number at every row, \(3, 7\), got .*4\)"):
        learner.update(make_batch())
