"""Imagination: it sees the context and no more, follows the recorded actions, and its errors are what they say."""

import pytest
import torch

from worldmodel.behaviour.imagination import dream, filter_samples, imagine, imagine_rewards, recorded
from worldmodel.data.batches import select
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

families = pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dream_of(model, batch, seed=0):
    return dream(model, batch, context=3, horizon=4, samples=5, generator=seeded(seed))


@families
@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
def test_a_dream_is_the_rssm_rolled_forward_from_the_filtered_context(spec, latent):
    model, batch = make_model(spec, latent), make_batch(spec, first=())
    imagined = dream_of(model, batch)
    generator = seeded()
    filtered = filter_samples(model, select(batch, rows=slice(3)), 5, generator)
    start = State(*(x[:, :, -1].flatten(0, 1) for x in filtered))
    act = recorded(batch.prev_action[:, 3:7], 5)
    states, _ = model.imagine(start, start, act, model.noise(15, 4, generator))
    torch.testing.assert_close(imagined.states.deter.flatten(0, 1), states.deter)
    for name, likelihood in model.decode(states).items():
        torch.testing.assert_close(imagined.prediction[name].flatten(0, 1), likelihood.mean)


class Remembering(torch.nn.Module):
    """An RSSM whose carry is not a state, nor known from one."""

    def __init__(self, rssm):
        super().__init__()
        self.rssm = rssm
        self.noise = rssm.noise

    def carry_of(self, state):
        raise NotImplementedError("no state tells all that is remembered")

    def observe(self, *rows):
        trajectory = self.rssm.observe(*rows)
        return trajectory._replace(carry={"remembered": trajectory.carry})

    def imagine(self, carry, state, act, noise):
        return self.rssm.imagine(carry["remembered"], state, act, noise)


def test_a_dream_goes_on_from_what_the_recurrence_remembers():
    model, batch = make_model(), make_batch(first=())
    expected = dream_of(model, batch).states
    model.dynamics = Remembering(model.dynamics)
    torch.testing.assert_close(dream_of(model, batch).states, expected, rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="no state tells"):
        imagine(model, State(*(x[:, :, -1] for x in expected)), recorded(batch.prev_action[:, :2], 5), 2)


@families
def test_the_future_is_not_looked_at_but_its_actions_are_followed(latent):
    model, batch = make_model(latent=latent), make_batch(first=())
    before = dream_of(model, batch).prediction["obs"]
    blind = batch._replace(obs={"obs": batch.obs["obs"].clone()}, reward=batch.reward.clone())
    blind.obs["obs"][:, 3:] += 100
    blind.reward[:, 3:] += 100
    assert torch.equal(dream_of(model, blind).prediction["obs"], before)
    other = batch._replace(prev_action=batch.prev_action.clone())
    other.prev_action[:, 5] *= -1
    changed = (dream_of(model, other).prediction["obs"] - before).abs().amax((0, 1, 3))
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
        dream(make_model(), make_batch(), samples=2, **arguments)


@families
def test_actions_are_chosen_from_the_state_that_they_follow(latent):
    """A policy that reads the state sees the start first, and each action leads to the next state."""
    model = make_model(latent=latent)
    width = model.spec.action.width
    generator = seeded()
    start = State(*(x[:, :, -1] for x in filter_samples(model, make_batch(first=()), 5, generator)))
    seen = []

    def act(state):
        seen.append(state)
        return torch.tanh(state.deter[:, :width])

    imagined = imagine(model, start, act, 4, generator=seeded(1))
    assert len(seen) == 4 and torch.equal(seen[0].deter, start.deter.flatten(0, 1))
    for t in range(3):
        assert torch.equal(seen[t + 1].stoch, imagined.states.stoch[:, :, t].flatten(0, 1))
    again = imagine(model, start, recorded_flat(imagined.action), 4, generator=seeded(1))
    torch.testing.assert_close(again.states.deter, imagined.states.deter)


def recorded_flat(action):
    steps = iter(action.flatten(0, 1).unbind(1))
    return lambda state: next(steps)


@families
def test_futures_have_gradients_where_they_are_asked_for(latent):
    model, generator = make_model(latent=latent), seeded()
    start = State(*(x[:, :, -1].detach() for x in filter_samples(model, make_batch(first=()), 2, generator)))
    weight = torch.zeros(model.spec.action.width, requires_grad=True)

    def act(state):
        return weight.expand(len(state.deter), -1)

    assert not imagine(model, start, act, 3).states.deter.requires_grad
    imagine(model, start, act, 3, gradients=True).states.deter.square().sum().backward()
    assert weight.grad.abs().min() > 0


def test_a_horizon_of_nothing_is_refused():
    model = make_model()
    start = State(*(x[None] for x in model.dynamics.initial(3)))
    with pytest.raises(ValueError, match="horizon: expected at least 1, got 0"):
        imagine(model, start, lambda state: torch.zeros(3, 2), 0)


@families
def test_imagined_rewards_are_decoded_in_the_states_and_weighted_by_how_likely_they_are_reached(latent, monkeypatch):
    model = make_model(latent=latent)
    start = State(*(x[:, :, -1] for x in filter_samples(model, make_batch(first=()), 5, seeded())))
    act = lambda state: torch.tanh(state.deter[:, :2])  # noqa: E731
    plain = imagine(model, start, act, 4, generator=seeded(1))
    decoded = model.decode(plain.states)
    monkeypatch.setattr(model.decoder.trunk, "forward", lambda *inputs: pytest.fail("an observation was decoded"))
    found = imagine_rewards(model, start, act, 4, discount=0.9, generator=seeded(1))
    torch.testing.assert_close(found.states.deter, plain.states.deter)
    torch.testing.assert_close(found.action, plain.action)
    torch.testing.assert_close(found.reward, decoded["reward"].mean[..., 0])
    torch.testing.assert_close(found.alive, decoded["continue"].mean[..., 0])
    assert ((found.alive > 0.01) & (found.alive < 0.99)).all()
    weight, returns = torch.ones(5, 3), torch.zeros(5, 3)
    for t in range(4):
        torch.testing.assert_close(found.weight[:, :, t], weight)
        returns = returns + weight * found.reward[:, :, t]
        weight = weight * 0.9 * found.alive[:, :, t]
    torch.testing.assert_close(found.returns, returns)


def test_imagined_rewards_have_gradients_where_they_are_asked_for():
    model = make_model()
    start = State(*(x[None] for x in model.dynamics.initial(3)))
    action = torch.zeros(3, 4, 2, requires_grad=True)
    assert not imagine_rewards(model, start, recorded(action, 1), 4, discount=0.9).returns.requires_grad
    found = imagine_rewards(model, start, recorded(action, 1), 4, discount=0.9, gradients=True)
    assert not found.weight.requires_grad
    found.returns.sum().backward()
    assert action.grad.abs().min() > 0


def test_a_discount_that_is_no_share_is_refused():
    model = make_model()
    start = State(*(x[None] for x in model.dynamics.initial(3)))
    with pytest.raises(ValueError, match=r"discount: expected a share in \[0, 1\], got 1.5"):
        imagine_rewards(model, start, lambda state: torch.zeros(3, 2), 2, discount=1.5)
