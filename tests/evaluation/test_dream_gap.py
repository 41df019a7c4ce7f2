"""Dream beside world: gaps that are known, starts that both have in common, and ends that are nobody's fault."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.behaviour.dreams import DreamRules, Dreams
from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.rollout import Rollout
from worldmodel.evaluation.dream_gap import Course, dream_gap, variable_gaps
from worldmodel.evaluation.rounds import first_start
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import ObservationSpec
from worlds import Counting, make_batch, make_model, register

VECTOR = {"obs": ObservationSpec("vector", (2,))}


class Unequal(Counting):
    """First episodes of 1 + seed % 3 steps with a reward of 10 each; in later ones a step earns 1,000."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else seed % 1000, options=options)

    def step(self, action):
        obs, *_ = super().step(action)
        return obs, 10.0 if self.episode == 0 else 1000.0, self.t >= 1 + self.instance % 3, False, {}


@pytest.fixture(autouse=True)
def _worlds():
    register()
    if "Unequal-v0" not in gymnasium.registry:
        gymnasium.register("Unequal-v0", Unequal, disable_env_checker=True)


def course(obs, running, reward=None, path="obs"):
    running = np.asarray(running, bool)
    reward = np.ones(running.shape) if reward is None else np.asarray(reward)
    return Course({path: np.asarray(obs)}, np.zeros((*running.shape, 1)), reward, running)


def test_bias_and_distance_are_means_over_the_starts_that_run_in_both():
    world = course(np.zeros((3, 3, 2), np.float32), [[1, 1, 0], [1, 1, 0], [1, 0, 0]])
    off = np.zeros((3, 3, 2), np.float32)
    off[..., 0] = [[1, 2, 9], [3, -4, 9], [5, 9, 9]]
    dream = course(off, [[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    found = variable_gaps(VECTOR, world, dream)
    assert list(found) == ["obs[0]", "obs[1]"]
    np.testing.assert_allclose(found["obs[0]"].bias.mean, [3, -1, np.nan])
    np.testing.assert_allclose(found["obs[0]"].distance.mean, [3, 3, np.nan])
    assert not found["obs[1]"].distance.mean[:2].any() and found["obs[1]"].std == 0
    low, high = found["obs[0]"].bias.low, found["obs[0]"].bias.high
    assert 1 <= low[0] < 3 < high[0] <= 5 and (low[1], high[1]) == (-4, 2) and np.isnan([low[2], high[2]]).all()


def test_the_interval_is_that_of_the_mean(generator):
    off = torch.randn(400, 1, 2, generator=generator).numpy() * 3 + 7
    alive = np.ones((400, 1))
    bias = variable_gaps(VECTOR, course(np.zeros_like(off), alive), course(off, alive))["obs[0]"].bias
    error = 3 / 20
    assert bias.low[0] == pytest.approx(off[:, 0, 0].mean() - 1.96 * error, abs=0.3 * error)
    assert bias.high[0] == pytest.approx(off[:, 0, 0].mean() + 1.96 * error, abs=0.3 * error)
    one = variable_gaps(VECTOR, course(np.zeros((1, 1, 2)), [[1]]), course(off[:1], [[1]]))["obs[0]"].bias
    assert one.mean[0] == off[0, 0, 0] and np.isnan([one.low[0], one.high[0]]).all()


def test_classes_differ_or_not_and_an_image_is_one_variable():
    leaves = {"cards": ObservationSpec("categorical", (2,), (5, 5))}
    world, dream = np.array([[[0, 4]], [[1, 1]]], np.int32), np.array([[[3, 4]], [[1, 4]]], np.int32)
    found = variable_gaps(leaves, course(world, [[1], [1]], path="cards"), course(dream, [[1], [1]], path="cards"))
    assert [one.distance.mean.tolist() for one in found.values()] == [[0.5], [0.5]]
    assert all(one.bias is None for one in found.values())
    leaves = {"eye": ObservationSpec("image", (16, 16, 1))}
    black, grey = np.zeros((2, 1, 16, 16, 1), np.uint8), np.full((2, 1, 16, 16, 1), 100, np.uint8)
    grey[:, :, :8] = 200
    found = variable_gaps(leaves, course(grey, [[1], [1]], path="eye"), course(black, [[1], [1]], path="eye"))
    assert (found["eye"].bias.mean.item(), found["eye"].distance.mean.item()) == (-150, 150)


class Seeing:
    """A random policy that keeps the rows that it was shown."""

    made: list["Seeing"]

    def __init__(self, spec):
        self.inner, self.seen = RandomPolicy(spec.action, torch.Generator().manual_seed(7)), []
        self.made.append(self)

    def __call__(self, rows):
        self.seen.append(rows)
        return self.inner(rows)


def lasting(model, goes_on=True):
    """Make the model sure that every episode goes on, or that none does."""
    last = model.decoder.continue_head[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 40.0 if goes_on else -40.0)
    return model


def measure(*, context=1, horizon=5, episodes=3, count=2, goes_on=True, row_limit=None, seed=0):
    """In Counting worlds, whose first episodes last two steps and earn 1, then 2."""
    with make_environments("Counting-v0", count=count, row_limit=row_limit) as environments:
        model, Seeing.made = lasting(make_model(environments.spec), goes_on), []
        found = dream_gap(
            environments,
            model,
            lambda: Seeing(environments.spec),
            episodes=episodes,
            context=context,
            horizon=horizon,
            seed=seed,
        )
    return model, found


def test_both_begin_with_the_same_rows_and_the_same_policy():
    _, found = measure(context=2, episodes=2)
    world, dream = Seeing.made
    for t in range(2):
        for name, x in world.seen[t].obs.items():
            np.testing.assert_array_equal(x, dream.seen[t].obs[name])
        np.testing.assert_array_equal(world.seen[t].prev_action, dream.seen[t].prev_action)
    assert dream.seen[2].episode_step.tolist() == [2, 2]
    assert not np.array_equal(found.world.obs["count"][:, 0], dream.seen[2].obs["count"])
    first = found.world.obs["action"][:, 0] / 5  # Counting worlds repeat their action, of [-5, 5]
    np.testing.assert_allclose(first, dream.seen[2].prev_action, rtol=1e-6)
    assert found.context == 2


def test_what_both_have_in_common_and_what_was_done_in_each_is_kept():
    _, found = measure(context=2, episodes=3)
    assert found.seeds.tolist() == [first_start(0), first_start(0) + 1, first_start(0) + 2]
    world, dream = Seeing.made[:2]  # of the first round
    for t in range(2):
        np.testing.assert_array_equal(found.before.obs["count"][:2, t], world.seen[t].obs["count"])
        np.testing.assert_array_equal(found.before.action[:2, t], world.seen[t].prev_action)
        np.testing.assert_array_equal(found.before.reward[:2, t], world.seen[t].reward)
    for h, row in enumerate(dream.seen[2:4]):
        np.testing.assert_array_equal(found.dream.action[:2, h], row.prev_action)
    repeated = found.world.obs["action"][:, 0, 0] / 5  # Counting worlds repeat their action, of [-5, 5]
    np.testing.assert_allclose(found.world.action[:, 0, 0], repeated, rtol=1e-6)
    assert [*found.world.variables] == ["action", "count[0]", "count[1]", "count[2]"]
    np.testing.assert_array_equal(found.world.variables["count[2]"], found.world.obs["count"][..., 2])


def test_what_the_world_earned_and_what_the_dream_earned():
    model, found = measure(episodes=2, horizon=4)
    np.testing.assert_array_equal(found.world.returns, [3, 3])  # 1 + 2: every later reward is of another episode
    np.testing.assert_array_equal(found.world.lengths, [2, 2])
    np.testing.assert_array_equal(found.dream.lengths, [4, 4])
    with make_environments("Counting-v0", count=2) as environments:
        policy = RandomPolicy(environments.spec.action, torch.Generator().manual_seed(7))
        row = Rollout(environments, policy, first_start(0)).step()
    dreams = Dreams(model, 2, lambda *_: pytest.fail("drawn"), DreamRules(None))
    noise = make_generator(0, stream=Stream.IMAGINATION)
    dreams.seed(int(torch.randint(2**63 - 1, (1,), generator=noise)))
    context = make_batch(environments.spec, 2, 1, first=())._replace(
        obs={path: torch.from_numpy(x)[:, None] for path, x in row.obs.items()}
    )
    dreams.begin(context=context._replace(prev_action=torch.zeros(2, 1, 1), reward=torch.zeros(2, 1)))
    earned = [dreams.step(torch.from_numpy(policy(row))).reward.numpy() for _ in range(4)]
    np.testing.assert_allclose(found.dream.returns, np.sum(earned, 0), rtol=1e-5)
    assert found.both.tolist() == [2, 2, 0, 0]


def test_what_comes_behind_an_episode_counts_for_nothing_while_others_go_on():
    first = first_start(0)
    lengths = [1 + (first + i) % 1000 % 3 for i in range(3)]
    with make_environments("Unequal-v0", count=3) as environments:
        found = dream_gap(
            environments,
            lasting(make_model(environments.spec)),
            lambda: RandomPolicy(environments.spec.action, torch.Generator().manual_seed(7)),
            **{"episodes": 3, "context": 1, "horizon": 5, "seed": 0},
        )
    assert sorted(lengths) == [1, 2, 3]
    assert found.world.lengths.tolist() == lengths and found.world.returns.tolist() == [10.0 * n for n in lengths]
    assert found.both.tolist() == [3, 2, 1, 0, 0]


def test_a_dream_ends_by_itself_and_where_the_recording_of_its_world_was_cut():
    _, ended = measure(goes_on=False)
    assert ended.dream.lengths.tolist() == [1, 1, 1]
    _, cut = measure(row_limit=2)
    assert cut.world.lengths.tolist() == cut.dream.lengths.tolist() == [1, 1, 1]


def test_episodes_that_end_within_the_context_have_no_start():
    """In the second round, Counting worlds are at their third episode, of four steps."""
    _, found = measure(context=3, episodes=3)
    assert found.too_short == 2 and len(found.world.reward) == 1 and found.world.lengths.tolist() == [2]
    with pytest.raises(ValueError, match="context: expected fewer rows than the 2 episodes have, got 3"):
        measure(context=3, episodes=2)


@pytest.mark.parametrize("wrong", ["episodes", "context", "horizon"])
def test_a_number_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{wrong}: expected at least 1, got 0"):
        measure(**{wrong: 0})
