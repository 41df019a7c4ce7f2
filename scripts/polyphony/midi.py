"""Piano rolls as MIDI files to listen to, and as a film strip.

A MIDI file of format 0 is one track of events, each after a time in ticks since the one before, in the variable-length
numbers of the format. A note that sounds on is not struck again.
Source: MIDI Manufacturers Association, Standard MIDI Files 1.0 (RP-001).
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scripts.polyphony.rolls import LOWEST, Roll

TICKS = 96  # a step, one quarter note
TEMPO = 90  # quarter notes a minute
LOUDNESS = 72  # of 127
ON, OFF, INSTRUMENT, META = 0x90, 0x80, 0xC0, 0xFF


def write_midi(path: Path, roll: Roll, instrument: int = 19) -> None:
    """Write one piece.

    Args:
        path: of the file.
        roll: [T, 88] which notes sound.
        instrument: of General MIDI, from 0; 19 is a church organ.
    """
    tempo = round(60e6 / TEMPO).to_bytes(3)
    events = [bytes([0, META, 0x51, 3]) + tempo, bytes([0, INSTRUMENT, instrument])]
    now = 0
    for step, message in _messages(roll):
        events.append(_variable_length((step - now) * TICKS) + message)
        now = step
    track = b"".join(events) + bytes([0, META, 0x2F, 0])
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
    path.write_bytes(header + b"MTrk" + struct.pack(">I", len(track)) + track)


def _messages(roll: Roll) -> Iterator[tuple[int, bytes]]:
    """The steps at which notes end and begin, and the message for each; ends come first."""
    silence = np.zeros((1, roll.shape[1]), np.int8)
    change = np.diff(np.concatenate([silence, roll.astype(np.int8), silence]), axis=0)
    for step in range(len(change)):
        for note in np.flatnonzero(change[step] < 0):
            yield step, bytes([OFF, LOWEST + int(note), 0])
        for note in np.flatnonzero(change[step] > 0):
            yield step, bytes([ON, LOWEST + int(note), LOUDNESS])


def _variable_length(number: int) -> bytes:
    """Seven bits a byte, the highest first; all bytes but the last have their top bit set."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(groups[::-1])


def draw_strip(path: Path, rows: Mapping[str, Roll], steps: int = 96) -> None:
    """Draw rolls one above the other, the first steps of each, over the notes that any of them uses."""
    used = np.flatnonzero(np.concatenate(list(rows.values())).any(0))
    low, high = max(0, used.min() - 2), used.max() + 3
    drawing = Figure(figsize=(9, 1.25 * len(rows)), layout="constrained")
    axes = drawing.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (words, roll) in zip(axes, rows.items(), strict=True):
        ax.imshow(
            roll[:steps, low:high].T, origin="lower", aspect="auto", cmap="Greys", interpolation="nearest",
            extent=(0, min(steps, len(roll)), LOWEST + low - 0.5, LOWEST + high - 0.5),
        )  # fmt: skip
        ax.set_title(words, fontsize=9, loc="left", pad=2)
        ax.set_xlim(0, steps)
        ax.set_yticks([48, 60, 72, 84])
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("quarter notes", fontsize=8)
    drawing.savefig(path, dpi=100)
