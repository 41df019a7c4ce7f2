"""Which of several processes this one is, by the environment variables that torchrun sets; imports nothing heavy."""

import os
from collections.abc import Mapping
from typing import NamedTuple

SET = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # by torchrun, among others; some clusters set the first two


class Launched(NamedTuple):
    """This process among those that were launched together."""

    rank: int = 0
    world: int = 1  # processes in all
    local: int = 0  # its number on this machine


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """What RANK, WORLD_SIZE and LOCAL_RANK say; a process of its own without them, or where nobody is to be met.

    Raises:
        ValueError: if one of them is no number, or RANK is not below WORLD_SIZE.
    """
    if not environment.keys() >= SET:
        return Launched()
    texts = [environment.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(text.isdecimal() for text in texts) or int(texts[0]) >= int(texts[1]):
        raise ValueError(
            f"RANK, WORLD_SIZE, LOCAL_RANK: expected numbers as torchrun sets them, got {', '.join(texts)}"
        )
    return Launched(*map(int, texts))


def of_rank() -> str:
    """What a sentence of this process begins with, if it is not the first of several: `rank 3: `."""
    rank = rank_in_words()
    return f"rank {rank}: " if rank != "0" else ""


def rank_in_words() -> str:
    """This process's rank as it was given, whatever it is: for sentences about it."""
    return os.environ.get("RANK", "0") if os.environ.keys() >= SET else "0"
