"""Environments in worker processes, so that nothing an environment does can end this process.

A worker ignores Ctrl-C and SIGTERM, which a terminal or a cluster sends to the whole process group. This process ends
its workers by a message, or by SIGKILL if they do not obey it. They also end when this process ends.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import TimeoutError as WorkerTimeoutError
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import gymnasium
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker
from gymnasium.vector.utils import CloudpickleWrapper

from worldmodel.data.guard import CLOSE_TIMEOUT, EnvironmentFailureError, close_or_warn, make_in_time, start_timeout
from worldmodel.types import EnvSpec

GRACE = 2.0  # seconds after a deadline in which a worker can report the hang itself
SLICE = 0.25  # seconds by which a wait is counted
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Spaces(NamedTuple):
    """What is read off one environment before the others are made."""

    spec: EnvSpec
    observation: gymnasium.Space
    action: gymnasium.Space
    left_out: tuple[str, ...]  # paths of text leaves, which rows do not hold


class Workers(AsyncVectorEnv):
    """One worker process for each environment.

    A reset or a step raises multiprocessing.TimeoutError if a worker does not answer in time, and EOFError or
    ConnectionError if one is dead.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]], spaces: Spaces, *, step_timeout: float) -> None:
        """Args:
        makers: make the environments, in their workers.
        spaces: of each of them.
        step_timeout: seconds that a reset or step may take; a constructor may take longer, see `start_timeout`.
        Raises:
            EnvironmentFailureError: if a worker dies or hangs at its start.
        """
        self._step_timeout, self._start_timeout = step_timeout, start_timeout(step_timeout)
        here = [partial(_make_elsewhere, make, spaces, os.getpid()) for make in makers]
        try:
            super().__init__(here, worker=partial(_work, _ends_with_this_process()))
        except BaseException as error:
            self.close_extras()
            self.closed = True
            if isinstance(error, WorkerTimeoutError):
                late = f"an environment worker gave no answer within {self._start_timeout:g} seconds of its start"
                raise EnvironmentFailureError(late) from error
            if isinstance(error, EOFError | ConnectionError):
                words = "an environment worker died at its start; its own words are above"
                raise EnvironmentFailureError(words) from error
            raise
        self._at_exit = partial(_end, self.processes)  # Python would wait there for workers, which ignore its SIGTERM
        atexit.register(self._at_exit)

    def reset_wait(self, timeout: float | None = None) -> Any:
        """Receive the observations of a reset."""
        self._wait_for_answers(self._step_timeout)
        return super().reset_wait()

    def step_wait(self, timeout: float | None = None) -> Any:
        """Receive the results of a step."""
        self._wait_for_answers(self._step_timeout)
        return super().step_wait()

    def _wait_for_answers(self, seconds: float) -> None:
        """Wait until every worker has answered or died."""
        if not wait_for([pipe for pipe in self.parent_pipes if pipe is not None], seconds + GRACE):
            raise WorkerTimeoutError

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask all workers to close their environments and end; after CLOSE_TIMEOUT, kill those that have not."""
        for pipe in getattr(self, "parent_pipes", []):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):  # the worker is dead
                    pipe.send(("close", None))
        processes: list[BaseProcess] = getattr(self, "processes", [])
        end = time.monotonic() + CLOSE_TIMEOUT
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        _end(processes)
        for pipe in getattr(self, "parent_pipes", []):
            if pipe is not None:
                pipe.close()
        if hasattr(self, "_at_exit"):
            atexit.unregister(self._at_exit)

    def _check_spaces(self) -> None:
        self.call_async("render_mode")  # any question will do: the answer comes once the environment is made
        self._wait_for_answers(self._start_timeout)
        self.call_wait()
        super()._check_spaces()


def read_spaces(make: Callable[[], Any], name: str, timeout: float) -> Spaces:
    """Make an environment and close it again: -> its spaces. Raises whatever its constructor raises."""
    env = make_in_time(make, name, timeout)
    close_or_warn(env, name)
    return _spaces_of(env)


def read_spaces_elsewhere(make: Callable[[], Any], name: str, timeout: float) -> Spaces:
    """`read_spaces` in a process of its own.

    Raises:
        EnvironmentFailureError: if that process dies or gives no answer in time; otherwise what `read_spaces` raises.
    """
    context = multiprocessing.get_context()
    ours, theirs = context.Pipe()
    arguments = (_ends_with_this_process(), CloudpickleWrapper(make), name, timeout, theirs)
    process = context.Process(target=_answer_spaces, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        if not wait_for([ours], start_timeout(timeout) + GRACE):
            raise EnvironmentFailureError(
                f"{name}: its constructor: no answer within {start_timeout(timeout):g} seconds"
            )
        answer = ours.recv()
        wait_for([process.sentinel], CLOSE_TIMEOUT + GRACE)  # while it closes
    except EOFError as error:
        process.join(GRACE)
        raise EnvironmentFailureError(
            f"{name}: its constructor ended the process it ran in, with exit status {process.exitcode}"
        ) from error
    finally:
        _end([process])
        ours.close()
    if isinstance(answer, BaseException):
        raise answer
    assert isinstance(answer, Spaces)
    return answer


def wait_for(objects: Sequence[Any], seconds: float) -> bool:
    """Wait until all objects (pipes, sentinels) are ready: -> whether they are.

    Time is counted in short slices, so that time during which this process was stopped does not count.
    """
    waiting, left = set(objects), seconds
    while waiting and left > 0:
        began = time.monotonic()
        waiting -= set(connection.wait(waiting, min(left, SLICE)))
        left -= min(time.monotonic() - began, SLICE)
    return not waiting


class _Elsewhere(gymnasium.Env):
    """Stands in this process for an environment that runs in a worker; it has spaces and nothing else."""

    def __init__(self, spaces: Spaces) -> None:
        self.observation_space, self.action_space = spaces.observation, spaces.action


def _make_elsewhere(make: Callable[[], gymnasium.Env], spaces: Spaces, parent: int) -> gymnasium.Env:
    """Make the environment in a worker, and a stand-in here, where Gymnasium makes one only to read its spaces."""
    return make() if os.getpid() != parent else _Elsewhere(spaces)


def _ends_with_this_process() -> bool:
    """Whether Linux can tie a worker's life to this thread, which it can if the thread lives as long as the process.

    Otherwise a worker ends when it finds its pipe closed.
    """
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


def _settle(dies_with_parent: bool) -> None:
    """Ignore the signals that this process group receives, and, on Linux, die with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if dies_with_parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(dies_with_parent: bool, *arguments: Any) -> None:
    _settle(dies_with_parent)
    _async_worker(*arguments)


def _answer_spaces(
    dies_with_parent: bool, make: Callable[[], Any], name: str, timeout: float, pipe: Connection
) -> None:
    _settle(dies_with_parent)
    env = None
    try:
        env = make_in_time(make, name, timeout)
        pipe.send(_spaces_of(env))
    except Exception as error:
        pipe.send(_portable(error, name))
    if env is not None:
        close_or_warn(env, name)


def _spaces_of(env: Any) -> Spaces:
    return Spaces(env.row_spec, env.observation_space, env.action_space, tuple(env.left_out))


def _portable(error: Exception, name: str) -> Exception:
    """The exception itself if it can be pickled, and otherwise one with the same words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EnvironmentFailureError(f"{name}: its constructor: {type(error).__name__}: {error}")
    return error


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()
