"""Batches that a thread reads while the one before is learned from: the same batches as without it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from worldmodel.types import Batch

# The least bytes of a batch whose reading, 2 ms and more, is worth a thread. It saves nothing of a smaller batch, since
# Python runs one thread at a time: see docs/performance.md.
WORTH_A_THREAD = 2**22


class ReadAhead:
    """Draws batches one after the other, each before its turn where the caller says that this changes nothing.

    A batch that is drawn before rows are written cannot contain them, as it could in its turn. So it is drawn ahead
    only if no row is written until its turn. The generator's state is always the one after the last batch that was
    handed out, so that a checkpoint knows nothing of a batch that waits, and a resumed run draws it again.

    Leaving the `with` block ends the thread. A batch that it reads by then is dropped, and so is an error in it.
    """

    def __init__(self, draw: Callable[[torch.Generator, int], Batch], generator: torch.Generator) -> None:
        """Args:
        draw: draws the batch of an update, by its number. It is called in a thread, with a copy of the generator.
        generator: source of all draws, from which nobody else draws in the `with` block.
        """
        self.draw, self.generator = draw, generator
        self._pool = ThreadPoolExecutor(1, "batches")  # its thread begins with the first batch that is drawn ahead
        self._ahead: Future[tuple[Batch, Tensor]] | None = None  # a batch, and the generator's state after it

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self, update: int, *, ahead: bool) -> Batch:
        """The next batch.

        Args:
            update: the number of the update that it is for, one more each time.
            ahead: whether to begin now with the batch after it; only if no row is written before that one's turn.
        Raises:
            Whatever `draw` raises for this batch, also in the thread.
        """
        if self._ahead is None:
            batch = self.draw(self.generator, update)
        else:
            batch, state = self._ahead.result()
            self.generator.set_state(state)
        self._ahead = self._pool.submit(self._draw_with, self.generator.clone_state(), update + 1) if ahead else None
        return batch

    def _draw_with(self, generator: torch.Generator, update: int) -> tuple[Batch, Tensor]:
        return self.draw(generator, update), generator.get_state()
