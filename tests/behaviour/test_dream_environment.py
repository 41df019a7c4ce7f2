"""The dream behind Gymnasium's interface: its checker, its seeds, its autoreset, its pictures."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from worldmodel.behaviour.dream_environment import DreamEnv, DreamVectorEnv
from worldmodel.behaviour.dreams import DreamRules, Dreams
from worldmodel.data.row_spaces import RowSpaces
from worldmodel.types import ActionSpec, EnvSpec
from worlds import MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

PICTURE = EnvSpec({"obs": MIXED_SPEC.observations["camera"]}, ActionSpec("binary", 2))


def parts(spec=VECTOR_SPEC, count=1, **rules):
    model = make_model(spec)

    def draw(count, generator):
        return make_batch(spec, count, 2, seed=int(torch.randint(1000, (1,), generator=generator)), first=())

    return Dreams(model, count, draw, DreamRules(**({"ends": "never"} | rules))), RowSpaces.of_rows(spec)


@pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC, PICTURE], ids=["vector", "mixed", "picture"])
@pytest.mark.parametrize("observed", ["mean", "sample"])
def test_gymnasiums_checker_has_nothing_to_say_but_that_numbers_are_unbounded(spec, observed):
    env = DreamEnv(*parts(spec, observed=observed))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*infinity. This is probably too")
        warnings.filterwarnings("ignore", ".*due to the environment not having a spec")
        check_env(env)


def test_a_seed_decides_a_dream_and_so_does_the_context_of_ones_choice():
    env = DreamEnv(*parts())
    action = np.float32([0.5, -0.5])
    found = []
    for seed in (3, 3, 4):
        first, _ = env.reset(seed=seed)
        found.append((first, *env.step(action)[:2]))
    np.testing.assert_equal(found[0], found[1])
    assert not np.isclose(found[0][0], found[2][0]).any() and not np.isclose(found[0][1], found[2][1]).any()
    context = make_batch(VECTOR_SPEC, 1, 4, seed=8, first=())
    obs, info = env.reset(seed=0, options={"context": context})
    np.testing.assert_array_equal(obs, context.obs["obs"][0, -1])
    assert info == {}


def test_a_reset_without_a_seed_takes_the_next_context_that_is_ready():
    dreams, seen = parts()
    env, draw, drawn = DreamEnv(dreams, seen), dreams._draw, []
    dreams._draw = lambda count, generator: drawn.append(count) or draw(count, generator)
    begun = [env.reset(seed=seed)[0] for seed in (3, None, None)]
    assert len(drawn) == 1 and len({x.tobytes() for x in begun}) == 3
    np.testing.assert_array_equal(env.reset(seed=3)[0], begun[0])
    assert len(drawn) == 2


def test_a_vector_of_dreams_begins_the_ended_ones_anew_and_tells_what_they_showed_last():
    envs, others = (DreamVectorEnv(*parts(count=3, horizon=2)) for _ in range(2))
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    envs.reset(seed=0), others.reset(seed=0)
    action = np.zeros((3, 2), np.float32)
    obs, reward, terminated, truncated, info = envs.step(action)
    assert reward.shape == (3,) and reward.dtype == np.float64 and not (terminated | truncated).any() and info == {}
    obs, _, terminated, truncated, info = envs.step(action)
    assert truncated.all() and not terminated.any() and info["_final_obs"].all()
    others.step(action)
    unreset = others.dreams.step(torch.zeros(3, 2))  # the same step, and no new beginning
    np.testing.assert_array_equal(np.stack(list(info["final_obs"])), unreset.obs["obs"].numpy())
    assert not np.isclose(obs, np.stack(list(info["final_obs"]))).any()
    assert not envs.step(action)[3].any()


def test_only_the_ended_dreams_begin_anew():
    envs = DreamVectorEnv(*parts(count=2, horizon=None, ends="sampled"))
    head = envs.dreams.model.decoder.continue_head[-1]
    torch.nn.init.constant_(head.bias, 0.0)
    torch.nn.init.zeros_(head.weight)
    envs.reset(seed=0)
    for _ in range(50):
        obs, _, terminated, _, info = envs.step(np.zeros((2, 2), np.float32))
        if terminated.sum() == 1:
            break
    (ended,), (other,) = np.flatnonzero(terminated), np.flatnonzero(~terminated)
    assert info["_final_obs"].tolist() == terminated.tolist() and info["final_obs"][other] is None
    assert not np.isclose(info["final_obs"][ended], obs[ended]).any()


def test_spaces_are_those_of_the_environment_that_is_dreamt_of():
    real = spaces.Box(-0.1, 0.1, (3,), np.float64), spaces.Box(-2, 2, (2,), np.float32)
    dreams, _ = parts(count=2)
    envs = DreamVectorEnv(dreams, RowSpaces.of_world(VECTOR_SPEC, *real))
    assert (envs.single_observation_space, envs.single_action_space) == real
    envs.reset(seed=0)
    obs, *_ = envs.step(np.full((2, 2), 2, np.float32))
    assert obs in envs.observation_space and np.abs(obs).max() == 0.1
    again, _ = parts(count=2)
    unit = DreamVectorEnv(again, RowSpaces.of_rows(VECTOR_SPEC))
    unit.reset(seed=0)
    unit.step(np.ones((2, 2), np.float32))
    assert torch.equal(unit.dreams.state.deter, envs.dreams.state.deter)  # 2 of [-2, 2] is 1 of [-1, 1]


@pytest.mark.parametrize("spec", [PICTURE, MIXED_SPEC], ids=["picture", "mixed"])
def test_a_model_of_images_renders_what_it_decodes(spec):
    env = DreamEnv(*parts(spec), render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (16, 16, 3)
    obs, *_ = env.step(env.action_space.sample())
    seen = obs if spec is PICTURE else obs["camera"]
    np.testing.assert_array_equal(env.render(), seen)
    envs = DreamVectorEnv(*parts(spec, 2), render_mode="rgb_array")
    envs.reset(seed=0)
    assert len(envs.render()) == 2
    assert DreamEnv(*parts(spec)).render() is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DreamEnv(*parts(), render_mode="rgb_array"), "render_mode: expected None of a model that predicts no"),
        (
            lambda: DreamEnv(*parts(PICTURE), render_mode="human"),
            "render_mode: expected rgb_array or None, got 'human'",
        ),
        (lambda: DreamEnv(*parts()).reset(options={"start": 1}), "options: expected context at most, got start"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
