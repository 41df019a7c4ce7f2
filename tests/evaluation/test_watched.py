"""Episodes to look at: the right ones, played again as they were, and what the model makes of every row."""

import gymnasium
import numpy as np
import pytest
import torch

from worldmodel.data.environment import make_environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.evaluation.rounds import first_start
from worldmodel.evaluation.watched import SIDE, Recorded, choose, film, watch
from worlds import MIXED_SPEC, Counting, make_batch, make_model


class Shown(Counting):
    """First episodes of 1 + seed % 5 steps with a reward of 1 each; a frame is as bright as its step, times ten."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    size = (40, 50, 3)

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else seed % 1000, options=options)

    def step(self, action):
        obs, *_ = super().step(action)
        return obs, 1.0, self.t >= 1 + self.instance % 5, False, {}

    def render(self):
        return np.full(self.size, 10 * self.t, np.uint8)


class Large(Shown):
    size = (2 * SIDE, 20, 3)


class Grey(Shown):
    size = (40, 50)


@pytest.fixture(autouse=True)
def _worlds():
    for world in (Shown, Large, Grey):
        if f"{world.__name__}-v0" not in gymnasium.registry:
            gymnasium.register(f"{world.__name__}-v0", world, disable_env_checker=True)


def random_policy(environments):
    return RandomPolicy(environments.spec.action, torch.Generator().manual_seed(0))


def chosen_of(episodes, count=2):
    with make_environments("Shown-v0", count=count) as environments:
        return choose(environments, random_policy(environments), episodes=episodes, seed=0)


def test_the_best_and_the_median_episode_are_chosen():
    first = first_start(0)
    lengths = [1 + (first + i) % 1000 % 5 for i in range(5)]
    assert sorted(lengths) == [1, 2, 3, 4, 5]
    chosen = chosen_of(5)
    assert chosen.titles == ("best of 5 episodes", "median of 5 episodes")
    assert [one.earned for one in chosen.recorded] == [5, 3]
    assert [one.seed - first for one in chosen.recorded] == [lengths.index(5), lengths.index(3)]
    assert [len(one.action) for one in chosen.recorded] == [5, 3]
    assert chosen_of(1).titles == ("one episode",)


def test_an_episode_is_played_again_as_it_was_and_filmed():
    best, _ = chosen_of(5).recorded
    with make_environments("Shown-v0", count=1, kwargs={"render_mode": "rgb_array"}) as one:
        frames, rows = film(one, best)
    assert frames[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50] and frames.shape[1:] == Shown.size
    np.testing.assert_array_equal(rows.prev_action[0, 1:], best.action)
    assert rows.obs["count"][0, :, 0].unique().tolist() == [best.seed % 1000]
    assert rows.is_last[0].tolist() == [False] * 5 + [True] and rows.reward.sum() == best.earned


def test_large_frames_are_kept_smaller_and_others_refused():
    recorded = Recorded(0, np.zeros((1, 1), np.float32), 0.0)
    with make_environments("Large-v0", count=1, kwargs={"render_mode": "rgb_array"}) as one:
        frames, _ = film(one, recorded)
    assert frames.shape == (2, SIDE, 10, 3) and frames[1].min() == frames[1].max() == 10
    for world, kwargs, got in (("Grey-v0", {"render_mode": "rgb_array"}, "the shape"), ("Pendulum-v1", {}, "none")):
        with make_environments(world, count=1, kwargs=kwargs) as one, pytest.raises(ValueError, match=f"got {got}"):
            film(one, recorded)


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_model_sees_each_row_and_predicts_it_from_those_before(smoothing):
    model = make_model(MIXED_SPEC, smoothing=smoothing)
    rows = make_batch(MIXED_SPEC, 1, 6, first=())
    seen = watch(model, np.zeros((6, 4, 4, 3), np.uint8), rows, torch.Generator().manual_seed(1))
    with torch.no_grad():
        states, posterior, prior, _ = model.filter(rows, model.noise(1, 6, torch.Generator().manual_seed(1)))
        decoded = model.decode(states)
    np.testing.assert_allclose(seen.kl, posterior.kl(prior).sum(-1)[0], rtol=1e-5)
    assert list(seen.leaves) == list(MIXED_SPEC.observations)
    for path, leaf in seen.leaves.items():
        np.testing.assert_array_equal(leaf.truth, rows.obs[path][0])
        np.testing.assert_allclose(leaf.reconstruction, decoded[path].mean[0], rtol=1e-5)
        assert leaf.prediction.shape == leaf.reconstruction.shape
    assert seen.leaves["camera"].band is None
    angle = seen.leaves["joints/angle"]
    low, high = angle.band
    assert ((low < angle.prediction) & (angle.prediction < high)).mean() > 0.9


def test_a_prediction_does_not_know_its_row():
    """The last row changes; what was predicted of it does not, and its reconstruction does."""
    model, rows = make_model(), make_batch(batch=1, length=4, first=())
    other = rows._replace(obs={"obs": rows.obs["obs"].clone()})
    other.obs["obs"][0, -1] += 5
    one, two = (
        watch(model, np.zeros((4, 4, 4, 3), np.uint8), x, torch.Generator().manual_seed(0)) for x in (rows, other)
    )
    np.testing.assert_array_equal(one.leaves["obs"].prediction, two.leaves["obs"].prediction)
    assert not np.isclose(one.leaves["obs"].reconstruction[-1], two.leaves["obs"].reconstruction[-1]).all()
