"""Actor and critic as a learner: where they start, what they imagine, what they leave alone, and that they learn."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from worldmodel.behaviour.action_distributions import ActionFamily
from worldmodel.behaviour.actor_critic import Actor, ActorCritic, state_features
from worldmodel.behaviour.critic import Critic
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.loss import Objective
from worldmodel.training import behaviour_learner
from worldmodel.training.behaviour_learner import BehaviourLearner
from worldmodel.training.learner import AnyLearner, AnyUpdate, Learner
from worldmodel.types import ActionSpec, State
from worlds import CATEGORICAL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

KINDS = [
    (VECTOR_SPEC, GAUSSIAN, "pathwise"),
    (VECTOR_SPEC, GAUSSIAN, "reinforce"),
    (MIXED_SPEC, CATEGORICAL, "reinforce"),
]
NAMES = ["pathwise", "reinforce", "classes"]
USUAL = {"starts": 6, "horizon": 4, "discount": 0.9, "optimizer": "adamw", "learning_rate": 1e-2, "clip_norm": 100.0}


def make_agent(features, spec, gradient, **options):
    torch.manual_seed(0)
    family = ActionFamily(spec)
    return ActorCritic(Actor(features, family, units=16), Critic(features, units=16), gradient=gradient, **options)


def make_learner(world, gradient="reinforce", *, seed=0, agent=None, **settings):
    if agent is None:
        agent = make_agent(sum(world.decoder.widths), world.spec.action, gradient)
    return BehaviourLearner(agent, world, torch.Generator().manual_seed(seed), **(USUAL | settings))


def updated(world, batch):
    """An update of the world model on a batch, which changes nothing: its rate is zero."""
    noise = torch.Generator().manual_seed(5)
    settings = {
        "learning_rate": 0.0,
        "warmup": 0,
        "final_fraction": 1.0,
        "total_updates": 1,
        "clip_norm": 1.0,
        "weight_decay": 0.0,
        "eps": 1e-8,
    }
    return Learner(world, Objective(), noise, **settings).update(batch)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_imagination_starts_from_rows_that_count_and_go_on_each_at_most_once():
    world = make_model(VECTOR_SPEC)
    batch = make_batch(VECTOR_SPEC, batch=2, length=5)
    valid, terminal = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    valid[0, 1:] = valid[1, 4] = terminal[0, 2] = True
    batch = batch._replace(valid=valid, is_terminal=terminal)
    places = torch.arange(10.0).view(2, 5, 1)
    states = State(places.expand(2, 5, 3), places)
    for starts, expected in ((4, {1, 3, 4, 9}), (3, None)):
        start, counts = make_learner(world, starts=starts)._draw_starts(states, batch)
        found = start.stoch[:, 0].int().tolist()
        assert counts.tolist() == [1.0] * starts and len(set(found)) == starts
        assert set(found) <= {1, 3, 4, 9} and (expected is None or set(found) == expected)
        assert torch.equal(start.deter[:, 0], start.stoch[:, 0])
    start, counts = make_learner(world, starts=50)._draw_starts(states, batch)
    assert sorted(start.stoch[:, 0].int().tolist()) == list(range(10))
    assert set(start.stoch[counts > 0, 0].int().tolist()) == {1, 3, 4, 9}


@pytest.mark.parametrize(("spec", "latent", "gradient"), KINDS, ids=NAMES)
def test_what_is_imagined_is_what_the_model_says_of_the_actions_that_were_drawn(spec, latent, gradient):
    world = make_model(spec, latent)
    learner = make_learner(world, gradient)
    update = updated(world, make_batch(spec))
    start = State(*(x.flatten(0, 1)[:6] for x in update.states))
    counts = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    dream = learner._imagine(start, counts)
    noise = world.noise(6, 4, torch.Generator().manual_seed(0))
    steps = iter(dream.action.detach().unbind(1))
    with torch.no_grad():
        states, _ = world.imagine(start, start, lambda state: next(steps), noise)
        decoded = world.decode(states)
    features = torch.cat([state_features(start)[:, None], state_features(states)], 1)
    torch.testing.assert_close(dream.features.detach(), features)
    torch.testing.assert_close(dream.reward.detach(), decoded["reward"].mean[..., 0])
    torch.testing.assert_close(dream.discount.detach(), 0.9 * decoded["continue"].mean[..., 0])
    assert torch.equal(dream.start, counts)
    assert dream.action.requires_grad == (gradient == "pathwise")


@pytest.mark.parametrize(("spec", "latent", "gradient"), KINDS, ids=NAMES)
def test_an_update_moves_actor_critic_and_slow_critic_and_leaves_the_world_model_alone(spec, latent, gradient):
    world = make_model(spec, latent)
    learner, batch = make_learner(world, gradient), make_batch(spec)
    of_world = updated(world, batch)
    world.zero_grad(set_to_none=True)
    before, agent_before = weights(world), weights(learner.model)
    assert isinstance(learner, AnyLearner)
    learner.update(batch, {"world": of_world})
    update = learner.update(batch, {"world": of_world})  # the critic's first values are all zero: so is the slow one's
    assert isinstance(update, AnyUpdate) and learner.updates == 2
    assert same(weights(world), before) and all(p.grad is None for p in world.parameters())
    moved = {name.split(".")[0] for name, x in weights(learner.model).items() if not torch.equal(x, agent_before[name])}
    assert moved == {"actor", "critic", "slow_critic", "return_scale"}
    scalars = update.scalars()
    assert all(x.shape == () and torch.isfinite(x) and not x.requires_grad for x in scalars.values())
    assert {"loss/value", "grad_norm/actor", "grad_norm/critic", "return", "value", "entropy"} <= scalars.keys()
    assert all(place == -1 for place in update.first_non_finite().values())


@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
def test_the_slow_actor_follows_by_its_rate_and_changes_nothing_else(gradient):
    world, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC)
    width, before = sum(world.decoder.widths), {"world": updated(world, batch)}
    alone = make_learner(world, gradient)
    agent = make_agent(width, VECTOR_SPEC.action, gradient, actor_slow_rate=0.1)
    followed = make_learner(world, gradient, agent=agent)
    expected = weights(agent.actor)
    for _ in range(3):
        alone.update(batch, before)
        followed.update(batch, before)
        expected = {name: x + 0.1 * (weights(agent.actor)[name] - x) for name, x in expected.items()}
    torch.testing.assert_close(weights(agent.played), expected)
    assert not same(weights(agent.played), weights(agent.actor))
    assert alone.model.played is alone.model.actor and alone.model.slow_actor is None
    others = {name: x for name, x in weights(agent).items() if not name.startswith("slow_actor.")}
    assert same(others, weights(alone.model))


@pytest.mark.parametrize(("optimizer", "slow_rate"), [("adamw", None), ("laprop", 0.1)])
def test_a_restored_learner_goes_on_bit_for_bit(optimizer, slow_rate):
    world, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC)
    settings = {"optimizer": optimizer, "adaptive_clip": 0.3}

    def agent():
        width = sum(world.decoder.widths)
        return make_agent(width, world.spec.action, "pathwise", actor_slow_rate=slow_rate)

    whole, before = make_learner(world, agent=agent(), **settings), {"world": updated(world, batch)}
    for _ in range(2):
        whole.update(batch, before)
    half = make_learner(world, seed=7, agent=agent(), **settings)
    half.restore({name: x.clone() for name, x in whole.state().items()}, 2)
    half.generator.set_state(whole.generator.get_state())
    for learner in (whole, half):
        learner.update(batch, before)
    assert half.updates == whole.updates == 3
    assert same(whole.state(), half.state())


def test_gradients_are_clipped_each_to_its_share_and_reported_as_they_were():
    world, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC)
    before = {"world": updated(world, batch)}
    free, clipped, adaptive = (
        make_learner(world, "pathwise", **settings) for settings in ({}, {"clip_norm": 1e-3}, {"adaptive_clip": 1e-4})
    )
    norms = [learner.update(batch, before).scalars()["grad_norm/actor"] for learner in (free, clipped, adaptive)]
    assert norms[0] == norms[1] == norms[2] > 1e-3
    grads = torch.cat([p.grad.flatten() for p in clipped.model.actor.parameters()])
    torch.testing.assert_close(grads.norm(), torch.tensor(1e-3), rtol=1e-3, atol=0)
    first = make_learner(world, "pathwise").model.actor.parameters()
    for p, q in zip(adaptive.model.actor.parameters(), first, strict=True):
        assert p.grad.norm() <= 1e-4 * max(float(q.detach().norm()), 1e-3) * 1.001


@pytest.mark.parametrize(
    ("gradient", "limit", "asked"), [("pathwise", 3.0, 4), ("pathwise", None, 0), ("reinforce", 3.0, 0)]
)
def test_pathwise_gradients_are_limited_in_every_imagined_state(gradient, limit, asked, monkeypatch):
    world, batch, seen = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC), []
    monkeypatch.setattr(behaviour_learner, "limit_gradients", lambda state, most, everyone: seen.append((state, most)))
    make_learner(world, gradient, gradient_limit=limit).update(batch, {"world": updated(world, batch)})
    assert [most for _, most in seen] == [limit] * asked
    assert all(state.deter.requires_grad for state, _ in seen[1:])


def test_the_first_imagined_step_that_is_not_finite_is_named():
    world, batch = make_model(VECTOR_SPEC), make_batch(VECTOR_SPEC)
    learner = make_learner(world)
    imagine = learner._imagine

    def poisoned(start, counts):
        dream = imagine(start, counts)
        dream.features[:, 2] = float("nan")
        return dream._replace(reward=dream.reward.nan_to_num())

    learner._imagine = poisoned
    places = learner.update(batch, {"world": updated(world, batch)}).first_non_finite()
    assert places["critic"] == 0 and places["actor"] == 0  # a return looks ahead


@pytest.mark.parametrize("smoothing", [False, True], ids=["filtering", "smoothing"])
def test_imagination_starts_from_states_that_know_nothing_of_what_follows(smoothing, monkeypatch):
    world, batch = make_model(VECTOR_SPEC, smoothing=smoothing), make_batch(VECTOR_SPEC, batch=2, length=5)
    learner, of_world, given = make_learner(world), updated(world, batch), []
    draw = learner._draw_starts
    monkeypatch.setattr(learner, "_draw_starts", lambda states, batch: given.append(states) or draw(states, batch))
    learner.update(batch, {"world": of_world})
    with torch.no_grad():
        filtered = world.filter(batch, world.noise(2, 5, torch.Generator().manual_seed(0))).states
    expected = filtered if smoothing else of_world.states
    assert all(torch.equal(x, y) for x, y in zip(given[0], expected, strict=True))


class Line(WorldModel):
    """A world that pays what an action is worth: its first number; nothing else happens."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.dynamics, self.backward_network = SimpleNamespace(carry_of=lambda state: state), None

    def noise(self, batch, steps, generator=None):
        return torch.zeros(batch, steps)

    def imagine(self, carry, state, act, noise):
        states, actions = [], []
        for _ in range(noise.shape[1]):
            actions.append(act(state))
            state = State(actions[-1][..., :1], state.stoch)
            states.append(state)
        return State(*(torch.stack(x, 1) for x in zip(*states, strict=True))), torch.stack(actions, 1)

    def decode(self, states, names):
        paid, going_on = states.deter, torch.ones_like(states.deter)
        return {"reward": SimpleNamespace(mean=paid), "continue": SimpleNamespace(mean=going_on)}


@pytest.mark.parametrize(
    ("spec", "gradient"),
    [
        (ActionSpec("continuous", 1), "pathwise"),
        (ActionSpec("continuous", 1), "reinforce"),
        (ActionSpec("categorical", 2, (2,)), "reinforce"),
        (ActionSpec("binary", 1), "reinforce"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_in_a_world_that_pays_for_an_action_the_actor_learns_it_and_the_critic_its_worth(spec, gradient):
    agent = make_agent(2, spec, gradient, slow_regularisation=0.1, entropy_scale=1e-3)
    learner = make_learner(Line(), agent=agent, starts=16, discount=0.5)
    batch = make_batch(VECTOR_SPEC, batch=4, length=8)
    states = State(torch.zeros(4, 8, 1), torch.zeros(4, 8, 1))
    update = dataclasses.replace(updated(make_model(VECTOR_SPEC), batch), states=states)
    for _ in range(200):
        scalars = learner.update(batch, {"world": update}).scalars()
    assert agent.actor.likeliest(State(torch.zeros(1, 1), torch.zeros(1, 1)))[0, 0] > 0.8
    assert float(scalars["reward"]) > 0.75
    assert float(scalars["value"]) == pytest.approx(2 * float(scalars["reward"]), rel=0.15)  # 1 + 1/2 + 1/4 + ...
