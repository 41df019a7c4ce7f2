"""Guarded environments: a failure or a hang is named with its episode and step, and may be answered by a restart."""

import contextlib
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gymnasium

from worldmodel.data.spaces import UnexpectedValueError

FAILURE = "failure"  # the key of `info` under which a guard says why it replaced its environment
CLOSE_TIMEOUT = 2.0  # seconds that closing may take: after a SIGTERM there are five for everything
LEAST_START_TIMEOUT = 60.0  # seconds that any constructor may take: it may load files and start simulators
TICKS = 20  # timer ticks that make up a deadline


class EnvironmentFailureError(RuntimeError):
    """An environment raised, died, hung, or returned values that do not fit its spaces; the message says which, when
    and how."""


class NoAnswerError(BaseException):
    """A deadline has passed. Not an Exception, so that an environment which catches those cannot go on hanging."""


class Guard(gymnasium.Wrapper):
    """Calls an environment and reports its failures with environment, episode and step.

    With `replace`, a failure ends the episode without a last row: a new environment replaces the failed one, and the
    call returns its first observation, no reward, and the description of the failure in `info`.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], *, name: str, timeout: float, replace: bool) -> None:
        """Args:
        make: makes the environment, now and after each failure.
        name: what messages call the environment.
        timeout: seconds that a reset or step may take.
        replace: whether to go on with a new environment after a failure, instead of raising.
        """
        self._make, self._name, self._timeout, self._replace = make, name, timeout, replace
        self._seed: int | None = None
        self._episode = self._step = self._replaced = 0
        super().__init__(make_in_time(make, name, timeout))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; raises EnvironmentFailureError."""
        self._seed = self._seed if seed is None else seed
        self._episode, self._step = self._episode + 1, 0
        try:
            with deadline(self._timeout):
                return self.env.reset(seed=seed, options=options)
        except BaseException as error:
            if not is_own_error(error):
                raise
            return self._begin_again(error)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; raises EnvironmentFailureError."""
        self._step += 1
        try:
            with deadline(self._timeout):
                return self.env.step(action)
        except BaseException as error:
            if not is_own_error(error):
                raise
            obs, info = self._begin_again(error)
            return obs, 0.0, False, False, info

    def close(self, seconds: float = CLOSE_TIMEOUT) -> None:
        """Close the environment; a failure is only a warning, since the environment's work is done."""
        close_or_warn(self.env, self._name, seconds)

    def _begin_again(self, error: BaseException) -> tuple[Any, dict[str, Any]]:
        words = self._describe(error)
        if not self._replace:
            raise EnvironmentFailureError(words) from error
        _close(self.env, CLOSE_TIMEOUT)  # whether or not a broken environment still closes
        self._replaced += 1
        seed = None if self._seed is None else self._seed + 1_000_003 * self._replaced
        try:
            with deadline(start_timeout(self._timeout)):
                self.env = self._make()
            with deadline(self._timeout):
                obs, _ = self.env.reset(seed=seed)
        except BaseException as again:
            if not is_own_error(again):
                raise
            words += f"; and a new one in its place: {_what(again)}"
            raise EnvironmentFailureError(words) from again
        self._episode, self._step = self._episode + 1, 0
        return obs, {FAILURE: words}

    def _describe(self, error: BaseException) -> str:
        """Where and how it failed, as text, which can be sent to another process where an exception may not."""
        return f"{self._name}, episode {self._episode}, {f'step {self._step}' if self._step else 'reset'}: " + _what(
            error
        )


def start_timeout(step_timeout: float) -> float:
    """Seconds that a constructor may take: a minute, or the time for a step if that is longer."""
    return max(LEAST_START_TIMEOUT, step_timeout)


def make_in_time(make: Callable[[], gymnasium.Env], name: str, timeout: float) -> Any:
    """Make an environment within the time that a constructor may take.

    Raises:
        EnvironmentFailureError: if it takes too long or tries to end the process. Other exceptions pass unchanged.
    """
    try:
        with deadline(start_timeout(timeout)):
            return make()
    except BaseException as error:
        if isinstance(error, Exception) or not is_own_error(error):
            raise
        raise EnvironmentFailureError(f"{name}: its constructor: {_what(error)}") from error


def is_own_error(error: BaseException) -> bool:
    """Whether an exception raised while an environment ran comes from the environment, and not from a signal.

    `sys.exit()`, GeneratorExit and a KeyboardInterrupt without Ctrl-C come from the environment. With Python's default
    handler of Ctrl-C in place, any KeyboardInterrupt is taken for a Ctrl-C; training and collecting install a handler
    that tells the two apart, and workers are never interrupted.
    """
    if type(error) is KeyboardInterrupt:
        main = threading.current_thread() is threading.main_thread()
        return not (main and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    return isinstance(error, Exception | SystemExit | GeneratorExit | NoAnswerError)


def close_or_warn(env: gymnasium.Env, name: str, seconds: float = CLOSE_TIMEOUT) -> None:
    """Close an environment; warn if it raises or takes too long."""
    error = _close(env, seconds)
    if error is not None:
        warnings.warn(f"{name}: close: {_what(error)}", stacklevel=3)


def _close(env: gymnasium.Env, seconds: float) -> BaseException | None:
    try:
        with deadline(seconds):
            env.close()
    except BaseException as error:
        if not is_own_error(error):
            raise
        return error
    return None


def _what(error: BaseException) -> str:
    if isinstance(error, UnexpectedValueError | NoAnswerError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{words} ({where.filename}, line {where.lineno})"


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise NoAnswerError in a block that runs for longer than this. Works in the main thread only, not on Windows.

    The time is counted in timer ticks. While a process is stopped (SIGSTOP, or a sleeping machine) at most one tick is
    pending, so that such time does not count.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    left = TICKS

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise NoAnswerError(f"no answer within {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, seconds / TICKS, seconds / TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
