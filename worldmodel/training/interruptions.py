"""Ctrl-C and SIGTERM as a request that a loop looks at, in place of an exception in the midst of its work."""

import signal
import threading
from types import FrameType
from typing import Any


class Interruptions:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after this update; the second one stops at once.

    Only the main thread may do this; in any other, nothing is ever requested.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruptions":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
