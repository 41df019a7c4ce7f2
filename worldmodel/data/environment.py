"""Gymnasium environments side by side, with canonical spaces, time limits on every call, and a clean end.

`make_environments` makes them all. Each environment is wrapped so that its observations are the flat leaves of
`spaces.observation_specs` and its actions the vector of `spaces.action_spec`; Gymnasium's own vector environments then
run them, in this process or in one worker process each.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import TimeoutError as WorkerTimeoutError
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import EnvSpec as EntrySpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from jaxtyping import Bool, Float

from worldmodel.data import hiding, spaces, suites
from worldmodel.data.guard import CLOSE_TIMEOUT, FAILURE, EnvironmentFailureError, Guard, NoAnswerError, is_own_error
from worldmodel.data.workers import Workers, read_spaces, read_spaces_elsewhere
from worldmodel.types import EnvSpec
from worldmodel_envs.wrappers import ActionRepeat, use_headless_rendering, with_pixels
from worldmodel_envs.wrapping import apply_wrappers


class Transition(NamedTuple):
    """What N environments return from one step."""

    obs: dict[str, np.ndarray]  # [N, ...] by path
    reward: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    restarted: np.ndarray  # [N] bool: the environment failed and was replaced; the observation begins a new episode


class Canonical(gymnasium.Wrapper):
    """An environment whose observations are a Dict of flat leaves and whose actions are one float vector."""

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        image_size: int,
        drop_text: bool,
        integers: Literal["mass", "density"],
        hide: Mapping[str, Sequence[int]],
    ) -> None:
        super().__init__(env)
        self._all = spaces.observation_specs(
            env.observation_space, image_size=image_size, drop_text=drop_text, integers=integers
        )
        self._kept = hiding.kept_entries(self._all, hide)
        self.specs = hiding.specs_of_kept(self._all, self._kept)
        action = spaces.action_spec(env.action_space)
        self.row_spec = EnvSpec(self.specs, action)
        self.left_out = spaces.text_leaves(env.observation_space)
        self.observation_space = gym_spaces.Dict({path: spaces.leaf_space(spec) for path, spec in self.specs.items()})
        self.action_space = gym_spaces.Box(-1, 1, (action.width,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the environment's `info` is dropped."""
        obs, _ = self.env.reset(seed=seed, options=options)
        return self.encode(obs), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, with the action as a vector; the environment's `info` is dropped."""
        obs, reward, terminated, truncated, _ = self.env.step(spaces.decode_action(self.env.action_space, action))
        ended = spaces.checked_flag("terminated", terminated), spaces.checked_flag("truncated", truncated)
        return self.encode(obs), spaces.checked_reward(reward), *ended, {}

    def encode(self, obs: Any) -> dict[str, np.ndarray]:
        """One of the environment's own observations as rows store it."""
        return hiding.keep(spaces.encode_observation(self.env.observation_space, self._all, obs), self._kept)


class Environments:
    """N environments side by side. Use it in a `with` block, which closes them even after a worker died or hung."""

    def __init__(
        self,
        make: Callable[[], SyncVectorEnv | Workers],
        spec: EnvSpec,
        *,
        step_timeout: float,
        restarts: int,
        left_out: Sequence[str] = (),
    ) -> None:
        """Args:
        make: makes the environments, each under a Guard; called again after a worker died.
        spec: what a row of one environment holds.
        step_timeout: seconds that a reset or step may take.
        restarts: how many failures are answered by a new environment; the next one is raised.
        left_out: paths of text leaves, which rows do not hold.
        """
        self.spec, self.failures = spec, list[str]()
        self.left_out = tuple(left_out)
        self._make, self._step_timeout, self._restarts = make, step_timeout, restarts
        self._vector, self._seed, self._steps = make(), 0, 0
        self.count = self._vector.num_envs
        assert self._vector.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP, self._vector.metadata

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode in every environment, in number i with seed + i: -> observations [N, ...] by path."""
        self._seed, self._steps = seed, 0
        return self._attempt(lambda: self._reset(seed)).obs

    def step(self, action: Float[np.ndarray, "N A"]) -> Transition:
        """Take a step in every environment.

        An environment whose episode has just ended begins a new one instead: its action is not used, its reward is zero
        and its observation is the first of the new episode.

        Raises:
            EnvironmentFailureError: if one fails and no more may be replaced.
        """
        self._steps += 1
        return self._attempt(lambda: self._step(action))

    def frames(self) -> list[np.ndarray]:
        """What each environment shows now, [H, W, 3] bytes; of environments made with `render_mode="rgb_array"`.

        Raises:
            ValueError: if one shows something else.
        """
        with _quiet():
            shown = [None if frame is None else np.asarray(frame) for frame in self._vector.render() or ()]
        for x in shown:
            if x is not None and x.ndim == 3 and x.shape[-1] == 3 and x.dtype == np.uint8:
                continue
            got = "none" if x is None else f"the shape {x.shape} and dtype {x.dtype}"
            raise ValueError(f"render: expected a frame [H, W, 3] of bytes of each environment, got {got}")
        return [x for x in shown if x is not None]

    def close(self) -> None:
        """Close all environments, once. One that does not close in time is left as it is, and killed if a worker."""
        if self._vector.closed:
            return
        if isinstance(self._vector, Workers):
            self._vector.close()
            return
        end = time.monotonic() + CLOSE_TIMEOUT
        for guard in self._vector.envs:
            assert isinstance(guard, Guard)
            guard.close(max(end - time.monotonic(), 0.1))
        self._vector.closed = True

    def __enter__(self) -> "Environments":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reset(self, seed: int) -> Transition:
        obs, info = self._vector.reset(seed=seed)
        self._count(info)
        none = np.zeros(self.count, bool)
        return Transition(dict(obs), np.zeros(self.count), none, none, ~none)

    def _step(self, action: np.ndarray) -> Transition:
        obs, reward, terminated, truncated, info = self._vector.step(action)
        return Transition(dict(obs), reward, terminated, truncated, self._count(info))

    def _attempt(self, call: Callable[[], Transition]) -> Transition:
        """Call the environments. If a worker dies or hangs, all begin again, as often as `restarts` allows."""
        while True:
            try:
                with _quiet():
                    return call()
            except (WorkerTimeoutError, EOFError, ConnectionError) as error:
                self._note(self._lost_workers(error), error)
            self.close()
            self._vector = self._make()
            call = partial(self._reset, self._seed + 1_000_003 * len(self.failures))

    def _count(self, info: Mapping[str, Any]) -> Bool[np.ndarray, " N"]:
        """Count the environments that were replaced: -> which they are."""
        replaced = np.asarray(info.get(f"_{FAILURE}", np.zeros(self.count, bool)))
        for i in np.flatnonzero(replaced):
            self._note(info[FAILURE][i], None)
        return replaced

    def _note(self, words: str, error: Exception | None) -> None:
        self.failures.append(words)
        if len(self.failures) > self._restarts:
            after = f" (after {self._restarts} restarts, which is what env.restarts allows)" if self._restarts else ""
            raise EnvironmentFailureError(words + after) from error

    def _lost_workers(self, error: Exception) -> str:
        """A sentence that names the workers that died or hang, which their Guards cannot report any more."""
        assert isinstance(self._vector, Workers), error
        when = f"step {self._steps}" if self._steps else "reset"
        if isinstance(error, WorkerTimeoutError):
            silent = [i for i, pipe in enumerate(self._vector.parent_pipes) if not pipe.poll(0)]
            return (
                f"environment {_listed(silent)}: the worker gave no answer to {when} in {self._step_timeout:g} seconds"
            )
        for process in self._vector.processes:
            process.join(timeout=0.1)
        dead = [i for i, process in enumerate(self._vector.processes) if not process.is_alive()]
        return f"environment {_listed(dead)}: the worker died during {when}; its own words are above"


def make_environments(
    env_id: str,
    *,
    count: int,
    kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str | Mapping[str, Any]] = (),
    asynchronous: bool = False,
    step_timeout: float = 60.0,
    restarts: int = 0,
    action_repeat: int = 1,
    time_limit: int | None = None,
    pixels: Literal["off", "only", "add"] = "off",
    image_size: int = 64,
    drop_text: bool = True,
    integers: Literal["mass", "density"] = "mass",
    hide: Mapping[str, Sequence[int]] | None = None,
    row_limit: int | None = None,
) -> Environments:
    """Make `count` environments of one kind. Arguments as in `EnvConfig`.

    Args:
        row_limit: rows after which an episode is truncated, also where the environment's own limit is later.

    Raises:
        UnsupportedSpaceError: if an observation or action space cannot be modelled.
        ValueError: if Gymnasium does not know the id, its suite is not installed, a wrapper does not fit, an entry to
            be hidden does not exist, or pixels are asked of an environment without `rgb_array`.
        EnvironmentFailureError: if an environment is not made in time, or a worker does not start.
    """
    known = gymnasium.registry.get(env_id)
    make = partial(
        _make_one,
        env_id,
        dict(kwargs or {}),
        known=known if known is not None and callable(known.entry_point) else None,  # workers have no such entry
        wrappers=wrappers,
        action_repeat=action_repeat,
        time_limit=time_limit,
        pixels=pixels,
        image_size=image_size,
        drop_text=drop_text,
        integers=integers,
        hide=hide or {},
        row_limit=row_limit,
    )
    # The spaces are read first, from one more environment, so that an error in making it keeps its own message.
    read = read_spaces_elsewhere if asynchronous else read_spaces
    found = read(make, env_id, step_timeout)
    guarded = partial(_make_guarded, make, env_id=env_id, timeout=step_timeout, replace=restarts > 0)
    makers = [partial(guarded, index=index) for index in range(count)]

    def make_vector() -> SyncVectorEnv | Workers:
        if asynchronous:
            return Workers(makers, found, step_timeout=step_timeout)
        return SyncVectorEnv(makers)

    return Environments(make_vector, found.spec, step_timeout=step_timeout, restarts=restarts, left_out=found.left_out)


def real_spaces(env_id: str, *, kwargs: Mapping[str, Any], **settings: Any) -> tuple[gymnasium.Space, gymnasium.Space]:
    """The observation and action spaces of an environment itself, before rows are made of it.

    Arguments and errors as in `make_environments`, without those about many environments.
    """
    env = one_environment(env_id, kwargs=kwargs, **settings)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def one_environment(env_id: str, *, kwargs: Mapping[str, Any], **settings: Any) -> gymnasium.Env:
    """An environment itself, before rows are made of it. Arguments and errors as in `real_spaces`."""
    return _make_one(env_id, dict(kwargs), row_limit=None, **settings).env


def environment_law(env_id: str, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The law that an environment states for its rows (see `oracles.worlds`), or None.

    Makes the environment, which imports the module that the id names. None if it states no law, or cannot be made here:
    rows may be read on another machine than the one that wrote them.
    """
    try:
        with _quiet():
            env = gymnasium.make(suites.prepare(env_id), **kwargs)
    except Exception:  # of a constructor that these keywords do not fit
        return None
    law = env.get_wrapper_attr("law") if env.has_wrapper_attr("law") else None
    env.close()
    return law if isinstance(law, dict) else None


def _make_one(
    env_id: str,
    kwargs: dict[str, Any],
    *,
    wrappers: Sequence[str | Mapping[str, Any]],
    action_repeat: int,
    time_limit: int | None,
    pixels: Literal["off", "only", "add"],
    image_size: int,
    drop_text: bool,
    integers: Literal["mass", "density"],
    hide: Mapping[str, Sequence[int]],
    row_limit: int | None,
    known: EntrySpec | None = None,
) -> Canonical:
    if pixels != "off":
        use_headless_rendering()
        kwargs = {**kwargs, "render_mode": "rgb_array"}
    registered = suites.prepare(env_id) if known is None else known
    try:
        env = gymnasium.make(registered, max_episode_steps=time_limit, **kwargs)
    except BaseException as error:  # of somebody else's constructor, such as a KeyError for a wrong env.kwargs
        if isinstance(error, NoAnswerError) or not is_own_error(error):
            raise
        if pixels != "off" and "render_mode" in str(error):
            raise ValueError(f"env.pixels: expected an environment that takes a render_mode, got {env_id!r}") from error
        raise ValueError(
            f"env.id: expected an environment that Gymnasium can make, got {env_id!r} with "
            f"env.kwargs {kwargs!r}: {type(error).__name__}: {error}"
        ) from error
    if pixels != "off":
        if env.render_mode != "rgb_array" or "rgb_array" not in env.metadata.get("render_modes", []):
            raise ValueError(f"env.pixels: expected an environment that renders rgb_array, got {env_id!r}")
        try:
            env = with_pixels(env, only=pixels == "only")
        except Exception as error:  # such as a leaf that already has the name, or frames that are not arrays
            raise ValueError(
                f"env.pixels: expected frames that can join the observation, got {env_id!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    env = _wrap(env, wrappers)
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    if row_limit is not None:
        env = TimeLimit(env, max(1, row_limit - 1))  # the first row takes no step
    return Canonical(env, image_size=image_size, drop_text=drop_text, integers=integers, hide=hide)


def _wrap(env: gymnasium.Env, wrappers: Sequence[str | Mapping[str, Any]]) -> gymnasium.Env:
    try:
        return apply_wrappers(env, wrappers)
    except ModuleNotFoundError as error:
        suite = suites.suite_of_module(error.name or "")
        cause = suites.install(suite) if suite else str(error)
        raise ValueError(f"env.wrappers: expected modules that are installed, got {wrappers!r}: {cause}") from error


def _make_guarded(make: Callable[[], Canonical], *, index: int, env_id: str, timeout: float, replace: bool) -> Guard:
    return Guard(make, name=f"environment {index} ({env_id})", timeout=timeout, replace=replace)


def _listed(indices: list[int]) -> str:
    return " and ".join(map(str, indices))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Gymnasium's log, which itself fails on a traceback that contains a percent sign."""
    level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.ERROR + 1
    try:
        yield
    finally:
        gymnasium.logger.min_level = level
