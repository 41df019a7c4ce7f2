"""Random generators: one seed for a run, and a stream of its own for everything in it that is random."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Who draws. Every consumer has a stream of its own, so that adding one does not change the others."""

    POLICY = 0
    SAMPLING = 1
    LATENTS = 2
    HELDOUT = 3
    IMAGINATION = 4
    EVIDENCE = 5
    STARTS = 6  # of the episodes that policies are evaluated on
    ACTING = 7
    AGENT = 8  # the first weights of actor and critic
    BEHAVIOUR = 9  # what they imagine


def make_generator(seed: int, *, stream: int, device: torch.device | str = "cpu", rank: int = 0) -> torch.Generator:
    """A generator of its own for each consumer of randomness: streams of one seed are independent of each other.

    Args:
        seed: of the run.
        stream: who draws.
        device: where.
        rank: of the process, where several draw different numbers from the same stream.
    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: expected zero or more, got {seed}")
    word = np.random.SeedSequence([seed, stream, rank] if rank else [seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))
