"""Rows on disk, and batches of sequences drawn from them.

Each environment writes a stream of its own: a ring of fixed-size records in one file, whole episodes one after the
other. When a stream is full its oldest episode goes (row by row if it takes up over half of the stream, so that a full
stream never falls below half). All rows of all streams lie on one circle, stream after stream; a
sequence is T neighbours on it, from a start drawn uniformly. So every stored row is equally likely, those of short
episodes and those at the ends included: a sequence that runs past an episode goes on with the next one, whose
`is_first` tells the model to begin again.

Rows never stay in memory: what does is one number an episode.

A process may be killed at any moment. Every row that `append` has returned from is there when the replay is opened
again; a row that was being written is dropped with a warning. Every record carries its number and a checksum, so head
and tail are found again without a file that could disagree, and an altered row is an error when it is read. A replay
that is finished is sealed: how many rows it has, and a checksum of them, are in its header from then on.
"""

import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.batches import pad_episodes
from worldmodel.data.header import HEADER, STREAMS, Contents, Header, found_rows, read_header, write_header
from worldmodel.data.records import RESTORE, DamagedReplayError, RecordFile
from worldmodel.system.files import make_own_folder, refuse_link
from worldmodel.types import Batch, EnvSpec, Rows

CHUNK = 1024  # rows read at once where a whole stream is walked through
CHUNK_BYTES = 2**20  # and at most so many, since pixels take eight times their room where they are averaged


class TornRowsWarning(UserWarning):
    """Rows at the end of a replay are torn or missing, as after a process was killed, and it goes on without them."""


class Replay:
    """A bounded number of rows in a folder."""

    def __init__(self, folder: Path, spec: EnvSpec, *, capacity: int, streams: int) -> None:
        """Make a new, empty replay.

        Args:
            folder: made, with its parents; must not hold a replay yet.
            spec: what a row holds.
            capacity: rows kept, over all streams.
            streams: environments that write side by side.
        Raises:
            FileExistsError: if there is a replay in the folder already.
            DamagedReplayError: if there are rows without a header.
            ValueError: if the capacity leaves a stream without a row, or the folder is a link.
        """
        if capacity < streams:
            raise ValueError(f"capacity: expected at least one row for each of {streams} streams, got {capacity}")
        if os.path.lexists(folder / HEADER):
            raise FileExistsError(f"{folder}: there is a replay here already")
        if found := found_rows(folder):
            raise DamagedReplayError(f"{folder}: expected no replay, found no {HEADER}{found}; {RESTORE}")
        make_own_folder(folder)
        for empty in folder.glob(STREAMS):  # of a replay whose making was interrupted
            empty.unlink()
        header = Header(spec, capacity, streams)
        self._open(folder, header, "x+b")
        write_header(folder, header)  # last: where there is one, there is a whole replay

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> "Replay":
        """Open a stored replay, with every row that was in it; `read_only` needs no right to write.

        Rows at its end that are torn, or missing although later ones of other environments are there, are counted in a
        TornRowsWarning. A sealed replay must be whole.

        Raises:
            FileNotFoundError: if there is none, or a stream of it is missing.
            DamagedReplayError: if a file of it was cut or altered.
            ValueError: if it was written in another format, or is to be written in and is a link.
        """
        header = read_header(folder)
        if not read_only:
            refuse_link(folder)
        replay = cls.__new__(cls)
        replay._open(folder, header, "rb" if read_only else "r+b")
        if header.contents is not None:
            try:
                replay._check_contents(header.contents)
            except DamagedReplayError:
                replay.close()
                raise
        else:
            replay._warn_of_torn_rows()
        return replay

    def _open(self, folder: Path, header: Header, mode: str) -> None:
        self.folder, self._header = folder, header
        self.row_type = header.row_type
        share = header.capacity // header.streams
        self._streams: list[RecordFile] = []
        try:
            for i in range(header.streams):
                path = folder / f"stream-{i:03d}.rows"
                if mode != "x+b" and not path.is_file():
                    words = f"the rows of {header.streams} environments, found no {path.name}"
                    raise FileNotFoundError(f"{folder}: expected {words}; {RESTORE}")
                self._streams.append(RecordFile(path, self.row_type, share, mode))
        except BaseException:
            self.close()
            raise

    def _check_contents(self, contents: Contents) -> None:
        if self.rows_written != contents.rows:
            raise DamagedReplayError(
                f"{self.folder}: expected the {contents.rows} rows that it was finished with, found "
                f"{self.rows_written}: {contents.rows - self.rows_written} are missing; {RESTORE}"
            )
        for stream, expected in zip(self._streams, contents.checksums, strict=True):
            if stream.torn or file_checksum(stream.path) != expected:
                raise DamagedReplayError(f"{stream.path}: its rows are not as they were written; {RESTORE}")

    def _warn_of_torn_rows(self) -> None:
        torn = sum(stream.torn for stream in self._streams)
        missing = max(stream.before for stream in self._streams) - self.rows_written
        if missing > torn:
            text = f"{missing} row(s) at the end are missing: a file was cut, or not yet on the disk when power failed"
        elif torn:
            text = f"dropped {torn} row(s) that were being written when the last process ended"
        else:
            return
        warnings.warn(f"{self.folder}: {text}", TornRowsWarning, stacklevel=3)

    @property
    def spec(self) -> EnvSpec:
        """What a row holds."""
        return self._header.spec

    @property
    def capacity(self) -> int:
        """Rows kept, over all streams."""
        return self._header.capacity

    @property
    def sealed(self) -> bool:
        """Whether it is finished: nothing may be appended, and a row that is missing is an error."""
        return self._header.contents is not None

    def __len__(self) -> int:
        """Rows stored."""
        return sum(len(stream) for stream in self._streams)

    @property
    def streams(self) -> int:
        """Environments that write side by side."""
        return len(self._streams)

    @property
    def rows_written(self) -> int:
        """Rows ever appended, those that have been overwritten included."""
        return sum(stream.count for stream in self._streams)

    def append(self, rows: Rows) -> None:
        """Store one row of each environment. Once this returns, the rows survive the death of the process.

        A row that begins an episode ends the one before it: where that was interrupted, it counts as truncated.

        Raises:
            ValueError: if there are not as many rows as streams, or the replay is sealed.
            OSError: if the disk is full.
        """
        if self.sealed:
            raise ValueError(f"{self.folder}: expected a replay that is not finished, to append to; it was sealed")
        if len(rows.reward) != len(self._streams):
            raise ValueError(f"rows: expected one for each of {len(self._streams)} streams, got {len(rows.reward)}")
        records = np.zeros(len(self._streams), self.row_type)
        if self._header.format > 2:
            records["before"] = self.rows_written
        for path, value in rows.obs.items():
            records[f"obs:{path}"] = value
        for name in Rows._fields[1:]:
            records[name] = getattr(rows, name)
        for stream, record in zip(self._streams, records, strict=True):
            stream.append(record)

    def sample(
        self, batch_size: int, length: int, generator: torch.Generator, *, burn_in: int = 0, restart: bool = False
    ) -> Batch:
        """Draw B sequences of T rows; every stored row is equally likely to be at every place.

        Args:
            batch_size, length: B and T.
            generator: decides which; the same state gives the same batch of the same replay.
            burn_in: rows at the start of a sequence that starts inside an episode which do not count as valid.
            restart: take a sequence that starts inside an episode for an episode that begins there: its first row is a
                reset's, without an action or a reward.
        Raises:
            ValueError: if fewer than T rows are stored.
        """
        rows = len(self)
        if rows < length:
            raise ValueError(f"length: expected at most the {rows} rows stored, got {length}")
        starts = torch.randint(rows, (batch_size,), generator=generator).tolist()
        sequences, colds = zip(*(self._read_circle(start, length) for start in starts), strict=True)
        records, place = np.stack(sequences), np.arange(length)  # [B, T]
        cold = np.stack(colds)  # [B, T] where the state begins from nothing inside an episode
        if restart:
            records[cold] = _marked_beginning(records[cold])
            cold = np.zeros_like(cold)
        last_cold = np.maximum.accumulate(np.where(cold, place, -1), axis=1)
        last_reset = np.maximum.accumulate(np.where(records["is_first"] & ~cold, place, -1), axis=1)
        return self._batch(records, valid=(last_reset > last_cold) | (place - last_cold >= burn_in))

    def episodes(self) -> Iterator[Batch]:
        """Every whole stored episode, from its reset to its last row, as a batch of one."""
        for stream in self._streams:
            starts = [*stream.starts, stream.count]
            for start, end in pairwise(starts):
                records = stream.read(start, end - start)
                if records["is_last"][-1]:
                    yield self._batch(records[None], valid=np.ones((1, end - start), bool))

    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and std, float64, of every leaf of numbers [n], image [H, W, C] in levels, and the reward [1].

        The reward's are over the rows that have one.
        """
        measured = {
            path: leaf for path, leaf in self.spec.observations.items() if leaf.is_numeric or leaf.kind == "image"
        }
        names = {f"obs:{path}": path for path in measured}
        moments = {name: _Moments(self.row_type[name].shape or (1,)) for name in [*names, "reward"]}
        rows = max(1, min(CHUNK, CHUNK_BYTES // self.row_type.itemsize))
        for stream in self._streams:
            for start in range(stream.tail, stream.count, rows):
                records = stream.read(start, min(rows, stream.count - start))
                for name, moment in moments.items():
                    kept = records[~records["is_first"]] if name == "reward" else records
                    moment.add(kept[name])
        return {names.get(name, name): moment.mean_and_std() for name, moment in moments.items()}

    def seal(self) -> None:
        """Finish the replay: nothing is appended from now on, and whoever opens it finds the same rows or an error."""
        self.flush()
        checksums = tuple(file_checksum(stream.path) for stream in self._streams)
        self._header = replace(self._header, contents=Contents(self.rows_written, checksums))
        write_header(self.folder, self._header)

    def distinct_rewards(self, most: int) -> Tensor | None:
        """The values that the reward takes, float32 [n] in rising order; None where they are more than `most`."""
        found = np.empty(0, np.float32)
        for stream in self._streams:
            for start in range(stream.tail, stream.count, CHUNK):
                records = stream.read(start, min(CHUNK, stream.count - start))
                found = np.union1d(found, records["reward"][~records["is_first"]])
                if len(found) > most:
                    return None
        return torch.from_numpy(found)

    def flush(self) -> None:
        """Return when every row is on the disk itself."""
        for stream in self._streams:
            stream.flush()

    def close(self) -> None:
        """Release the files. The replay can be opened again."""
        for stream in self._streams:
            stream.close()

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_circle(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows start, start + 1, ... of the circle, with a beginning marked wherever one stream follows another.

        Beside them, [T], the rows before which nothing is known although their episode had begun: these want a burn-in.
        """
        parts: list[np.ndarray] = []
        cold = np.zeros(length, bool)
        needed, index = length, 0
        while start >= len(self._streams[index]):
            start, index = start - len(self._streams[index]), index + 1
        while needed:
            stream = self._streams[index]
            part = stream.read(stream.tail + start, min(needed, len(stream) - start))
            cold[length - needed] = not part["is_first"][0]
            if parts:
                # The oldest row may lie inside an episode that outgrew its whole stream: a row that follows another
                # stream's is a beginning even then.
                part[:1] = _marked_beginning(part[:1])
            parts.append(part)
            needed, start, index = needed - len(part), 0, (index + 1) % len(self._streams)
        return np.concatenate(parts), cold

    def _batch(self, records: np.ndarray, valid: np.ndarray) -> Batch:
        def tensor(name: str) -> Tensor:
            return torch.from_numpy(records[name].copy())

        return Batch(
            obs={path: tensor(f"obs:{path}") for path in self.spec.observations},
            **{name: tensor(name) for name in Rows._fields[1:]},
            valid=torch.from_numpy(valid),
        )


class _Moments:
    """Mean and variance of rows that come in pieces. Source: Chan et al. 1979, the pairwise update."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, x: np.ndarray) -> None:
        """Take in some more rows, [rows, n], or none."""
        if not len(x):
            return
        x = x.astype(np.float64).reshape(len(x), *self.mean.shape)
        total = self.count + len(x)
        delta = x.mean(0) - self.mean
        self.squares = self.squares + ((x - x.mean(0)) ** 2).sum(0) + delta**2 * self.count * len(x) / total
        self.mean = self.mean + delta * len(x) / total
        self.count = total

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.mean), torch.from_numpy(np.sqrt(self.squares / max(self.count, 1)))


def file_checksum(path: Path) -> int:
    """CRC-32 of a file; read once a process, unless the file changes."""
    about = path.stat()
    return _file_checksum(path.absolute(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_checksum(path: Path, size: int, changed: int) -> int:
    check = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            check = zlib.crc32(piece, check)
    return check


def read_episodes(folder: Path, max_length: int) -> Batch:
    """Every whole episode of a stored replay, padded; see `pad_episodes`. Raises ValueError if there is none."""
    with Replay.open(folder, read_only=True) as replay:
        episodes = list(replay.episodes())
    if not episodes:
        raise ValueError(f"{folder}: expected at least one whole episode, found none")
    return pad_episodes(episodes, max_length)


def _marked_beginning(records: np.ndarray) -> np.ndarray:
    """Rows as they would be if each of them came after a reset."""
    records["is_first"], records["episode_step"], records["prev_action"], records["reward"] = True, 0, 0, 0
    return records
