"""Random spaces, environments and settings through the whole path: environments, rows, replay, update, dream, score.

Whatever comes, either it works (everything finite, every shape right, every stored row what the environment emitted) or
it is refused by an error of this project. The normal run takes a few examples, always the same; `make fuzz`, or

    FUZZ_EXAMPLES=2000 pytest tests/test_fuzz.py

takes as many as it is told, different ones every time, and prints how to repeat one that fails.
"""

import os
import tempfile
from collections import Counter
from pathlib import Path

import gymnasium
import hypothesis
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import strategies as st

import shape_checks
from fuzz_configs import configs, one_of
from fuzz_spaces import (
    ACTIONS,
    OBSERVATIONS,
    FuzzWorld,
    actable,
    expected_rows,
    leaves,
    names_may_collide,
    readable,
)
from worldmodel import build, build_networks, config
from worldmodel.behaviour.imagination import dream
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.data.spaces import UnsupportedSpaceError
from worldmodel.evaluation.held_out import evaluate, training_kl
from worldmodel.evaluation.open_loop import open_loop_errors
from worldmodel.runs.rows import collect_heldout
from worldmodel.seeding import Stream, make_generator

ASKED = os.environ.get("FUZZ_EXAMPLES")
EXAMPLES = hypothesis.settings(
    max_examples=int(ASKED or 20),
    derandomize=not ASKED,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
# Gymnasium's advice on spaces: equal bounds, unusual shapes, names that are not strings.
pytestmark = pytest.mark.filterwarnings("ignore:.*WARN. :UserWarning")
FLAGS = ("is_first", "is_last", "is_terminal", "episode_step")
WORLDS = st.fixed_dictionaries(
    {
        "observation_space": OBSERVATIONS,
        "action_space": ACTIONS,
        "lengths": one_of([1], [1, 2], [3, 7], [50], [1, 12]),
        "reward_scale": one_of(0.0, 1.0, 1e-3, 1e5),
    }
)


@pytest.fixture(autouse=True, scope="module")
def _world():
    gymnasium.register("Fuzz-v0", FuzzWorld)


@EXAMPLES
@given(WORLDS, configs(), one_of(0, 7, 2**63 - 1))
def test_every_world_is_learned_or_refused_by_name(world, sections, seed):
    shape_checks.begin()  # every example has shapes of its own
    made = {name: part(kwargs=world) if name == "env" else part() for name, part in sections.items()}
    settings = config.Config(**made, seed=seed, tracking="none")
    try:
        environments = build.build_environments(settings)
    except ValueError as error:
        event("refused")
        assert isinstance(error, UnsupportedSpaceError) or str(error).startswith("env.id: expected"), error
        assert_rightly_refused(world, settings, str(error))
        return
    event("learned")
    with environments, tempfile.TemporaryDirectory() as folder:
        live(settings, environments, Path(folder))


def assert_rightly_refused(world, settings, words):
    observation_space = world["observation_space"]
    supported = readable(observation_space, settings.env.drop_text) and actable(world["action_space"])
    assert not supported or ("got two" in words and names_may_collide(observation_space)), words


def live(settings, environments, folder):
    """Collect, store, train once, dream and evaluate, with a look at everything on the way."""
    spec, count = environments.spec, environments.count
    policy = RandomPolicy(spec.action, make_generator(settings.seed, stream=Stream.POLICY))
    rollout = Rollout(environments, policy, settings.seed)
    collected = []
    with build.build_replay(settings, environments, folder / "replay") as replay:
        while len(collected) * count < settings.training.prefill:
            collected.append(rollout.step())
            replay.append(collected[-1])
        streams = [
            assert_rows(settings, spec, [row_of(rows, i) for rows in collected], env.unwrapped)
            for i, env in enumerate(environments._vector.envs)
        ]
        batch = assert_replay(settings, replay, streams)
        statistics = replay.statistics()
        if len(replay) == len(collected) * count:
            assert_statistics(statistics, streams)
    model = build_networks.build_model(settings, spec)
    for name, (mean, std) in statistics.items():
        model.standardise(name, mean.float(), std.float())
    assert_update(settings, model, batch)
    with build.build_environments(settings, heldout=True) as heldout_environments:
        collect_heldout(settings, heldout_environments, folder / "heldout")
    heldout = read_episodes(folder / "heldout", settings.evaluation.max_length)
    assert_dream(settings, model, heldout)
    assert_evaluation(settings, model, heldout, batch)


def row_of(rows, i):
    """Row i as a flat dict of arrays, as it should be found again in the replay."""
    rest = {name: np.asarray(getattr(rows, name)[i]) for name in rows._fields[1:]}
    return {**{f"obs:{path}": x[i] for path, x in rows.obs.items()}, **rest}


def rows_of(batch, b=0):
    """The rows of one sequence of a batch, as `row_of` makes them."""
    fields = {f"obs:{path}": x for path, x in batch.obs.items()}
    fields |= {name: getattr(batch, name) for name in batch._fields[1:] if name != "valid"}
    return [{name: x[b, t].numpy() for name, x in fields.items()} for t in range(batch.is_first.shape[1])]


def assert_rows(settings, spec, rows, env):
    """The rows of one environment are what it noted itself; -> the rows."""
    expected = expected_rows(env.log, settings.env.action_repeat, settings.env.time_limit)
    assert len(rows) == len(expected)
    previous = None
    for row, wanted in zip(rows, expected, strict=True):
        assert row["reward"] == wanted.reward and row["reward"].dtype == np.float32
        assert [row[name] for name in FLAGS] == [getattr(wanted, name) for name in FLAGS]
        assert wanted.is_first == (previous is None or previous.is_last)
        kept = [pair for pair in leaves(env.observation_space, wanted.obs) if not isinstance(pair[0], spaces.Text)]
        for (path, leaf), (space, value) in zip(spec.observations.items(), kept, strict=True):
            assert_leaf(leaf, row[f"obs:{path}"], space, value)
        assert wanted.actions or not row["prev_action"].any()
        for action in wanted.actions:
            assert_action(env.action_space, row["prev_action"], action)
        previous = wanted
    return rows


def assert_leaf(leaf, stored, space, value):
    assert stored.shape == leaf.shape
    if leaf.kind == "image":
        pixels = value if value.ndim == 3 else value[..., None]
        assert stored.dtype == np.uint8
        assert (stored.min((0, 1)) >= pixels.min((0, 1))).all() and (stored.max((0, 1)) <= pixels.max((0, 1))).all()
        if pixels.shape == stored.shape:
            np.testing.assert_array_equal(stored, pixels)
        return
    value = np.asarray(value)
    if leaf.kind == "categorical":
        value = value.astype(np.int64) - (space.low if isinstance(space, spaces.Box) else space.start)
        assert (value >= 0).all() and (value.ravel() < leaf.classes).all()
    kinds = {"vector": np.float32, "categorical": np.int32, "binary": np.uint8}
    if leaf.kind == "integer":
        assert np.issubdtype(space.dtype, np.integer) and (leaf.low <= stored).all() and (stored <= leaf.high).all()
        np.testing.assert_array_equal(stored.astype(np.int64), value.astype(np.int64).ravel())
        return
    np.testing.assert_array_equal(stored, value.ravel().astype(kinds[leaf.kind]), strict=True)


def assert_action(space, vector, action):
    """What the environment was told is what the vector says."""
    if isinstance(space, spaces.Box):
        ends = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        share = (vector.astype(np.float64) + 1) / 2
        tolerance = 1e-3 * (ends[1] / 2 - ends[0] / 2) + 1e-3 * np.abs(ends[0]) + (space.dtype.kind != "f")
        told = action.ravel().astype(np.float64)
        assert (np.abs(told - (ends[0] * (1 - share) + ends[1] * share)) <= tolerance).all()
    elif isinstance(space, spaces.MultiBinary):
        np.testing.assert_array_equal(action.ravel(), vector)
    else:
        classes = np.ravel(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
        index = np.ravel(np.asarray(action, np.int64) - space.start)
        hot = [np.arange(n) == i for n, i in zip(classes, index, strict=True)]
        np.testing.assert_array_equal(vector, np.concatenate(hot))


def key_of(row):
    return tuple((name, row[name].tobytes()) for name in sorted(row))


def assert_replay(settings, replay, streams):
    """The replay holds each stream's newest rows, the same when it is opened again; -> a batch."""
    assert len(replay) <= settings.replay.capacity
    shape = settings.replay.batch_size, settings.replay.sequence_length
    start = {"burn_in": settings.replay.burn_in, "restart": settings.replay.restart}
    stored = [[key_of(row) for row in rows_of(episode)] for episode in replay.episodes()]
    wanted = [ended_episodes([(row["is_last"], key_of(row)) for row in rows]) for rows in streams]
    if len(replay) == sum(map(len, streams)):
        assert stored == [episode for episodes in wanted for episode in episodes]
    available = Counter(tuple(episode) for episodes in wanted for episode in episodes)
    assert not Counter(map(tuple, stored)) - available
    batch = replay.sample(*shape, torch.Generator().manual_seed(1), **start)
    replay.flush()
    with Replay.open(replay.folder, read_only=True) as again:
        assert again.spec == replay.spec and len(again) == len(replay)
        assert [[key_of(row) for row in rows_of(episode)] for episode in again.episodes()] == stored
        same = again.sample(*shape, torch.Generator().manual_seed(1), **start)
        assert [list(map(key_of, rows_of(same, b))) for b in range(shape[0])] == [
            list(map(key_of, rows_of(batch, b))) for b in range(shape[0])
        ]
    emitted = {key_of(row) for rows in streams for row in rows}
    for b in range(shape[0]):
        assert all(row["is_first"] or key_of(row) in emitted for row in rows_of(batch, b))
    assert batch.is_first.shape == shape
    assert not batch.prev_action[batch.is_first].any() and not batch.reward[batch.is_first].any()
    return batch


def ended_episodes(rows):
    """(is the last of its episode, row) -> the rows of every episode that has ended."""
    episodes, current = [], []
    for is_last, row in rows:
        current.append(row)
        if is_last:
            episodes.append(current)
            current = []
    return episodes


def assert_statistics(statistics, streams):
    rows = [row for stream in streams for row in stream]
    for name, (mean, std) in statistics.items():
        key = name if name == "reward" else f"obs:{name}"
        values = [np.atleast_1d(row[key]) for row in rows if name != "reward" or not row["is_first"]]
        values = np.asarray(values or [np.zeros(1)], np.float64)
        scale = 1 + np.abs(values).max()
        np.testing.assert_allclose(mean, values.mean(0), atol=1e-9 * scale)
        np.testing.assert_allclose(std, values.std(0), atol=1e-9 * scale)


def assert_update(settings, model, batch):
    generator = make_generator(settings.seed, stream=Stream.LATENTS)
    update = build.build_learner(settings, model, generator).update(batch)
    B, T = batch.is_first.shape
    groups = 1 if settings.rssm.latent == "gaussian_full" else settings.rssm.stoch
    assert update.bound.kl_groups.shape == (B, T, groups)
    assert set(update.bound.log_likelihood) == {*model.spec.observations, "reward", "continue"}
    assert all(place == -1 for place in update.first_non_finite().values()), update.first_non_finite()
    scalars = update.scalars()
    assert all(torch.isfinite(x) for x in scalars.values()), scalars
    assert (update.bound.kl > -1e-4).all()
    ledger = list(update.loss.ledger.values())
    size = max(x.abs() for x in ledger)
    torch.testing.assert_close(torch.stack(ledger).sum(), update.loss.value, rtol=0, atol=1e-5 * (1 + size.item()))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def assert_dream(settings, model, heldout):
    numbers = settings.evaluation
    horizon = {"context": numbers.context, "horizon": numbers.horizon, "samples": numbers.samples}
    generator = torch.Generator().manual_seed(0)
    B, T = heldout.is_first.shape
    assert numbers.max_length >= T and torch.equal(heldout.is_first.sum(1), torch.ones(B, dtype=torch.long))
    if numbers.context + numbers.horizon > T:
        with pytest.raises(ValueError, match=r"context \+ horizon: expected at most"):
            dream(model, heldout, **horizon, generator=generator)
    else:
        imagined = dream(model, heldout, **horizon, generator=generator)
        shape = (numbers.samples, B, numbers.horizon)
        events = {
            path: leaf.shape if leaf.kind != "categorical" else (leaf.width,)
            for path, leaf in model.spec.observations.items()
        }
        assert {name: x.shape for name, x in imagined.prediction.items()} == {
            name: shape + event for name, event in {**events, "reward": (1,), "continue": (1,)}.items()
        }
        assert all(torch.isfinite(x).all() for x in (*imagined.prediction.values(), *imagined.states))
    errors = open_loop_errors(model, heldout, **horizon, generator=generator)
    long_enough = (heldout.valid.sum(1) >= numbers.context + numbers.horizon).any()
    assert set(errors) == (set(model.spec.observations) if long_enough else set())
    for error in errors.values():
        assert all(x.shape == (numbers.horizon,) and torch.isfinite(x).all() for x in error)


def assert_evaluation(settings, model, heldout, batch):
    numbers, objective = settings.evaluation, build.build_objective(settings.loss, model.spec)
    seed = settings.seed
    horizon = {"context": numbers.context, "horizon": numbers.horizon, "samples": numbers.samples}
    result = evaluate(model, objective, heldout, **horizon, seed=seed)
    assert np.isfinite([*result.per_step.values(), *result.bits_per_dimension.values()]).all(), result.per_step
    assert np.isfinite(result.surprise.kl).all() and len(result.surprise.kl) == heldout.valid[0].sum()
    assert np.isfinite([*result.kl.summary.values()]).all()
    assert np.isfinite([*training_kl(model, objective, batch, seed=seed).summary.values()]).all()
