"""How many updates collected steps pay for: the one rule for it, which settings, training and reports share."""

import math


def updates_paid(env_steps: float, *, prefill: float, train_ratio: float, batch_size: int, sequence_length: int) -> int:
    """Updates that the steps collected after the prefill pay for.

    Each of these steps pays for `train_ratio` replayed rows, and an update replays batch_size * sequence_length rows.
    """
    return int((env_steps - prefill) * train_ratio / (batch_size * sequence_length))


def fewest_env_steps(*, prefill: int, train_ratio: float, batch_size: int, sequence_length: int) -> int:
    """The fewest steps that pay for one update, the prefill included."""
    return prefill + math.ceil(batch_size * sequence_length / train_ratio)
