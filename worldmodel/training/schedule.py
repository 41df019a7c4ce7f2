"""When things happen in a run, and which sequences a batch is drawn from."""

from dataclasses import dataclass

import torch

from worldmodel.data.replay import Replay
from worldmodel.train_ratio import updates_paid
from worldmodel.types import Batch


@dataclass(frozen=True)
class Schedule:
    """When things happen. Fields as in `TrainingConfig` and `ReplayConfig`."""

    env_steps: int
    prefill: int
    train_ratio: float
    batch_size: int
    sequence_length: int
    burn_in: int
    log_every: int
    evaluate_every: int
    save_every: int
    updates: int | None = None  # of a run from stored rows
    restart: bool = False
    processes: int = 1  # that share each batch
    growth: int = 1
    growth_after: float = 1.0

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.updates_paid(self.env_steps) if self.updates is None else self.updates

    def updates_paid(self, env_steps: int) -> int:
        """Updates that so many steps pay for, the prefill included."""
        return updates_paid(
            env_steps,
            prefill=self.prefill,
            train_ratio=self.train_ratio,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
        )

    def sequences_of(self, update: int) -> int:
        """How many sequences this process draws for an update; the first update is number 0."""
        return self._sequences(self.growth if update >= self.growth_after * self.total_updates else 1)

    def draw(self, replay: Replay, generator: torch.Generator, update: int) -> Batch:
        """This process's sequences of the batch that an update learns from; the first update is number 0."""
        return self._from(replay, generator, self.sequences_of(update))

    def sample(self, replay: Replay, generator: torch.Generator, batches: int = 1) -> Batch:
        """This process's sequences of one batch, or of several together, from a replay."""
        return self._from(replay, generator, self._sequences(batches))

    def _sequences(self, batches: int) -> int:
        return batches * self.batch_size // self.processes

    def _from(self, replay: Replay, generator: torch.Generator, size: int) -> Batch:
        return replay.sample(size, self.sequence_length, generator, burn_in=self.burn_in, restart=self.restart)
