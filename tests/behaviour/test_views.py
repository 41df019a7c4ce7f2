"""An actor that is kept from memory reads what the model decodes, and nothing else of a state."""

import pytest
import torch

from worldmodel.behaviour.action_distributions import ActionFamily
from worldmodel.behaviour.actor_critic import Actor, ActorCritic, state_features
from worldmodel.behaviour.critic import Critic
from worldmodel.behaviour.views import ObservationView
from worldmodel.types import State
from worlds import MIXED_SPEC, VECTOR_SPEC, make_model


def test_it_reads_the_decoded_observation_as_the_encoder_would(generator):
    model = make_model(VECTOR_SPEC)
    model.standardise("obs", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0]))
    state = State(*(torch.randn(5, width, generator=generator) for width in model.decoder.widths))
    view = ObservationView(model)
    read = view(state_features(state))
    assert read.shape == (5, view.width) == (5, 3)
    torch.testing.assert_close(
        read * torch.tensor([2.0, 4.0, 8.0]) + torch.tensor([1.0, 2.0, 3.0]), model.decode(state)["obs"].mean
    )


def test_states_that_decode_alike_are_acted_in_alike(generator, monkeypatch):
    model = make_model(VECTOR_SPEC)
    view = ObservationView(model)
    actor = Actor(view.width, ActionFamily(VECTOR_SPEC.action), view=view)
    torch.nn.init.normal_(actor.head.weight, generator=generator)
    one, other = (State(*(torch.randn(5, w, generator=generator) for w in model.decoder.widths)) for _ in range(2))
    assert not torch.equal(actor.likeliest(one), actor.likeliest(other))
    decoded = model.decode(one, ("obs",))
    monkeypatch.setattr(model, "decode", lambda state, names: decoded)
    assert torch.equal(actor.likeliest(one), actor.likeliest(other))


def test_a_slow_actor_begins_as_the_actor_and_looks_through_the_same_view(generator):
    model = make_model(VECTOR_SPEC)
    view = ObservationView(model)
    actor = Actor(view.width, ActionFamily(VECTOR_SPEC.action), view=view)
    torch.nn.init.normal_(actor.head.weight, generator=generator)
    slow = ActorCritic(actor, Critic(sum(model.decoder.widths)), actor_slow_rate=0.1).played
    state = State(*(torch.randn(5, width, generator=generator) for width in model.decoder.widths))
    action = actor.likeliest(state)
    assert slow is not actor and slow.view is view and torch.equal(slow.likeliest(state), action)
    with torch.no_grad():
        actor.head.weight.mul_(-1)
    assert torch.equal(slow.likeliest(state), action) and not torch.equal(actor.likeliest(state), action)


def test_what_is_no_vector_is_refused():
    with pytest.raises(ValueError, match=r"actor\.reads: expected observations that are vectors .* \(image\)"):
        ObservationView(make_model(MIXED_SPEC))
