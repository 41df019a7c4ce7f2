"""An environment under guard: a failure says where it happened, a hang is one too, and a new environment may go on."""

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gymnasium

from worldmodel.data.spaces import UnexpectedValueError

FAILURE = "failure"  # the key of `info` under which a guard that began again says why


class EnvironmentFailureError(RuntimeError):
    """An environment raised, died, did not answer in time or gave what it had not promised; the message says which,
    at which step and how."""


class Guard(gymnasium.Wrapper):
    """Calls an environment and names what goes wrong.

    With `replace`, a failure ends the episode without a last row: a new environment takes the old one's place, and the
    step returns that one's first observation, no reward, and the failure's words in `info`.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], *, name: str, timeout: float, replace: bool) -> None:
        """Args:
        make: makes the environment, now and after a failure.
        name: which one it is, for messages.
        timeout: seconds that a reset or step may take.
        replace: whether to go on with a new environment after a failure, instead of raising.
        """
        self._make, self._name, self._timeout, self._replace = make, name, timeout, replace
        self._seed: int | None = None
        self._episode = self._step = self._replaced = 0
        super().__init__(make())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; raises EnvironmentFailureError."""
        self._seed = self._seed if seed is None else seed
        self._episode, self._step = self._episode + 1, 0
        try:
            with _deadline(self._timeout):
                return self.env.reset(seed=seed, options=options)
        except Exception as error:
            return self._begin_again(error)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; raises EnvironmentFailureError."""
        self._step += 1
        try:
            with _deadline(self._timeout):
                return self.env.step(action)
        except Exception as error:
            obs, info = self._begin_again(error)
            return obs, 0.0, False, False, info

    def _begin_again(self, error: Exception) -> tuple[Any, dict[str, Any]]:
        words = self._describe(error)
        if not self._replace:
            raise EnvironmentFailureError(words) from error
        with contextlib.suppress(Exception):  # a broken environment may not close either
            self.env.close()
        self._replaced += 1
        seed = None if self._seed is None else self._seed + 1_000_003 * self._replaced
        try:
            with _deadline(self._timeout):
                self.env = self._make()
                obs, _ = self.env.reset(seed=seed)
        except Exception as again:
            words += f"; and a new one in its place: {_what(again)}"
            raise EnvironmentFailureError(words) from again
        self._episode, self._step = self._episode + 1, 0
        return obs, {FAILURE: words}

    def _describe(self, error: Exception) -> str:
        """One string: it crosses process borders, and not every exception can be pickled."""
        return f"{self._name}, episode {self._episode}, {f'step {self._step}' if self._step else 'reset'}: " + _what(
            error
        )


def _what(error: Exception) -> str:
    if isinstance(error, UnexpectedValueError | _NoAnswerError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"


class _NoAnswerError(Exception):
    pass


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Interrupt Python code that runs for longer. Only a main thread can be interrupted, and not on Windows."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise _NoAnswerError(f"no answer within {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
