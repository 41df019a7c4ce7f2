"""Policies in worlds whose every reward is known: what is counted, from which starts, and what the model expected."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.behaviour.acting import FilteringPolicy, Planning, Reflexes
from worldmodel.behaviour.planner import MPPI
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.episodes import play, summary
from worldmodel.evaluation.own_episodes import collect_episodes
from worldmodel.evaluation.plan_forecast import FUTURES, PlanForecast
from worldmodel.evaluation.rounds import first_start, side_by_side
from worldmodel.seeding import Stream, make_generator
from worlds import Counting, make_model, make_planner, register


class Uneven(Counting):
    """First episodes of 1 + seed % 3 steps with a reward of 1 each; in all later ones a step earns 100.

    The observation's first entry is seed % 1000: float32 does not tell larger ones apart.
    """

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else seed % 1000, options=options)

    def step(self, action):
        obs, *_ = super().step(action)
        return obs, 1.0 if self.episode == 0 else 100.0, self.t >= 1 + self.instance % 3, False, {}


@pytest.fixture(autouse=True)
def _worlds():
    register()
    if "Uneven-v0" not in gymnasium.registry:
        gymnasium.register("Uneven-v0", Uneven, disable_env_checker=True)


class Seeing:
    """A policy that keeps the seeds that its episodes were started with, which Uneven worlds show."""

    def __init__(self, inner):
        self.inner, self.seeds, self.calls = inner, [], 0

    def __call__(self, rows):
        self.seeds.append(rows.obs["count"][rows.is_first, 0].astype(int).tolist())
        self.calls += 1
        return self.inner(rows)


def scripted():
    return lambda rows: np.zeros((len(rows.reward), 1), np.float32)


def planning_policy(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    planner = make_planner(spec.action, MPPI(0.2), horizon=2, candidates=5)
    model = make_model(spec)
    return FilteringPolicy(model, Planning(model, planner, discount=0.9, generator=generator), generator)


def test_whole_episodes_are_counted_and_nothing_behind_them():
    seeing = Seeing(scripted())
    with make_environments("Uneven-v0", count=4) as environments:
        played = play(environments, seeing, episodes=4, seed=0)
    lengths = 1 + np.array(seeing.seeds[0]) % 3
    assert set(lengths) == {1, 2, 3}
    np.testing.assert_array_equal(played.lengths, lengths)
    np.testing.assert_array_equal(played.returns, lengths)  # a reward of 1 a step: no later episode's 100
    assert played.calibration is None and seeing.calls == lengths.max() and played.cpu_seconds >= 0


def test_rounds_are_played_until_there_are_enough_episodes():
    """A Counting world's episode e lasts 2 + e % 3 steps and earns 10 e + 1, 10 e + 2, ..."""
    with make_environments("Counting-v0", count=2) as environments:
        played = play(environments, scripted(), episodes=3, seed=0)
    np.testing.assert_array_equal(played.lengths, [2, 2, 3])
    np.testing.assert_array_equal(played.returns, [3, 3, 36])
    assert [side_by_side(n) for n in (1, 20, 32, 33, 100)] == [1, 20, 32, 17, 25]


def test_starts_are_those_of_the_seed_whatever_the_policy_and_however_many_side_by_side():
    found = []
    for count, seed, make in ((4, 0, scripted), (2, 0, scripted), (4, 0, None), (4, 1, scripted)):
        with make_environments("Uneven-v0", count=count) as environments:
            random = RandomPolicy(environments.spec.action, torch.Generator().manual_seed(count))
            seeing = Seeing(make() if make else random)
            play(environments, seeing, episodes=4, seed=seed)
        found.append([seed for row in seeing.seeds if len(row) == count for seed in row])  # not those begun later
    first, halves, other_policy, other_seed = found
    assert first == halves == other_policy == list(range(first[0], first[0] + 4))
    assert not set(first) & set(other_seed) and not set(first) & set(range(100))  # nor the first ones of a training


def test_what_a_planner_expects_stands_beside_what_came():
    with make_environments("Counting-v0", count=2) as environments:
        played = play(environments, planning_policy(environments.spec), episodes=3, seed=5)
        policy = planning_policy(environments.spec)
        first = int(torch.randint(2**31, (1,), generator=make_generator(5, stream=Stream.STARTS)))
        policy(Rollout(environments, policy, first).step())
        futures = make_generator(5, stream=Stream.IMAGINATION)
        expected = policy.chooser.predicted_return(policy.newest, FUTURES, futures)
    calibration = played.calibration
    assert (calibration.horizon, calibration.discount) == (2, 0.9)
    np.testing.assert_allclose(calibration.real, [1 + 0.9 * 2, 1 + 0.9 * 2, 11 + 0.9 * 12])
    np.testing.assert_allclose(calibration.predicted[:2], expected, rtol=1e-5)
    assert calibration.predicted.std() > 0


def test_what_a_planner_expects_is_noted_while_episodes_are_collected():
    with make_environments("Counting-v0", count=2) as environments:
        policy = planning_policy(environments.spec)
        forecast = PlanForecast.of(policy, seed=5)
        found = collect_episodes(environments, policy, episodes=3, seed=5, forecast=forecast)
        other = planning_policy(environments.spec)
        other(Rollout(environments, other, first_start(5, Stream.CHOOSING)).step())
        futures = make_generator(5, stream=Stream.IMAGINATION)
        expected = other.chooser.predicted_return(other.newest, FUTURES, futures)
    reward = (found.reward * found.valid)[:, 1:].T.numpy()
    np.testing.assert_allclose(forecast.real(reward), [1 + 0.9 * 2, 1 + 0.9 * 2, 11 + 0.9 * 12])
    np.testing.assert_allclose(forecast.predicted[:2], expected, rtol=1e-5)
    assert forecast.predicted.shape == (3,)


def test_a_policy_that_filters_and_does_not_plan_promises_nothing():
    with make_environments("Counting-v0", count=2) as environments:
        model = make_model(environments.spec)
        act = Reflexes(lambda state: state.deter[:, :1])
        played = play(environments, FilteringPolicy(model, act, torch.Generator()), episodes=2, seed=0)
    assert played.calibration is None and played.lengths.tolist() == [2, 2]


def test_a_summary_has_the_95_percent_of_the_mean(generator):
    values = torch.randn(400, generator=generator).double().numpy() * 3 + 7
    found = summary(values)
    error = 3 / 20
    assert found.mean == pytest.approx(values.mean()) and found.median == np.median(values)
    assert (found.least, found.most) == (values.min(), values.max())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)
    assert np.isnan(summary(values[:1]).low)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"episodes": 0}, "episodes: expected at least 1"), ({"seed": -1}, "seed: expected zero")]
)
def test_no_episodes_and_a_negative_seed_are_refused(wrong, words):
    with make_environments("Counting-v0", count=1) as environments, pytest.raises(ValueError, match=words):
        play(environments, scripted(), **({"episodes": 1, "seed": 0} | wrong))
