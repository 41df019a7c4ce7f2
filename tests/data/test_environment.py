import gc
import multiprocessing
import os
import signal

import gymnasium
import numpy as np
import pytest

from worldmodel.data.environment import make_environments
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.spaces import UnsupportedSpaceError
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
        if fault == "start" and multiprocessing.parent_process() is not None:
            raise RuntimeError("not here")

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
    for maker in (Blind, Awkward, Filming, Lying, Unresettable):
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


def test_a_worker_can_be_ended_whatever_its_parent_does_about_that():
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # as a run does while it trains
    try:
        with make_environments("Counting-v0", count=1, asynchronous=True) as environments:
            environments.reset(0)
            (worker,) = multiprocessing.active_children()
            worker.terminate()
            worker.join(5)
            assert worker.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what was half made
def test_a_worker_that_does_not_start_is_reported():
    with pytest.raises(EnvironmentFailureError, match="worker died at its start"):
        make_environments("Awkward-v0", count=2, asynchronous=True, kwargs={"fault": "start"})
    gc.collect()


def test_workers_ignore_an_interrupt_and_their_parent_does_not():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with make_environments("Counting-v0", count=1, asynchronous=True) as environments:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            environments.reset(0)
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGINT)
            environments.step(np.zeros((1, 1), np.float32))
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_end_with_the_block():
    with make_environments("Counting-v0", count=2, asynchronous=True) as environments:
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        environments.reset(0)
    assert not any(worker.is_alive() for worker in workers)
