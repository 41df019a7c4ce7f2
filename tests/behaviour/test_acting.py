"""Policies that filter: as the batched filter does, with a memory that ends with the episode and can be saved."""

import functools

import numpy as np
import pytest
import torch

from worldmodel.behaviour.acting import FilteringPolicy, Planning, Reflexes, Successor
from worldmodel.behaviour.imagination import imagine_rewards, recorded
from worldmodel.behaviour.planner import CEM, MPPI, Planner
from worldmodel.types import Rows, SavedPolicy, State
from worlds import CATEGORICAL, FULL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model, make_planner


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(batch):
    """The rows of a batch, as a rollout would give them, one for each of its B sequences at a time."""
    for t in range(batch.is_first.shape[1]):
        obs = {path: x[:, t].numpy() for path, x in batch.obs.items()}
        yield Rows(obs, *(getattr(batch, name)[:, t].numpy() for name in Rows._fields[1:]))


class Recorder:
    """An act(state) that keeps the states it was shown; its action is the beginning of h_t."""

    def __init__(self, width=2):
        self.states, self.width = [], width

    def __call__(self, state):
        self.states.append(state)
        return state.deter[:, : self.width]

    @property
    def seen(self):
        return State(*(torch.stack(parts, 1) for parts in zip(*self.states, strict=True)))


def planning_policy(model, method=MPPI(0.2), *, horizon=3, seed=0):  # noqa: B008 (frozen)
    generator = seeded(seed)
    planner = make_planner(model.spec.action, method, horizon=horizon, candidates=6)
    return FilteringPolicy(model, Planning(model, planner, discount=0.9, generator=generator), generator)


@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
@pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])
@pytest.mark.parametrize("options", [{}, {"read_reward": True}, {"smoothing": True}], ids=lambda o: "".join(o))
def test_filtering_in_steps_is_the_batched_filter_on_the_same_noise(spec, latent, options):
    model = make_model(spec, latent, **options)
    batch = make_batch(spec)  # with an episode that begins in the middle of it
    B, T = batch.is_first.shape
    recorder = Recorder()
    policy = FilteringPolicy(model, Reflexes(recorder), seeded(3))
    actions = [policy(rows) for rows in rows_of(batch)]
    again = seeded(3)
    noise = torch.cat([model.noise(B, 1, again) for _ in range(T)], 1)
    with torch.no_grad():
        states = model.dynamics.observe(model.embed_newest(batch), batch.prev_action, batch.is_first, noise).states
    torch.testing.assert_close(recorder.seen, states)
    np.testing.assert_allclose(np.stack(actions, 1), states.deter[..., :2].numpy(), atol=1e-5)


def test_nothing_is_predicted_or_decoded_while_filtering(monkeypatch):
    model, recorder = make_model(), Recorder()
    for part in (model.decoder, model.dynamics.prior_head):
        monkeypatch.setattr(part, "forward", lambda *arguments: pytest.fail("it ran"))
    policy = FilteringPolicy(model, Reflexes(recorder), seeded())
    for rows in rows_of(make_batch()):
        policy(rows)
    assert len(recorder.states) == 7


def test_memory_is_cleared_where_an_episode_begins_and_only_there():
    model = make_model()
    batch = make_batch(first=((1, 3),))
    one, other, forgetful = Recorder(), Recorder(), Recorder()
    changed = batch._replace(obs={"obs": batch.obs["obs"].clone()})
    changed.obs["obs"][:, :3] += 5.0  # another past
    resets = batch._replace(is_first=torch.ones_like(batch.is_first))
    for recorder, seen in ((one, batch), (other, changed), (forgetful, resets)):
        policy = FilteringPolicy(model, Reflexes(recorder), seeded())
        for rows in rows_of(seen):
            policy(rows)
    same = (one.seen.deter == other.seen.deter).all(-1)
    assert same[1, 3:].all()  # sequence 1 began anew at row 3
    assert not same[0, 1:].any() and not same[2, 1:].any()
    kept = (one.seen.deter == forgetful.seen.deter).all(-1)  # control: a memory that is cleared at every step
    assert kept[:, 0].all() and kept[1, 3] and not kept[:, 1:3].any()


def test_a_plan_is_carried_on_within_an_episode_and_dropped_with_it():
    model, starts = make_model(), []

    class Spy(Planner):
        def plan(self, evaluate, start, generator=None):
            starts.append(start)
            return super().plan(evaluate, start, generator)

    planner = make_planner(model.spec.action, MPPI(0.2), Spy, horizon=3, candidates=6)
    planning = Planning(model, planner, discount=0.9, generator=seeded())
    policy = FilteringPolicy(model, planning, seeded(1))
    for t, rows in enumerate(rows_of(make_batch(first=((1, 3),)))):
        before = planning.state().get("plan")
        action = policy(rows)
        np.testing.assert_array_equal(action, planning.state()["plan"][:, 0].numpy())
        if before is not None:
            warm = torch.cat([before[:, 1:], torch.zeros(3, 1, 2)], 1)
            began = torch.from_numpy(rows.is_first)[:, None, None]
            torch.testing.assert_close(starts[t], torch.where(began, 0.0, warm))
    assert not starts[0].any() and not starts[3][1].any() and starts[3][0].any()


def test_what_a_candidate_is_worth_is_what_its_imagined_rewards_sum_to():
    model, seen = make_model(), []

    class Spy(Planner):
        def plan(self, evaluate, start, generator=None):
            candidates = torch.rand(6, 2, 3, 2, generator=seeded(5)) * 2 - 1
            seen.append((candidates, evaluate(candidates)))
            return super().plan(evaluate, start, generator)

    state = State(torch.randn(2, 8, generator=seeded(1)), torch.randn(2, 4, generator=seeded(2)))
    planning = Planning(
        model,
        make_planner(model.spec.action, MPPI(0.2), Spy, horizon=3, candidates=6),
        discount=0.9,
        generator=seeded(),
    )
    planning(state, torch.ones(2, dtype=torch.bool))
    (candidates, returns) = seen[0]
    steps = iter(candidates.permute(2, 0, 1, 3).flatten(1, 2))
    start = State(*(x.expand(6, *x.shape) for x in state))
    imagined = imagine_rewards(model, start, lambda _: next(steps), 3, discount=0.9, generator=seeded())
    torch.testing.assert_close(returns, imagined.returns)


@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["continuous", "categorical"])
@pytest.mark.parametrize("method", [MPPI(0.2), CEM(elites=2)], ids=["mppi", "cem"])
def test_a_restored_policy_goes_on_as_the_saved_one(spec, method):
    model, rows = make_model(spec), list(rows_of(make_batch(spec, first=())))
    policy = planning_policy(model, method)
    assert isinstance(policy, SavedPolicy)
    for one in rows[:3]:
        policy(one)
    saved = {name: x.clone() for name, x in policy.state().items()}
    expected = acted(policy, rows[3:])
    other = planning_policy(model, method, seed=9)
    other(rows[0])
    other.restore(saved)
    np.testing.assert_array_equal(acted(other, rows[3:]), expected)
    for left_out in ("carry", "chooser", "generator"):  # each part of it matters
        fresh = planning_policy(model, method, seed=9)
        fresh.restore({name: x for name, x in saved.items() if not name.startswith(left_out)} | START[left_out])
        assert (acted(fresh, rows[3:]) != expected).any(), left_out


def acted(policy, rows):
    """The actions of a policy, and the states it saw."""
    return np.stack([np.concatenate([policy(one), policy.newest.deter.numpy()], -1) for one in rows])


START = {"carry": {}, "chooser": {}, "generator": {"generator": seeded(9).get_state()}}


def test_what_another_model_carried_is_refused_and_so_are_other_environments():
    policy = planning_policy(make_model())
    policy(next(rows_of(make_batch())))
    with pytest.raises(ValueError, match=r"carry: expected .* shapes \[\(8,\), \(15,\)\], got \[\(8,\), \(4,\)\]"):
        planning_policy(make_model(latent=CATEGORICAL)).restore(policy.state())
    two = list(rows_of(make_batch(batch=2, first=())))
    with pytest.raises(ValueError, match="expected one of each of 3 environments, got 2"):
        policy(two[1])


@pytest.mark.parametrize("latent", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
def test_where_all_episodes_begin_there_may_be_other_environments_than_before(latent):
    model = make_model(latent=latent)
    three, two = list(rows_of(make_batch())), list(rows_of(make_batch(batch=2, first=())))
    used, fresh = planning_policy(model), planning_policy(model)
    acted(used, three)
    for policy in (used, fresh):
        policy.generator.manual_seed(7)
    np.testing.assert_array_equal(acted(used, two[:2]), acted(fresh, two[:2]))


def test_the_return_that_is_predicted_is_that_of_the_plan_in_futures_of_its_own():
    model, planner = make_model(), make_planner(VECTOR_SPEC.action, MPPI(0.2), horizon=3, candidates=6)
    planning = Planning(model, planner, discount=0.9, generator=seeded())
    state = State(torch.randn(2, 8, generator=seeded(1)), torch.randn(2, 4, generator=seeded(2)))
    with pytest.raises(ValueError, match="there is none yet"):
        planning.predicted_return(state, 5)
    planning(state, torch.ones(2, dtype=torch.bool))
    start = State(*(x.expand(5, *x.shape) for x in state))
    act = recorded(planning.state()["plan"], 5)
    imagined = imagine_rewards(model, start, act, 3, discount=0.9, generator=seeded(4))
    predicted = planning.predicted_return(state, 5, seeded(4))
    torch.testing.assert_close(predicted, imagined.returns.mean(0))
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        planning.predicted_return(state, 0)


def test_planning_finds_the_action_that_a_model_rewards():
    """A reward that is the action itself, as far as the model knows: the plan goes to the action's end."""
    model = make_model()

    class Wanting(type(model)):
        def decode(self, state, names=None):
            decoded = super().decode(state, names)
            decoded["reward"] = Mean(state.deter[..., :1])
            return decoded

    class Mean:
        def __init__(self, mean):
            self.mean = mean

    model.__class__ = Wanting
    model.dynamics.action_in = torch.nn.Identity()
    model.dynamics.cell.unrolled = lambda: lambda deter, stoch, action: action.repeat(1, 4)
    model.dynamics.imagine = functools.partial(model.dynamics.imagine, plain_loop=True)  # the one that calls the cell
    generator = seeded()
    planner = make_planner(model.spec.action, CEM(8), horizon=3, candidates=64, iterations=5)
    planning = Planning(model, planner, discount=1.0, generator=generator)
    state = State(torch.zeros(2, 8), torch.zeros(2, 4))
    action = planning(state, torch.ones(2, dtype=torch.bool))
    assert (action[:, 0] > 0.8).all()


def test_a_value_stands_for_what_follows_the_plan_as_far_as_it_is_reached():
    model = make_model(VECTOR_SPEC)
    generator = seeded()
    planner = make_planner(model.spec.action, MPPI(0.2), horizon=3, candidates=6)
    deter, stoch = model.decoder.widths
    states = State(torch.randn(2, deter, generator=generator), torch.zeros(2, stoch))
    found = []
    for value in (None, lambda state: 7 + state.deter[..., 0]):
        planning = Planning(model, planner, discount=0.9, value=value, generator=seeded(1))
        planning(states, torch.ones(2, dtype=torch.bool))
        planning._plan = torch.zeros_like(planning._plan)  # the same plan of both
        act = recorded(planner.actions(planning._plan), 5)
        found.append(planning._returns(states, 5, 3, act, seeded(2)).mean(0))
        predicted = planning.predicted_return(states, 5, seeded(2))
        torch.testing.assert_close(predicted, found[0])  # the rewards of the plan alone, whatever follows
    start = State(*(x.expand(5, *x.shape) for x in states))
    act = recorded(planner.actions(torch.zeros(2, 3, 2)), 5)
    imagined = imagine_rewards(model, start, act, 3, discount=0.9, generator=seeded(2))
    reached = 0.9**3 * imagined.alive.prod(-1)
    expected = (reached * (7 + imagined.states.deter[:, :, -1, 0])).mean(0)
    torch.testing.assert_close(found[1] - found[0], expected, rtol=1e-4, atol=1e-5)


class Constant:
    """A policy that keeps count and does the same thing always."""

    def __init__(self, action):
        self.action, self.seen = action, 0

    def __call__(self, rows):
        self.seen += 1
        return np.full((len(rows.is_first), 2), self.action, np.float32)

    def state(self):
        return {"seen": torch.tensor(self.seen)}

    def restore(self, state):
        self.seen = int(state["seen"])


def test_a_successor_acts_from_when_it_is_ready_and_both_are_saved():
    ready = []
    policy = Successor(Constant(0.25), Constant(0.5), lambda: bool(ready))
    assert isinstance(policy, SavedPolicy)
    rows = next(rows_of(make_batch(VECTOR_SPEC)))
    assert (policy(rows) == 0.25).all() and (policy(rows) == 0.25).all()
    ready.append(True)
    assert (policy(rows) == 0.5).all()
    assert (policy.first.seen, policy.second.seen) == (2, 1)
    again = Successor(Constant(0.25), Constant(0.5), lambda: True)
    again.restore(policy.state())
    assert (again.first.seen, again.second.seen) == (2, 1)
