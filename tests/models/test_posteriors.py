"""Another posterior for the same generative model: what it begins as, and what of it can be trained."""

import pytest
import torch

from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.models.posteriors import posterior_parts, with_posterior
from worldmodel.objectives.elbo import sequence_elbo
from worlds import make_batch, make_model


def smoother():
    """A model whose posterior smooths, its weights drawn at random."""
    model = with_posterior(make_model(), "smoothing").double().requires_grad_()
    with torch.no_grad():
        for parameter in (model.dynamics.posterior_embed.weight, model.backward_network.nothing):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def bound(model, batch):
    return sequence_elbo(model.given(batch), generator=torch.Generator().manual_seed(0)).elbo


def test_a_new_smoother_begins_as_the_filter_and_then_looks_ahead():
    model, batch = make_model().double(), make_batch(first=(), dtype=torch.float64)
    changed = with_posterior(model, "smoothing")
    assert model.backward_network is None and isinstance(changed.backward_network, BackwardNetwork)
    torch.testing.assert_close(bound(changed, batch), bound(model, batch))
    with torch.no_grad():
        columns = changed.dynamics.posterior_embed.weight[:, model.encoder.width :]
        columns.copy_(0.3 * torch.randn(columns.shape, generator=torch.Generator().manual_seed(1)))
    assert (bound(changed, batch)[0, :, 0] - bound(model, batch)[0, :, 0]).abs().min() > 1e-6


def test_a_new_filter_is_the_smoother_where_nothing_follows():
    model, batch = smoother(), make_batch(length=1, first=(), dtype=torch.float64)
    changed = with_posterior(model, "filtering")
    assert changed.backward_network is None
    torch.testing.assert_close(bound(changed, batch), bound(model, batch))
    longer = make_batch(first=(), dtype=torch.float64)
    assert (bound(changed, longer) - bound(model, longer)).abs().max() > 1e-3
    state, noise = changed.dynamics.initial(3), changed.dynamics.noise(3, 1)[:, 0]
    obs = {"obs": longer.obs["obs"][:, 0]}
    acting = [m.step(state, obs, longer.prev_action[:, 0], longer.is_first[:, 0], noise)[0] for m in (model, changed)]
    torch.testing.assert_close(acting[0].stoch, acting[1].stoch)


@pytest.mark.parametrize("kind", ["filtering", "smoothing"])
@pytest.mark.parametrize("make", [make_model, smoother])
def test_only_the_posterior_can_be_trained_and_the_model_is_left_alone(make, kind):
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = with_posterior(model, kind)
    trained = {id(p) for part in posterior_parts(changed) for p in part.parameters()}
    assert {id(p) for p in changed.parameters() if p.requires_grad} == trained
    generative = [changed.dynamics.cell, changed.dynamics.action_in, changed.dynamics.prior_head, changed.decoder]
    assert not any(p.requires_grad for part in generative for p in part.parameters())
    assert len(trained) + sum(len(list(part.parameters())) for part in generative) == len(list(changed.parameters()))
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in changed.parameters()}
