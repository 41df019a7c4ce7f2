"""How many updates the collected steps pay for; the one rule that settings, training and reports share."""

import math


def updates_paid(env_steps: float, *, prefill: float, train_ratio: float, batch_size: int, sequence_length: int) -> int:
    """How many updates the steps collected after the prefill pay for.

    Each of these steps pays for `train_ratio` replayed rows, and an update replays batch_size * sequence_length rows.
    """
    return int((env_steps - prefill) * train_ratio / (batch_size * sequence_length))


def fewest_env_steps(*, prefill: int, train_ratio: float, batch_size: int, sequence_length: int) -> int:
    """The fewest steps, including the prefill, that pay for one update."""
    return prefill + math.ceil(batch_size * sequence_length / train_ratio)
