import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

from worldmodel.build import build_environments
from worldmodel.config import Config, EnvConfig
from worldmodel.data.environment import make_environments
from worldmodel.data.guard import EnvironmentFailureError, start_timeout
from worldmodel.data.spaces import UnsupportedSpaceError
from worldmodel.training.interruptions import Interruptions, StoppedError
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec
from worlds import Counting, register

MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["one process", "a worker each"])


class Blind(Counting):
    """Takes a render mode and does not render."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__()


class Filming(gymnasium.Env):
    """Has one leaf of a given name, and renders frames, or lists of them."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, leaf, listed=False, render_mode=None):
        self.listed, self.render_mode = listed, render_mode
        self.observation_space = gymnasium.spaces.Dict({leaf: gymnasium.spaces.Discrete(2)})

    def reset(self, *, seed=None, options=None):
        return {name: 0 for name in self.observation_space}, {}

    def render(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        return [frame] if self.listed else frame


class TwoPartError(Exception):
    def __init__(self, who, what):
        super().__init__(f"{who} {what}")


class Awkward(Counting):
    """Raises what does not survive the way from a worker unaided."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def step(self, action):
        if self.fault == "percent":
            raise ValueError("only %d %% left" % 3)  # noqa: UP031
        raise TwoPartError("the pole", "is on fire")


class Lying(Counting):
    """The second environment of those seeded from zero gives what its spaces do not promise."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.instance == 1:
            wrong = {
                "nan": np.array([2.0, np.nan, 7.0]),
                "huge": np.array([2.0, 1e300, 7.0]),
                "shape": np.zeros(4),
                "dtype": np.array(["one", "two", "three"]),
            }
            if self.fault in wrong:
                obs["count"] = wrong[self.fault]
            obs = {"structure": 7, "missing": {"action": np.zeros(1, np.float32)}}.get(self.fault, obs)
            rewards = {"text reward": "much", "no reward": None, "many rewards": [1.0, 2.0]}
            rewards |= {"nan reward": np.nan, "huge reward": -1e39}
            reward = rewards.get(self.fault, reward)
        return obs, reward, terminated, truncated, info


class Unresettable(Counting):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("the ground is wet")


@pytest.fixture(autouse=True, scope="module")
def _worlds():
    register()
    for maker in (Blind, Awkward, Filming, Lying, Unresettable, Unruly, Stopped):
        if f"{maker.__name__}-v0" not in gymnasium.registry:
            gymnasium.register(f"{maker.__name__}-v0", maker, disable_env_checker=True)


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "egl")


@pytest.fixture(autouse=True)
def _no_workers_left():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def transitions(steps, env_id="Counting-v0", **kwargs):
    """(reward, terminated, truncated) of every step of one environment."""
    with make_environments(env_id, count=1, **kwargs) as environments:
        environments.reset(0)
        idle = np.zeros((1, environments.spec.action.width), np.float32)
        return [tuple(x[0].item() for x in environments.step(idle)[1:4]) for _ in range(steps)]


@pytest.mark.parametrize("env_id", ["Nowhere-v0", "no_such_module:Nowhere-v0", "nonsense"])
def test_an_environment_that_gymnasium_cannot_make_is_named(env_id):
    with pytest.raises(ValueError, match=rf"env\.id: .*{env_id}"):
        make_environments(env_id, count=1)


def test_arguments_that_an_environment_does_not_take_are_named():
    with pytest.raises(ValueError, match=r"env\.id: .*wind"):
        make_environments("Counting-v0", count=1, kwargs={"wind": 3})


@pytest.mark.filterwarnings("ignore:.*render_mode")
@pytest.mark.parametrize("env_id", ["Blind-v0", "Counting-v0"])  # takes a render mode, takes none
def test_pixels_of_an_environment_that_does_not_render_are_refused(env_id):
    with pytest.raises(ValueError, match=rf"env\.pixels: .*render.*{env_id}"):
        make_environments(env_id, count=1, pixels="only")


def test_a_space_that_cannot_be_modelled_is_refused_before_a_worker_starts():
    with pytest.raises(UnsupportedSpaceError, match="'mission'"):
        make_environments("minigrid:MiniGrid-Empty-8x8-v0", count=1, asynchronous=True, drop_text=False)


def test_a_minigrid_world_runs_without_its_text():
    with make_environments("minigrid:MiniGrid-Empty-8x8-v0", count=2) as environments:
        assert environments.left_out == ("mission",)
        assert environments.spec == EnvSpec(
            {
                "direction": ObservationSpec("categorical", (1,), (4,)),
                "image": ObservationSpec("integer", (147,), low=(0,) * 147, high=(255,) * 147),
            },
            ActionSpec("categorical", 7, (7,)),
        )
        before = environments.reset(0)
        turn_left = np.eye(7, dtype=np.float32)[[0, 0]]
        after, *_ = environments.step(turn_left)
        np.testing.assert_array_equal(before["direction"], [[0], [0]])
        np.testing.assert_array_equal(after["direction"], [[3], [3]])


@MODES
def test_every_kind_of_leaf_reaches_the_other_side(asynchronous):
    with make_environments("Bytes-v0", count=2, asynchronous=asynchronous, image_size=16) as environments:
        assert environments.spec == EnvSpec(
            {
                "camera": ObservationSpec("image", (16, 16, 3)),
                "inner/0": ObservationSpec("categorical", (1,), (3,)),
                "inner/1": ObservationSpec("binary", (2,)),
                "inner/2": ObservationSpec("categorical", (2,), (2, 4)),
            },
            ActionSpec("categorical", 5, (2, 3)),
        )
        seen = [environments.reset(7)]
        chosen = np.float32([[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]])  # actions (1, 2) and (0, 1)
        for _ in range(3):
            obs, reward, *_ = environments.step(chosen)
            seen.append(obs)
            assert reward.tolist() == [3, 1]
    for t, obs in enumerate(seen):
        assert obs["inner/0"].tolist() == [[t % 3]] * 2
        assert obs["inner/1"].tolist() == [[t % 2, 1]] * 2
        assert obs["inner/2"].tolist() == [[t % 2, t % 4]] * 2
        assert {path: x.dtype.name for path, x in obs.items()} == {
            "camera": "uint8",
            "inner/0": "int32",
            "inner/1": "uint8",
            "inner/2": "int32",
        }
    cameras = np.stack([obs["camera"] for obs in seen])
    assert len(np.unique(cameras.reshape(8, -1), axis=0)) == 8  # no frame was overwritten by a later one


def test_a_repeated_action_collects_every_reward_and_stops_where_the_episode_ends():
    # Episodes of 2, 3 and 4 steps; step t of episode e is worth 10 e + t.
    assert transitions(8, action_repeat=2) == [
        (1 + 2, True, False),
        (0, False, False),
        (11 + 12, False, False),
        (13, False, True),
        (0, False, False),
        (21 + 22, False, False),
        (23 + 24, True, False),
        (0, False, False),
    ]


def test_a_time_limit_truncates_and_counts_steps_before_action_repeat():
    assert transitions(7, action_repeat=2, time_limit=3)[5:] == [(21 + 22, False, False), (23, False, True)]


def test_a_time_limit_replaces_the_registered_one():
    ends = [truncated for _, _, truncated in transitions(205, "Pendulum-v1", time_limit=203)]
    assert ends.index(True) == 202  # the registered limit is 200


def test_a_row_limit_truncates_after_that_many_rows_after_action_repeat():
    kept = transitions(9, row_limit=3)
    assert [reward for reward, *_ in kept] == [1, 2, 0, 11, 12, 0, 21, 22, 0]
    assert [truncated for *_, truncated in kept[4:]] == [True, False, False, True, False]
    assert kept[1][1]  # an episode that ends on its own at the limit still terminates
    repeated = transitions(4, "Pendulum-v1", row_limit=4, action_repeat=2)
    assert [truncated for *_, truncated in repeated] == [False, False, True, False]


def block_means(frame, size):
    height, width, channels = frame.shape
    return frame.reshape(size, height // size, size, width // size, channels).mean((1, 3))


@pytest.mark.parametrize(
    "leaf, listed, words", [("pixels", False, "'pixels' already exists"), ("lamp", True, "got <class 'list'>")]
)
def test_frames_that_cannot_join_the_observation_are_refused(leaf, listed, words):
    with pytest.raises(ValueError, match=rf"env\.pixels: expected frames that can join.*Filming-v0.*{words}"):
        make_environments("Filming-v0", count=1, pixels="add", kwargs={"leaf": leaf, "listed": listed})


def test_pixels_alone_are_the_rendered_frames_made_small():
    with make_environments("CartPole-v1", count=2, pixels="only", image_size=20) as environments:
        assert environments.spec.observations == {"obs": ObservationSpec("image", (20, 20, 3))}
        frames = environments.reset(3)["obs"]
    reference = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    for i in range(2):
        reference.reset(seed=3 + i)
        expected = block_means(reference.render(), 20)
        assert expected.std() > 10  # not a blank picture
        np.testing.assert_allclose(frames[i], expected, atol=1)  # rounded once for each axis
    reference.close()


def test_pixels_join_the_state_and_follow_it():
    right = np.float32([[0, 1]])
    with (
        make_environments("CartPole-v1", count=1, pixels="add", image_size=16) as seeing,
        make_environments("CartPole-v1", count=1) as blind,
    ):
        assert seeing.spec.observations == {
            "state": ObservationSpec("vector", (4,)),
            "pixels": ObservationSpec("image", (16, 16, 3)),
        }
        seen, felt = [seeing.reset(0)], [blind.reset(0)]
        for _ in range(8):
            seen.append(seeing.step(right)[0])
            felt.append(blind.step(right)[0])
    np.testing.assert_array_equal([x["state"] for x in seen], [x["obs"] for x in felt])
    frames = np.stack([x["pixels"][0] for x in seen]).astype(int)
    assert frames.std((1, 2)).min() > 0
    assert np.abs(frames[-1] - frames[0]).max() > 10


def provoke(env_id, asynchronous, **kwargs):
    with make_environments(env_id, count=2, asynchronous=asynchronous, step_timeout=2.0, kwargs=kwargs) as environments:
        environments.reset(0)
        for _ in range(5):
            environments.step(np.zeros((2, 1), np.float32))


@MODES
@pytest.mark.parametrize(
    "env_id, kwargs, words",
    [
        (
            "Faulty-v0",
            {"fault": "raise"},
            r"environment [01] \(Faulty-v0\), episode 2, step 1: RuntimeError: the pole is on fire \(.*worlds.py, line",
        ),
        (
            "Unresettable-v0",
            {},
            r"environment [01] \(Unresettable-v0\), episode 1, reset: RuntimeError: the ground is wet",
        ),
        (
            "Awkward-v0",
            {"fault": "percent"},
            r"environment [01] \(Awkward-v0\), episode 1, step 1: ValueError: only 3 % left .*_environment.py, line",
        ),
        ("Awkward-v0", {"fault": "parts"}, r"episode 1, step 1: TwoPartError: the pole is on fire"),
    ],
)
def test_an_environment_that_raises_is_reported_in_its_own_words(env_id, kwargs, words, asynchronous):
    with pytest.raises(EnvironmentFailureError, match=words):
        provoke(env_id, asynchronous, **kwargs)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("die", "environment 0( and 1)?: the worker died during step 4"),
        ("hang", r"environment [01] \(Faulty-v0\), episode 2, step 1: no answer within 2 seconds"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_reported_and_none_is_left_behind(fault, words):
    with pytest.raises(EnvironmentFailureError, match=words):
        provoke("Faulty-v0", True, fault=fault)
    gc.collect()  # quietly: nothing is closed for a second time


def test_a_hang_is_noticed_in_one_process_too():
    with pytest.raises(EnvironmentFailureError, match=r"environment 0 \(Faulty-v0\), .* no answer within 2 seconds"):
        provoke("Faulty-v0", False, fault="hang")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", r"observation 'count': expected finite numbers within float32, got \[ *2. +nan +7.\]"),
        ("huge", "observation 'count': expected finite numbers within float32, got .*e[+]300"),
        ("shape", r"observation 'count': expected shape \(3,\), got \(4,\)"),
        ("dtype", "observation 'count': expected dtype float64, got <U5"),
        ("structure", "observation 'action': expected a value in the Dict around it, got 7"),
        ("missing", "observation 'count': expected a value in the Dict around it, got {'action': array"),
        ("text reward", "reward: expected a number, got 'much'"),
        ("no reward", "reward: expected a number, got None"),
        ("huge reward", "reward: expected a finite number within float32, got -1e[+]39"),
        ("nan reward", "reward: expected a finite number within float32, got nan"),
        ("many rewards", r"reward: expected a number, got \[1.0, 2.0\]"),
    ],
)
@MODES
def test_what_the_spaces_do_not_promise_is_named_by_environment_step_and_key(fault, words, asynchronous):
    with pytest.raises(EnvironmentFailureError, match=r"environment 1 \(Lying-v0\), episode 1, step 1: " + words):
        provoke("Lying-v0", asynchronous, fault=fault)


def run_faulty(asynchronous, fault, restarts, steps):
    """Rows of two environments, of which each fails at its third step in every life."""
    with make_environments(
        "Faulty-v0",
        count=2,
        asynchronous=asynchronous,
        step_timeout=2.0,
        restarts=restarts,
        kwargs={"fault": fault},
    ) as environments:
        environments.reset(0)
        return [environments.step(np.zeros((2, 1), np.float32)) for _ in range(steps)], environments.failures


@MODES
def test_a_failed_environment_begins_again_as_often_as_it_may(asynchronous):
    # Each life: an episode of two steps, a reset, and a third step that fails.
    seen, failures = run_faulty(asynchronous, "raise", restarts=4, steps=8)
    assert [t.restarted.tolist() for t in seen] == [[step % 4 == 3] * 2 for step in range(8)]
    assert all("RuntimeError: the pole is on fire" in words for words in failures)
    assert sorted(words.split(":")[0] for words in failures) == [
        "environment 0 (Faulty-v0), episode 2, step 1",
        "environment 0 (Faulty-v0), episode 4, step 1",
        "environment 1 (Faulty-v0), episode 2, step 1",
        "environment 1 (Faulty-v0), episode 4, step 1",
    ]
    for transition in seen[3::4]:  # the first row of a new life: the seeds, here the instances, are new too
        assert transition.obs["count"][:, 1:].tolist() == [[0, 0], [0, 0]]
        assert not transition.reward.any() and not (transition.terminated | transition.truncated).any()
    instances = np.stack([t.obs["count"][0, 0] for t in seen])
    assert len(np.unique(instances)) == 3
    with pytest.raises(
        EnvironmentFailureError, match=r"the pole is on fire .*after 3 restarts, which is what env.restarts"
    ):
        run_faulty(asynchronous, "raise", restarts=3, steps=8)


def test_dead_workers_are_replaced_together():
    seen, failures = run_faulty(True, "die", restarts=1, steps=6)
    assert [t.restarted.tolist() for t in seen] == [[step == 3] * 2 for step in range(6)]
    assert len(failures) == 1 and "the worker died during step 4" in failures[0]


class Mortal(Counting):
    """Its worker dies at the first resets of all, counted in a file."""

    def __init__(self, file, deaths):
        super().__init__()
        self.file, self.deaths = file, deaths

    def reset(self, *, seed=None, options=None):
        with open(self.file, "a+") as file:
            file.write("x")
            file.flush()
            if file.tell() <= self.deaths:
                os._exit(1)
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("restarts", [2, 1])
def test_workers_that_die_again_where_they_begin_again_are_counted(tmp_path, restarts):
    gymnasium.register("Mortal-v0", Mortal)
    kwargs = {"file": str(tmp_path / "resets"), "deaths": 2}
    with make_environments("Mortal-v0", count=1, asynchronous=True, restarts=restarts, kwargs=kwargs) as environments:
        if restarts == 2:
            environments.reset(0)
            assert len(environments.failures) == 2
        else:
            with pytest.raises(EnvironmentFailureError, match=r"worker died during reset.*after 1 restarts"):
                environments.reset(0)
    del gymnasium.registry["Mortal-v0"]


class Unruly(Counting):
    """Does what an environment must not, where it is told to: in its constructor (of its n-th life, counted in a
    file), its first step, or its close."""

    def __init__(self, act, where="step", life=1, file=None):
        super().__init__()
        self.act, self.where = act, where
        lives = 1
        if file is not None:
            with open(file, "a+") as counter:
                counter.write("x")
                counter.flush()
                lives = counter.tell()
        if where == "constructor" and lives >= life:
            self.misbehave()

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.where == "step":
            self.misbehave()
        if self.where == "terminated":
            terminated = self.act
        if self.where == "truncated":
            truncated = self.act
        return obs, reward, terminated, truncated, info

    def close(self):
        if self.where == "close":
            self.misbehave()

    def misbehave(self):
        if self.act == "die":
            os._exit(3)
        if self.act == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.act == "block signals":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
        if self.act in ("hang", "block signals"):
            time.sleep(600)
        if self.act == "stubborn":
            while True:
                with contextlib.suppress(Exception):
                    time.sleep(600)
        raise {"exit": SystemExit(7), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}[self.act]


def unruly(act, where="step", *, asynchronous, **others):
    with make_environments(
        "Unruly-v0",
        count=1,
        asynchronous=asynchronous,
        step_timeout=1.0,
        kwargs={"act": act, "where": where, **others},
    ) as environments:
        environments.reset(0)
        environments.step(np.zeros((1, 1), np.float32))


@MODES
@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("exit", r"SystemExit: 7 \(.*, line \d+\)"),
        ("interrupt", r"KeyboardInterrupt \(.*, line \d+\)"),
        ("generator", r"GeneratorExit \(.*, line \d+\)"),
        ("stubborn", "no answer within 1 seconds"),
    ],
)
def test_what_would_end_this_process_is_a_failure_where_an_environment_raises_it(act, words, asynchronous):
    named = rf"environment 0 \(Unruly-v0\), episode 1, step 1: {words}"
    with Interruptions() as interruptions, pytest.raises(EnvironmentFailureError, match=named):
        unruly(act, asynchronous=asynchronous)
    assert not interruptions.requested


def test_a_real_interrupt_is_not_taken_for_the_environments(monkeypatch):
    def interrupted(self, action):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Counting, "step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            transitions(1)
        with Interruptions(), pytest.raises(StoppedError):
            transitions(1)
    finally:
        signal.signal(signal.SIGINT, before)


@MODES
@pytest.mark.parametrize("act", ["exit", "interrupt"])
def test_a_constructor_that_asks_to_end_the_process_is_named(act, asynchronous):
    with Interruptions(), pytest.raises(ValueError, match=r"env\.id: .*'Unruly-v0'.*(SystemExit: 7|KeyboardInterrupt)"):
        unruly(act, "constructor", asynchronous=asynchronous)


@MODES
def test_a_constructor_has_a_deadline(asynchronous, monkeypatch):
    monkeypatch.setattr("worldmodel.data.guard.LEAST_START_TIMEOUT", 0.5)
    with pytest.raises(EnvironmentFailureError, match="Unruly-v0: its constructor: no answer within 1 seconds"):
        unruly("hang", "constructor", asynchronous=asynchronous)


def test_a_minute_is_what_a_constructor_has_at_least():
    assert start_timeout(2.0) == 60.0
    assert start_timeout(90.0) == 90.0


@pytest.mark.parametrize(
    ("act", "life", "words"),
    [
        ("die", 1, "Unruly-v0: its constructor ended the process it ran in, with exit status 3"),
        (
            "crash",
            1,
            f"Unruly-v0: its constructor ended the process it ran in, with exit status -{int(signal.SIGSEGV)}",
        ),
        ("block signals", 1, "Unruly-v0: its constructor: no answer within 1 seconds"),
        ("die", 2, "an environment worker died at its start; its own words are above"),
        ("exit", 2, "an environment worker died at its start; its own words are above"),
        ("block signals", 2, "an environment worker gave no answer within 1 seconds of its start"),
    ],
)
def test_a_constructor_ends_or_blocks_nothing_but_its_own_worker(act, life, words, tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.data.guard.LEAST_START_TIMEOUT", 0.5)
    with pytest.raises(EnvironmentFailureError, match=words):
        unruly(act, "constructor", asynchronous=True, life=life, file=str(tmp_path / "lives"))


@pytest.mark.parametrize("act", ["die", "crash", "block signals"])
def test_a_held_out_environment_ends_nothing_but_its_own_worker(act, monkeypatch):
    settings = EnvConfig(id="Unruly-v0", kwargs={"act": act}, asynchronous=True, step_timeout=0.5)
    with build_environments(Config(env=settings), heldout=True) as environments:
        environments.reset(0)
        with pytest.raises(EnvironmentFailureError, match=r"environment 0: the worker (died during|gave no answer)"):
            environments.step(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize(("act", "words"), [("hang", "no answer within 2 seconds"), ("exit", "SystemExit: 7")])
def test_an_environment_that_does_not_close_is_left_with_a_warning(act, words):
    with pytest.warns(UserWarning, match=rf"(environment 0 \()?Unruly-v0\)?: close: {words}") as warned:
        unruly(act, "close", asynchronous=False)
    assert len(warned) == 2  # the one whose spaces were read, and the one that was stepped


@pytest.mark.parametrize("act", ["hang", "die", "block signals"])
def test_a_worker_that_does_not_close_is_ended(act):
    unruly(act, "close", asynchronous=True)


@MODES
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("value", ["False", float("nan"), None, 0], ids=repr)
def test_what_is_no_boolean_does_not_end_an_episode(flag, value, asynchronous):
    words = rf"environment 0 \(Unruly-v0\), episode 1, step 1: {flag}: expected True or False, got {value!r}"
    with pytest.raises(EnvironmentFailureError, match=words):
        unruly(value, flag, asynchronous=asynchronous)


class Stopped(Counting):
    """Its third step has its whole process group stopped for longer than a step may take, and then goes on."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            go_on = f"sleep 2.5; kill -CONT -{os.getpgid(0)}"
            with subprocess.Popen(["sh", "-c", go_on], start_new_session=True):
                os.killpg(os.getpgid(0), signal.SIGSTOP)
                time.sleep(0.2)
        return super().step(action)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops processes")
@MODES
def test_time_in_which_the_process_was_stopped_is_not_the_environments(asynchronous):
    pid = os.fork()
    if pid == 0:  # a group of its own, which can be stopped without pytest
        status = 1
        try:
            os.setpgid(0, 0)
            with make_environments("Stopped-v0", count=1, asynchronous=asynchronous, step_timeout=2.0) as environments:
                environments.reset(0)
                for _ in range(4):  # of which one is a reset
                    environments.step(np.zeros((1, 1), np.float32))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_their_parent(number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with make_environments("Counting-v0", count=1, asynchronous=True) as environments:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            environments.reset(0)
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, number)
            environments.step(np.zeros((1, 1), np.float32))
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_end_with_the_block():
    with make_environments("Counting-v0", count=2, asynchronous=True) as environments:
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        environments.reset(0)
    assert not any(worker.is_alive() for worker in workers)


ORPHANS = """
import multiprocessing, os, signal, time
import numpy as np
from worldmodel.data.environment import make_environments

environments = make_environments("Pendulum-v1", count=2, asynchronous=True)
environments.reset(0)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
{end}
"""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "pass"], ids=["kill -9", "never closed"])
def test_workers_do_not_outlive_their_parent(end):
    code = ORPHANS.format(end=end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    end = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_environments_are_closed_once(monkeypatch):
    register()
    closed = []
    monkeypatch.setattr(Counting, "close", lambda self: closed.append(self))
    with make_environments("Counting-v0", count=2) as environments:
        closed.clear()  # of the one that the spaces were read from
        environments.close()
        assert len(closed) == 2
    assert len(closed) == 2
