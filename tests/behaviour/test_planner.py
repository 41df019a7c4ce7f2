"""Planning against known optima: a quadratic, every sequence of a discrete problem, and the weights' formulas."""

import itertools

import pytest
import torch

from worldmodel.behaviour.planner import CEM, MPPI
from worldmodel.types import ActionSpec
from worlds import make_planner

CONTINUOUS = ActionSpec("continuous", 2)
GROUPS = ActionSpec("categorical", 5, (2, 3))
BINARY = ActionSpec("binary", 2)
SPECS = {"continuous": CONTINUOUS, "groups": GROUPS, "binary": BINARY}
METHODS = {"cem": CEM(8), "mppi": MPPI(0.2)}


def planner_of(spec, method, **settings):
    return make_planner(spec, METHODS[method], **{"horizon": 4, "iterations": 3, **settings})


def quadratic(target):
    """-(a - target)' Q (a - target) over the whole sequence, with Q that couples its entries: best at the target."""
    size = target[0].numel()
    root = torch.eye(size) + 0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(3))
    return lambda actions: -((actions - target).flatten(2) @ root).square().sum(-1)


def targets(batch, horizon=4):
    return 1.6 * torch.rand(batch, horizon, 2, generator=torch.Generator().manual_seed(4)) - 0.8


def table(spec, batch, horizon=4):
    """Returns with a term for every pair of neighbouring actions: how good an action is depends on the others."""
    generator = torch.Generator().manual_seed(5)
    alone = torch.randn(batch, horizon, spec.width, generator=generator)
    pairs = 0.3 * torch.randn(batch, spec.width, spec.width, generator=generator)

    def evaluate(actions):
        neighbours = torch.einsum("nbta,bac,nbtc->nb", actions[:, :, :-1], pairs, actions[:, :, 1:])
        return (actions * alone).sum((-1, -2)) + neighbours

    return evaluate


def every_sequence(spec, batch, horizon=4):
    parts = [torch.eye(k) for k in spec.classes] or [torch.tensor([[0.0], [1.0]])] * spec.width
    single = torch.stack([torch.cat(rows) for rows in itertools.product(*parts)])
    sequences = torch.stack([torch.stack(s) for s in itertools.product(single, repeat=horizon)])
    return sequences[:, None].expand(-1, batch, -1, -1)


@pytest.mark.parametrize("method", [CEM(elites=20, min_std=0.01), MPPI(temperature=0.1)], ids=["cem", "mppi"])
def test_the_best_of_a_quadratic_is_found(method, generator):
    goal = targets(3)
    planner = make_planner(CONTINUOUS, method, horizon=4, iterations=30, candidates=200, std=0.3)
    plan = planner.plan(quadratic(goal), planner.neutral(3), generator)
    assert (plan.actions - goal).abs().max() < (0.03 if isinstance(method, CEM) else 0.2)
    assert torch.equal(plan.actions, plan.mean)


def test_a_best_action_outside_the_bounds_is_met_at_the_bound(generator):
    goal = torch.full((1, 4, 2), 2.0)
    planner = make_planner(CONTINUOUS, CEM(8), horizon=4, iterations=10)
    plan = planner.plan(lambda a: -(a - goal).square().sum((-1, -2)), planner.neutral(1), generator)
    assert plan.best.max() == 1 and plan.actions.max() <= 1 and plan.actions.min() > 0.95


@pytest.mark.parametrize("method", [CEM(8), MPPI(temperature=0.5)], ids=["cem", "mppi"])
@pytest.mark.parametrize("spec", [GROUPS, BINARY], ids=["groups", "binary"])
def test_the_best_of_a_discrete_problem_is_that_of_all_sequences(spec, method, generator):
    evaluate, everything = table(spec, 6), every_sequence(spec, 6)
    returns, index = evaluate(everything).max(0)
    expected = everything[index, torch.arange(6)]
    planner = make_planner(spec, method, horizon=4, iterations=10, candidates=200)
    plan = planner.plan(evaluate, planner.neutral(6), generator)
    assert torch.equal(plan.best, expected)
    torch.testing.assert_close(plan.best_return, returns)
    if isinstance(method, CEM):  # MPPI's plan still averages over sequences that are nearly as good
        assert torch.equal(plan.actions, expected)


@pytest.mark.parametrize("method", ["cem", "mppi"])
@pytest.mark.parametrize("kind", SPECS)
def test_problems_side_by_side_are_planned_as_one_at_a_time(kind, method, generator):
    spec = SPECS[kind]
    start, planner = targets(3), planner_of(spec, method)

    def evaluate_all(actions):
        return quadratic(start)(actions) if kind == "continuous" else table(spec, 3)(actions)

    def evaluate_only(b):
        return lambda actions: evaluate_all(actions.expand(-1, 3, -1, -1))[:, b : b + 1]

    state = generator.get_state()
    together = planner.plan(evaluate_all, planner.neutral(3), generator)
    for b in range(3):
        generator.set_state(state)
        alone = planner.plan(evaluate_only(b), planner.neutral(1), generator)
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[b])


@pytest.mark.parametrize("kind", SPECS)
def test_the_generator_decides_the_plan(kind):
    planner = planner_of(SPECS[kind], "cem")
    evaluate = quadratic(targets(2)) if kind == "continuous" else table(SPECS[kind], 2)
    plans = [planner.plan(evaluate, planner.neutral(2), torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)]
    assert all(torch.equal(a, b) for a, b in zip(plans[0], plans[1], strict=True))
    assert not torch.equal(plans[0].mean, plans[2].mean)


@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_a_warm_start_helps(method):
    """A long sequence and few candidates: after a step, the plan that is left is better than a new one."""
    goal = targets(16, horizon=16)
    planner = make_planner(CONTINUOUS, METHODS[method], horizon=15, iterations=1)
    first, later = quadratic(goal[:, :15]), quadratic(goal[:, 1:])
    mean = planner.neutral(16)
    for seed in range(20):
        mean = planner.plan(first, mean, torch.Generator().manual_seed(seed)).mean
    warm = planner.plan(later, planner.shifted(mean), torch.Generator().manual_seed(99))
    cold = planner.plan(later, planner.neutral(16), torch.Generator().manual_seed(99))
    assert later(warm.actions[None])[0].mean() > later(cold.actions[None])[0].mean() + 1
    assert (warm.best_return >= later(planner.shifted(mean)[None])[0]).all()  # the old plan is one of the candidates


@pytest.mark.parametrize("kind", SPECS)
def test_shifting_drops_what_was_done_and_knows_nothing_of_what_comes(kind, generator):
    planner = planner_of(SPECS[kind], "cem")
    mean = torch.rand(2, 4, SPECS[kind].width, generator=generator)
    shifted = planner.shifted(mean)
    assert torch.equal(shifted[:, :3], mean[:, 1:])
    assert torch.equal(shifted[:, 3], planner.neutral(2)[:, 3])


def test_neutral_starts_are_zeros_and_equal_probabilities():
    assert planner_of(CONTINUOUS, "cem").neutral(2).eq(0).all()
    torch.testing.assert_close(
        planner_of(GROUPS, "cem").neutral(2)[0, 0], torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    )
    assert planner_of(BINARY, "cem").neutral(2).eq(0.5).all()


def test_one_iteration_is_the_weighted_mean_of_the_candidates(generator):
    seen = []

    def evaluate(actions):
        seen.append(actions)
        return actions.sum((-1, -2))

    planner = make_planner(CONTINUOUS, MPPI(temperature=0.4), horizon=3, candidates=10)
    plan = planner.plan(evaluate, planner.neutral(2), generator)
    returns = seen[0].sum((-1, -2))
    weights = torch.exp(returns / (0.4 * returns.std(0, correction=0)))
    weights /= weights.sum(0)
    torch.testing.assert_close(plan.mean, (weights[..., None, None] * seen[0]).sum(0))
    assert torch.equal(seen[0][0], planner.neutral(2)) and seen[0].abs().max() <= 1


def test_elites_set_the_mean_and_the_std_of_the_next_candidates(generator):
    seen = []

    def evaluate(actions):
        seen.append(actions)
        return actions.sum((-1, -2))

    planner = make_planner(
        CONTINUOUS, CEM(elites=50, min_std=0.01), horizon=1, iterations=2, candidates=20_000, std=0.2
    )
    planner.plan(evaluate, planner.neutral(1), generator)
    elites = seen[0][seen[0].sum((-1, -2))[:, 0].topk(50).indices]
    torch.testing.assert_close(seen[1].mean(0), elites.mean(0), rtol=0, atol=0.01)  # 7 standard errors of 0.2 / 141
    torch.testing.assert_close(seen[1].std(0), elites.std(0, correction=0), rtol=0.05, atol=0)


def test_candidates_come_as_often_as_the_plan_and_the_exploration_say(generator):
    seen = []
    planner = make_planner(GROUPS, CEM(8), horizon=1, candidates=50_001, explore=0.3)
    start = torch.tensor([[[0.9, 0.1, 0.0, 0.25, 0.75]]])
    planner.plan(lambda actions: seen.append(actions) or torch.zeros(50_001, 1), start, generator)
    probs = 0.7 * start[0, 0] + 0.3 * torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    often = seen[0][1:, 0, 0].mean(0)
    assert ((often - probs) / (probs * (1 - probs) / 50_000).sqrt()).abs().max() < 4
    assert torch.equal(seen[0][0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0]))


def test_returns_that_are_all_the_same_move_nothing_far(generator):
    planner = planner_of(CONTINUOUS, "mppi", candidates=2_000, iterations=1)
    plan = planner.plan(lambda actions: torch.full(actions.shape[:2], -3.0), planner.neutral(2), generator)
    assert plan.mean.isfinite().all() and plan.mean.abs().max() < 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"horizon": 0}, "horizon: expected at least 1, got 0"),
        ({"iterations": 0}, "iterations: expected at least 1, got 0"),
        ({"candidates": 1}, "candidates: expected at least 2"),
        ({"candidates": 7}, "elites: expected at most the 7 candidates, got 8"),
        ({"std": 0.0}, "std: expected a number greater than zero, got 0.0"),
        ({"explore": 1.5}, r"explore: expected a share in \[0, 1\], got 1.5"),
    ],
)
def test_an_impossible_planner_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_planner(CONTINUOUS, CEM(8), **wrong)


@pytest.mark.parametrize("method", [lambda: CEM(elites=0), lambda: CEM(8, min_std=0.0), lambda: MPPI(temperature=0.0)])
def test_an_impossible_method_is_refused(method):
    with pytest.raises(ValueError, match="expected"):
        method()


def test_a_start_of_another_horizon_is_refused():
    planner = planner_of(CONTINUOUS, "cem")
    with pytest.raises(
        ValueError, match=r"start: expected \[B, H, A\] with \(H, A\) = \(4, 2\), got the shape \(1, 3, 2\)"
    ):
        planner.plan(lambda a: a.sum((-1, -2)), torch.zeros(1, 3, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_returns_that_are_not_finite_are_refused(bad):
    planner = planner_of(CONTINUOUS, "cem")
    with pytest.raises(ValueError, match="evaluate: expected finite returns, got 64 that are not"):
        planner.plan(lambda a: torch.full(a.shape[:2], bad), planner.neutral(1))


def test_returns_of_the_wrong_shape_are_refused():
    planner = planner_of(CONTINUOUS, "cem")
    with pytest.raises(ValueError, match=r"evaluate: expected returns of shape \(64, 2\), \[N, B\], got \(64,\)"):
        planner.plan(lambda a: a.sum((-1, -2, -3)), planner.neutral(2))


def swing(angle, speed, torque):
    """Gymnasium's Pendulum-v1: one step of 0.05 seconds under a torque in [-1, 1], in units of its largest."""
    off_upright = (angle + torch.pi) % (2 * torch.pi) - torch.pi
    reward = -(off_upright.square() + 0.1 * speed.square() + 0.001 * (2 * torque).square())
    speed = (speed + 0.05 * (15 * torch.sin(angle) + 6 * torque)).clamp(-8, 8)
    return angle + 0.05 * speed, speed, reward


def test_a_pendulum_is_swung_up_by_planning_again_at_every_step(generator):
    """From hanging still, for which 150 steps score -150 pi^2 = -1,480."""
    planner = make_planner(ActionSpec("continuous", 1), MPPI(0.2))
    angle, speed, total = torch.full((4,), torch.pi), torch.zeros(4), torch.zeros(4)
    mean = planner.neutral(4)
    for _ in range(150):

        def evaluate(actions, start=(angle, speed)):
            (a, v), returns = start, 0.0
            for torque in actions.unbind(2):
                a, v, reward = swing(a, v, torque[..., 0])
                returns = returns + reward
            return returns

        plan = planner.plan(evaluate, mean, generator)
        angle, speed, reward = swing(angle, speed, plan.actions[:, 0, 0])
        total, mean = total + reward, planner.shifted(plan.mean)
    assert torch.cos(angle).min() > 0.99 and total.min() > -600
