"""What a person sees while a run goes on: a live bar in a terminal, a line now and then anywhere else."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class RunProgress:
    """Shows rows collected, updates, both rates, ELBO, KL and the time left. Use it in a `with` block."""

    def __init__(self, total: int, console: Console | None = None, *, unit: str = "env steps") -> None:
        """Args:
        total: rows to collect in all, or updates to make where none are collected.
        console: where to write; standard error by default.
        unit: what is counted, "env steps" or "updates".
        """
        self.console = console or Console(stderr=True)
        self.total, self.unit = total, unit
        self._live = self.console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(f"[dim]{unit}[/dim] {{task.fields[state]}}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("prefill", total=total, state="")
        self._started = self._spoke = self._training_since = time.monotonic()
        self._training_from: tuple[int, int] | None = None

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def collected(self, env_steps: int) -> None:
        """So many rows were collected, the prefill included."""
        self._bar.update(self._task, completed=env_steps)

    def trained(self, env_steps: int, updates: int, elbo: float, kl: float) -> None:
        """Rows were collected and updates made; elbo and kl in nats per step."""
        now = time.monotonic()
        if self._training_from is None:
            self._training_from, self._training_since = (env_steps, updates), now
        seconds = max(now - self._training_since, 1e-9)
        env_rate = (env_steps - self._training_from[0]) / seconds
        update_rate = (updates - self._training_from[1]) / seconds
        collecting = self.unit == "env steps"
        place, rate = (env_steps, env_rate) if collecting else (updates, update_rate)
        counted = f"{updates} updates  {env_rate:.0f} steps/s  " if collecting else ""
        state = f"{counted}{update_rate:.1f} updates/s  ELBO {elbo:.3f}  KL {kl:.3f} nats/step"
        self._bar.update(self._task, completed=place, description="training", state=state)
        done = place >= self.total
        if not self._live and rate > 0 and (done or now - self._spoke > SECONDS_BETWEEN_LINES):
            self._spoke = now
            left = max(0, self.total - place) / rate
            self.console.print(f"{place}/{self.total} {self.unit}  {state}  {left:.0f} s left", soft_wrap=True)

    def say(self, text: str) -> None:
        """A message that stays."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)
