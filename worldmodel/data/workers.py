"""Environments in processes of their own, so that nothing that one of them does can end this process.

A worker ignores Ctrl-C and SIGTERM, which a terminal or a cluster sends to a whole group: this process decides, and
ends its workers by a message, or by SIGKILL where they do not heed it. They also end when this process does.
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

from worldmodel.data.guard import CLOSE_TIMEOUT, EnvironmentFailureError, close_or_warn, made_in_time, start_timeout
from worldmodel.types import EnvSpec

GRACE = 2.0  # seconds beyond a deadline that a worker has to report a hang itself
SLICE = 0.25  # seconds of a wait that are counted at a time
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Spaces(NamedTuple):
    """What is read off one environment before the others are made."""

    spec: EnvSpec
    observation: gymnasium.Space
    action: gymnasium.Space
    left_out: tuple[str, ...]  # text leaves that rows do without


class Workers(AsyncVectorEnv):
    """One worker process for each environment; every wait has a deadline."""

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]], spaces: Spaces, *, start_timeout: float) -> None:
        """Args:
        makers: make the environments, in their workers.
        spaces: of each of them.
        start_timeout: seconds that a constructor may take.
        Raises:
            EnvironmentFailureError: if a worker dies or hangs at its start.
        """
        self._start_timeout = start_timeout
        here = [partial(_make_elsewhere, make, spaces, os.getpid()) for make in makers]
        try:
            super().__init__(here, worker=partial(_work, _ends_with_this_process()))
        except BaseException as error:
            self.close_extras()
            self.closed = True
            if isinstance(error, WorkerTimeoutError):
                late = f"an environment worker gave no answer within {start_timeout:g} seconds of its start"
                raise EnvironmentFailureError(late) from error
            if isinstance(error, EOFError | ConnectionError):
                words = "an environment worker died at its start; its own words are above"
                raise EnvironmentFailureError(words) from error
            raise
        self._at_exit = partial(_end, self.processes)  # or Python waits there for workers that ignore its SIGTERM
        atexit.register(self._at_exit)

    def wait_for_answers(self, seconds: float) -> None:
        """Wait until every worker has answered or died; raises multiprocessing.TimeoutError."""
        if not wait_for([pipe for pipe in self.parent_pipes if pipe is not None], seconds):
            raise WorkerTimeoutError

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask all workers to close their environments and end; kill those that have not after two seconds."""
        for pipe in getattr(self, "parent_pipes", []):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):  # of a worker that is dead
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
        self.call_async("render_mode")  # any question: it is answered once the environment is made
        self.wait_for_answers(self._start_timeout + GRACE)
        self.call_wait()
        super()._check_spaces()


def read_spaces(make: Callable[[], Any], name: str, timeout: float) -> Spaces:
    """Make an environment and close it again: -> its spaces; raises what its constructor does."""
    env = made_in_time(make, name, timeout)
    close_or_warn(env, name)
    return _spaces_of(env)


def read_spaces_elsewhere(make: Callable[[], Any], name: str, timeout: float) -> Spaces:
    """The same in a process of its own.

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
    """Wait until all of these (pipes, sentinels) are ready: -> whether they are.

    Time is counted in slices, so that time in which this process was stopped does not count.
    """
    waiting, left = set(objects), seconds
    while waiting and left > 0:
        began = time.monotonic()
        waiting -= set(connection.wait(waiting, min(left, SLICE)))
        left -= min(time.monotonic() - began, SLICE)
    return not waiting


class _Elsewhere(gymnasium.Env):
    """The spaces of an environment that runs in a worker."""

    def __init__(self, spaces: Spaces) -> None:
        self.observation_space, self.action_space = spaces.observation, spaces.action


def _make_elsewhere(make: Callable[[], gymnasium.Env], spaces: Spaces, parent: int) -> gymnasium.Env:
    """The environment, in a worker. Gymnasium makes one in this process too, to read its spaces, which are known."""
    return make() if os.getpid() != parent else _Elsewhere(spaces)


def _ends_with_this_process() -> bool:
    """Whether Linux can end a worker with the thread that makes it, because that thread lives as long as the process.

    Elsewhere a worker ends when it finds its pipe closed.
    """
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


def _settle(dies_with_parent: bool) -> None:
    """What a worker does about signals."""
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
        env = made_in_time(make, name, timeout)
        pipe.send(_spaces_of(env))
    except Exception as error:
        pipe.send(_portable(error, name))
    if env is not None:
        close_or_warn(env, name)


def _spaces_of(env: Any) -> Spaces:
    return Spaces(env.row_spec, env.observation_space, env.action_space, tuple(env.left_out))


def _portable(error: Exception, name: str) -> Exception:
    """The exception itself, if it survives the way between processes; or one with its words."""
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
