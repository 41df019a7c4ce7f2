"""Random generators: a run has one seed, and everything random in it draws from a stream of its own."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The consumers of random numbers. Each has its own stream, so that a new one does not change the others' draws."""

    POLICY = 0
    SAMPLING = 1
    LATENTS = 2
    HELDOUT = 3
    IMAGINATION = 4
    EVIDENCE = 5
    STARTS = 6  # of the episodes that a trained policy is evaluated on
    ACTING = 7
    AGENT = 8  # the first weights of actor and critic
    BEHAVIOUR = 9  # what they imagine
    CHOOSING = 10  # starts of the episodes by which training chooses its best weights
    REST = 11  # the first weights of a world model beside parts of one's own
    AUXILIARY = 12  # the first weights of auxiliary losses


def restore_generator(generator: torch.Generator, state: torch.Tensor) -> bool:
    """Draw on from a generator's stored state: -> whether it could.

    It cannot where the state is of another kind of device, whose algorithm is another one: drawing then goes on from
    where the generator is.
    """
    if len(state) != len(generator.get_state()):
        return False
    generator.set_state(state.cpu())
    return True


def make_generator(seed: int, *, stream: int, device: torch.device | str = "cpu", rank: int = 0) -> torch.Generator:
    """A generator for one consumer of random numbers; the streams of one seed are independent of each other.

    Args:
        seed: of the run.
        stream: the consumer, a `Stream`.
        device: the generator's.
        rank: of the process, if several processes draw different numbers from the same stream.
    Raises:
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: expected zero or more, got {seed}")
    word = np.random.SeedSequence([seed, stream, rank] if rank else [seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))
