"""Ctrl-C and SIGTERM as a request that a loop checks, instead of an exception in the middle of its work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended this at once."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class AbandonedError(StoppedError):
    """The first request ended work that may be given up: see `Interruptions.abandoning`."""


class Interruptions:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after this update; the second one stops at once.

    Use it in `with` blocks, which may be nested. Only the main thread may do this; in any other, nothing is ever
    requested.
    """

    def __init__(self, *, passed_on: bool = False) -> None:
        """Args:
        passed_on: whether SIGTERM may come more than once for one request, as from torchrun, which passes on what it
            gets, and sends SIGTERM by itself once a process has ended. A second one then stops nothing at once:
            torchrun kills what takes too long.
        """
        self.passed_on = passed_on
        self.signal: signal.Signals | None = None  # the first one that came
        self._previous: dict[int, Any] = {}
        self._depth = 0
        self._abandoning: tuple[signal.Signals, ...] = ()
        self._holding = False

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    @property
    def terminated(self) -> bool:
        """Whether the request is SIGTERM: the process is killed within seconds, so there is only time to save."""
        return self.signal == signal.SIGTERM

    @property
    def still_to_come(self) -> tuple[signal.Signals, ...]:
        """The signals that give up the work after training: SIGTERM; and Ctrl-C, unless it ended the training."""
        return (signal.SIGTERM,) if self.requested else SIGNALS

    def agreed(self, greatest: Callable[[int], int], *, instead: int = 0) -> int:
        """Why to stop, the same in all processes: the signal that came to any of them, SIGTERM before SIGINT; or zero.

        Args:
            greatest: the largest of the numbers of all processes; every process must call this at the same places.
            instead: another reason of this process, as a number above those of the signals; zero if there is none.
        """
        number = greatest(instead or self.signal or 0)
        if number in SIGNALS and number > (self.signal or 0):
            self.signal = signal.Signals(number)
        return number

    def __enter__(self) -> "Interruptions":
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    @contextmanager
    def abandoning(self, *signals: signal.Signals) -> Iterator[None]:
        """Work in the `with` block is given up, by an AbandonedError, if one of these signals comes or came before."""
        before, self._abandoning = self._abandoning, signals
        try:
            self._abandon_if_asked()
            yield
        finally:
            self._abandoning = before

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A part of such work, such as writing a file, that is finished before the work is given up."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self._abandon_if_asked()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not (self.passed_on and number == signal.SIGTERM):
            raise StoppedError(number)
        self.signal = signal.Signals(number)
        self._abandon_if_asked()

    def _abandon_if_asked(self) -> None:
        if self.signal is not None and self.signal in self._abandoning and not self._holding:
            raise AbandonedError(self.signal)
