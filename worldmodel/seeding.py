"""Random generators: one seed for a run, and a stream of its own for everything in it that is random."""

import numpy as np
import torch


def make_generator(seed: int, *, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each consumer of randomness: streams of one seed are independent of each other."""
    word = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))
