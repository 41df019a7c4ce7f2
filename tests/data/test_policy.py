import numpy as np
import pytest
import torch

from worldmodel.data.policy import RandomPolicy, ScriptedPolicy, executed_actions
from worldmodel.types import ActionSpec, Rows, SavedPolicy

STANDARD_ERRORS = 4.5  # two-sided: a false alarm in 150,000 comparisons; seeds are fixed


def draw(spec, n=20_000, seed=0):
    return RandomPolicy(spec, torch.Generator().manual_seed(seed))(rows(np.zeros(n, np.int32)))


def rows(episode_step):
    """Rows that many steps into their episodes, of which nothing else matters here."""
    n, first = len(episode_step), episode_step == 0
    return Rows({}, np.zeros((n, 1), np.float32), np.zeros(n, np.float32), first, ~first, ~first, episode_step)


def assert_mean(x, mean, variance):
    assert (np.abs(x.mean(0) - mean) < STANDARD_ERRORS * np.sqrt(variance / len(x))).all()


def test_random_continuous_actions_are_uniform_and_independent():
    x = draw(ActionSpec("continuous", 2))
    assert x.dtype == np.float32 and np.abs(x).max() <= 1
    assert_mean(x, 0, 1 / 3)
    assert_mean(x**2, 1 / 3, 4 / 45)
    assert_mean(x[:, 0] * x[:, 1], 0, 1 / 9)


def test_random_categorical_actions_are_one_hot_in_every_group_with_equal_chances():
    x = draw(ActionSpec("categorical", 5, (2, 3)))
    assert set(np.unique(x)) == {0, 1}
    np.testing.assert_array_equal(x[:, :2].sum(1), 1)
    np.testing.assert_array_equal(x[:, 2:].sum(1), 1)
    p = np.array([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    assert_mean(x, p, p * (1 - p))
    assert_mean(x[:, 0] * x[:, 2], 1 / 6, 1 / 6 * 5 / 6)


def test_random_binary_actions_are_fair_coins():
    x = draw(ActionSpec("binary", 3))
    assert set(np.unique(x)) == {0, 1}
    assert_mean(x, 1 / 2, 1 / 4)
    assert_mean(x[:, 0] * x[:, 1], 1 / 4, 3 / 16)


def test_random_actions_depend_on_the_generator_alone():
    spec = ActionSpec("continuous", 2)
    torch.manual_seed(0)
    first = draw(spec, n=5, seed=7)
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, draw(spec, n=5, seed=7))
    assert not np.array_equal(first, draw(spec, n=5, seed=8))


def test_a_random_policy_goes_on_from_a_state_it_gave():
    spec, step = ActionSpec("continuous", 2), rows(np.zeros(5, np.int32))
    policy, other = (RandomPolicy(spec, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert isinstance(policy, SavedPolicy) and not isinstance(ScriptedPolicy(np.float32([[1]])), SavedPolicy)
    policy(step)
    other.restore(policy.state())
    np.testing.assert_array_equal(other(step), policy(step))


def test_a_script_begins_anew_with_each_episode_and_holds_its_last_row():
    policy = ScriptedPolicy(np.float32([[1], [2], [3]]))
    steps = np.array([[0, 0], [1, 1], [2, 0], [3, 1], [0, 2], [1, 3]], np.int32)  # [call, environment]
    chosen = [policy(rows(step))[:, 0].tolist() for step in steps]
    assert chosen == [[1, 1], [2, 2], [3, 1], [3, 2], [1, 3], [2, 3]]


GOES_ON = np.zeros(2, bool)


@pytest.mark.parametrize(
    "spec", [ActionSpec("continuous", 3), ActionSpec("categorical", 5, (2, 3)), ActionSpec("binary", 3)]
)
def test_random_actions_are_executed_as_they_are(spec):
    x = draw(spec, n=50)
    np.testing.assert_array_equal(executed_actions(spec, x, np.zeros(50, bool)), x)


def test_continuous_actions_are_clipped_and_of_float32():
    x = executed_actions(ActionSpec("continuous", 2), [[-3.0, 0.5], [1.0, 2.0]], GOES_ON)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[-1, 0.5], [1, 1]])


@pytest.mark.parametrize(
    ("spec", "second"),
    [
        (ActionSpec("categorical", 5, (2, 3)), [1, 0, 0, 0, 0]),  # no choice among the three
        (ActionSpec("categorical", 5, (2, 3)), [1, 1, 0, 0, 0]),  # two ones, both for the first choice
        (ActionSpec("categorical", 5, (2, 3)), [1, 0, 0.5, 0.5, 0]),
        (ActionSpec("categorical", 5, (2, 3)), [1, 0, 2, -1, 0]),
        (ActionSpec("binary", 5), [0, 1, 0.5, 1, 1]),
        (ActionSpec("continuous", 5), [0, 0, np.inf, 0, 0]),
    ],
)
def test_what_is_no_action_is_refused_except_where_the_episode_is_over(spec, second):
    x = [draw(spec, n=1)[0], second]
    with pytest.raises(ValueError, match=r"^policy: expected actions that are .*, got \["):
        executed_actions(spec, x, GOES_ON)
    np.testing.assert_array_equal(executed_actions(spec, x, np.array([False, True])), [x[0], np.zeros(5)])
