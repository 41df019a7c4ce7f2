"""What a person sees while something goes on: a live bar in a terminal, elsewhere a line every ten seconds."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

SECONDS_BETWEEN_LINES = 9.0  # so that ten never pass, though it is only looked at ten times in between
WIDTH = 79  # of a line, at most: a terminal of 80 columns does not wrap it
TRAINING = "training"


@dataclass
class _Phase:
    """Something that takes a while."""

    words: str
    began: float  # by the clock
    detail: str = ""


class Watch:
    """Says what is being done whenever nothing else was said for almost ten seconds, in a terminal or not.

    A thread does this from the beginning to the end of the outermost phase, so that long computations do not delay it.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        console: where to write; standard error by default.
        clock: seconds.
        """
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._spoke = clock()
        self._phases: list[_Phase] = []  # innermost last

    @contextmanager
    def phase(self, words: str) -> Iterator[None]:
        """Name what is done in the `with` block. Phases may be nested; the innermost one is shown."""
        self._phases.append(_Phase(words, self._clock()))
        try:
            if len(self._phases) > 1:
                yield
            else:
                with self._beating():
                    yield
        finally:
            self._phases.pop()

    @contextmanager
    def _beating(self) -> Iterator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(SECONDS_BETWEEN_LINES / 10):
                self.beat()

        thread = threading.Thread(target=beat, name="worldmodel progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def at(self, detail: str) -> None:
        """How far the innermost phase is."""
        if self._phases:
            self._phases[-1].detail = detail

    def log(self, text: str) -> None:
        """A message that stays."""
        self._spoke = self._clock()
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def beat(self) -> None:
        """Say what is being done, if nothing was said for long."""
        line = self.line()
        if line and self._clock() - self._spoke >= SECONDS_BETWEEN_LINES:
            Watch.log(self, line)

    def line(self) -> str:
        """What is being done, how far it is and for how long; nothing outside a phase."""
        for phase in self._phases[-1:]:  # the last one may end at any moment
            words = f"{phase.words}: {phase.detail}" if phase.detail else phase.words
            return _fitting(f"{words}, {_duration(self._clock() - phase.began)}")
        return ""


class RunProgress(Watch):
    """Shows rows collected, updates and their rate, ELBO, KL and the time left. The bar is there in a `with` block."""

    def __init__(
        self,
        total: int,
        console: Console | None = None,
        *,
        unit: str = "rows",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        total: rows to collect in all, or updates to make where none are collected.
        console, clock: as for `Watch`.
        unit: what is counted, "rows" or "updates".
        """
        super().__init__(console, clock=clock)
        self.total, self.unit = total, unit
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self._rows = self._updates = 0
        self._measured = ""  # ELBO and KL, once there are
        self._return = ""  # of the newest evaluation, once there is one
        self._counting: tuple[float, int, int] | None = None  # the time, rows and updates when training began

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def training(self) -> AbstractContextManager[None]:
        """The phase of prefill and training, whose line is the counts."""
        return self.phase(TRAINING)

    def collected(self, env_steps: int) -> None:
        """So many rows were collected, the prefill included."""
        self._rows = env_steps

    def updated(self, updates: int) -> None:
        """So many updates were made, or are being made on a device."""
        if self._counting is None:
            self._counting = self._clock(), self._rows, updates - 1
        self._updates = updates

    def trained(self, env_steps: int, updates: int, elbo: float, kl: float) -> None:
        """Rows were collected and updates made; elbo and kl in nats per step."""
        self.collected(env_steps)
        self.updated(updates)
        self._measured = f", ELBO {_short(elbo)}, KL {_short(kl)}"
        if self._place >= self.total and not self._bar.live.is_started:
            self.log(self.line())

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """The present weights were evaluated: shows the policy's mean `return`, in reward units, if there is one."""
        if "return" in scores:
            self._return = f", return {_short(scores['return'], 1)}"

    def beat(self) -> None:
        """Bring the bar up to date where it is shown; else say a line, if nothing was said for long."""
        if self._bar.live.is_started:
            self._bar.update(self._task, completed=self._place, description=self.line())
        else:
            super().beat()

    def line(self) -> str:
        """Counts, rate, ELBO, KL and the time left during training; in any other phase, what is being done."""
        phases = self._phases[-1:]
        if not phases or phases[0].words != TRAINING:
            return super().line()
        counts = f"{_count(self._place)}/{_count(self.total)} {self.unit}"
        if self._counting is None:
            return f"prefill, {counts}" if self.unit == "rows" else counts
        began, rows, updates = self._counting
        seconds = max(self._clock() - began, 1e-9)
        update = f", update {_count(self._updates)}" if self.unit == "rows" else ""
        pace = (self._place - (rows if self.unit == "rows" else updates)) / seconds
        left = f", {_duration((self.total - self._place) / pace)} left" if pace > 0 and self._place < self.total else ""
        rate = f", {_short((self._updates - updates) / seconds, 2)}/s"
        return _fitting(f"{counts}{update}{rate}{self._return}{self._measured}{left}")

    @property
    def _place(self) -> int:
        return self._rows if self.unit == "rows" else self._updates


def _fitting(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _count(n: int) -> str:
    """12345, 123k, 1.23M or 12.3M."""
    if n < 100_000:
        return str(n)
    if n < 1_000_000:
        return f"{n // 1000}k"
    return f"{n / 1e6:.2f}M" if n < 10_000_000 else f"{n / 1e6:.1f}M"


def _short(x: float, decimals: int = 3) -> str:
    """A number with as many decimals as fit in six characters and a sign."""
    if not abs(x) < 1e5:  # also where it is not a number
        return f"{x:.0e}"
    size = len(str(int(abs(x)))) - 1
    return f"{x:.{max(0, decimals - size)}f}"


def _duration(seconds: float) -> str:
    """95 s, 12 min or 3 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
