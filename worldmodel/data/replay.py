"""The replay: rows on disk, and batches of sequences drawn from them.

Each environment writes its own stream, a ring of fixed-size records in one file that holds one episode after the other.
When a stream is full, its oldest episode is dropped (row by row if it is longer than half of the stream, so that a full
stream never falls below half). All streams together form one circle of rows, and a sequence is T consecutive rows of
it from a start drawn uniformly. Every stored row is therefore equally likely, also in short episodes and near the ends
of episodes: a sequence that runs past an episode continues with the next one, whose `is_first` resets the model.

Rows are not kept in memory; only one number for each episode is.

A process may be killed at any moment. When the replay is opened again, every row is there for which `append` had
returned; a row that was being written is dropped with a warning. Every record carries its number and a checksum, so
both ends of the ring are found without a second file that could disagree, and reading an altered row is an error. A
finished replay is sealed: its header then states how many rows it has and the checksum of every stream.
"""

import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.batches import pad_episodes
from worldmodel.data.header import HEADER, STREAMS, Contents, Header, found_rows, read_header, shares, write_header
from worldmodel.data.records import RESTORE, DamagedReplayError, RecordFile
from worldmodel.system.files import make_own_folder, refuse_link
from worldmodel.types import Batch, EnvSpec, Rows

CHUNK = 1024  # rows read at once when a whole stream is read
CHUNK_BYTES = 2**20  # bytes read at once, at most: statistics of pixels take eight times the memory of the pixels


class TornRowsWarning(UserWarning):
    """Rows at the end of a replay are torn or missing, as after a kill; the replay was opened without them."""


class Replay:
    """A bounded number of rows in a folder, the newest of every environment."""

    def __init__(self, folder: Path, spec: EnvSpec, *, capacity: int, streams: int) -> None:
        """Make a new, empty replay.

        Args:
            folder: is made, with its parents; must not hold a replay yet.
            spec: what a row holds.
            capacity: rows kept, over all streams.
            streams: how many environments write side by side.
        Raises:
            FileExistsError: if the folder holds a replay already.
            DamagedReplayError: if it holds rows without a header.
            ValueError: if the capacity is below one row for each stream, or the folder is a link.
        """
        if capacity < streams:
            raise ValueError(f"capacity: expected at least one row for each of {streams} streams, got {capacity}")
        if os.path.lexists(folder / HEADER):
            raise FileExistsError(f"{folder}: there is a replay here already")
        if found := found_rows(folder):
            raise DamagedReplayError(f"{folder}: expected no replay, found no {HEADER}{found}; {RESTORE}")
        make_own_folder(folder)
        for empty in folder.glob(STREAMS):  # left by an interruption in these lines
            empty.unlink()
        header = Header(spec, capacity, streams)
        self._open(folder, header, "x+b")
        write_header(folder, header)  # last, so that a header means that the replay is complete

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> "Replay":
        """Open a stored replay with all its rows; `read_only` needs no permission to write.

        Where several processes have shared a training, `read_only` opens the rows of all, see `join` and `shares`.

        A TornRowsWarning counts the rows at the end that are torn, or missing although later rows of other environments
        are there. A sealed replay must be complete.

        Raises:
            FileNotFoundError: if there is no replay, or one of its streams is missing.
            DamagedReplayError: if one of its files was cut or altered.
            ValueError: if its format is unknown, or it is a link and not opened read-only.
        """
        replay = cls._open_alone(folder, read_only)
        if read_only:
            try:
                replay.join(cls._open_alone(share, read_only) for share in shares(folder).values())
            except BaseException:
                replay.close()
                raise
        return replay

    @classmethod
    def _open_alone(cls, folder: Path, read_only: bool) -> "Replay":
        """One folder's rows, without those of other processes."""
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

    def join(self, others: Iterable["Replay"]) -> None:
        """Read the rows of other replays too, which are closed with this one; rows are appended to this one alone.

        Raises:
            ValueError: if one holds rows of another kind.
        """
        for other in others:
            self._joined.append(other)
            if other.spec != self.spec:
                raise ValueError(f"{other.folder}: expected rows as in {self.folder}, got others; restore its files")

    def _open(self, folder: Path, header: Header, mode: str) -> None:
        self.folder, self._header = folder, header
        self.row_type = header.row_type
        self._joined: list[Replay] = []
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
        """Whether it is finished: nothing can be appended, and a missing row is an error."""
        return self._header.contents is not None

    def __len__(self) -> int:
        """Rows stored."""
        return sum(len(stream) for stream in self._circle)

    @property
    def streams(self) -> int:
        """How many environments write side by side."""
        return len(self._streams)

    @property
    def rows_written(self) -> int:
        """Rows ever appended, including those that were dropped since."""
        return sum(stream.count for stream in self._circle)

    @property
    def _circle(self) -> list[RecordFile]:
        """The streams that are read, one after the other: its own, and those of the replays that joined it."""
        return [*self._streams, *(stream for other in self._joined for stream in other._streams)]

    def append(self, rows: Rows) -> None:
        """Store one row of each environment. Once this returns, the rows survive a kill of the process.

        A row that begins an episode ends the episode before it, which counts as truncated if it had not ended.

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
            records["before"] = sum(stream.count for stream in self._streams)
        for path, value in rows.obs.items():
            records[f"obs:{path}"] = value
        for name in Rows._fields[1:]:
            records[name] = getattr(rows, name)
        for stream, record in zip(self._streams, records, strict=True):
            stream.append(record)

    def sample(
        self, batch_size: int, length: int, generator: torch.Generator, *, burn_in: int = 0, restart: bool = False
    ) -> Batch:
        """Draw B sequences of T rows; every stored row is equally likely at every position.

        Args:
            batch_size, length: B and T.
            generator: source of the draws; the same state gives the same batch of the same replay.
            burn_in: how many of the first rows are not valid in a sequence that starts inside an episode.
            restart: treat a sequence that starts inside an episode as an episode that begins there: its first row
                becomes that of a reset, without an action or a reward.
        Raises:
            ValueError: if fewer than T rows are stored.
        """
        rows = len(self)
        if rows < length:
            raise ValueError(f"length: expected at most the {rows} rows stored, got {length}")
        starts = torch.randint(rows, (batch_size,), generator=generator).tolist()
        columns = {
            name: np.empty((batch_size, length, *self.row_type[name].shape), self.row_type[name].base)
            for name in self._columns
        }
        records = np.empty(length, self.row_type)  # of one sequence at a time
        cold = np.zeros((batch_size, length), bool)
        for b, start in enumerate(starts):
            self._read_circle(start, records, cold[b])
            if restart:
                _mark_beginning(records, cold[b])
                cold[b] = False
            for name, column in columns.items():
                column[b] = records[name]
        place = np.arange(length)
        last_cold = np.maximum.accumulate(np.where(cold, place, -1), axis=1)
        last_reset = np.maximum.accumulate(np.where(columns["is_first"] & ~cold, place, -1), axis=1)
        return self._batch(columns, valid=(last_reset > last_cold) | (place - last_cold >= burn_in))

    def episodes(self) -> Iterator[Batch]:
        """Every whole stored episode, from its reset to its last row, as a batch of one."""
        for stream, start, end in self._spans():
            records = stream.read(start, end - start)
            if records["is_last"][-1]:
                yield self._one_sequence(records)

    def beginnings(self) -> Iterator[tuple[Batch, int]]:
        """The first row of every whole stored episode, [1, 1], and the number of actions that follow it."""
        for stream, start, end in self._spans():
            if stream.read(end - 1, 1)["is_last"][0]:
                yield self._one_sequence(stream.read(start, 1)), end - start - 1

    def _spans(self) -> Iterator[tuple[RecordFile, int, int]]:
        """Where each stored episode begins and where the next one does, or the rows end."""
        for stream in self._circle:
            for start, end in pairwise([*stream.starts, stream.count]):
                yield stream, start, end

    def _one_sequence(self, records: np.ndarray) -> Batch:
        columns = {name: records[name][None].copy() for name in self._columns}
        return self._batch(columns, valid=np.ones((1, len(records)), bool))

    def statistics(self, total: Callable[[Tensor], Tensor] | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and std, float64, of every leaf of numbers or bits [n], image [H, W, C] in levels, and the reward [1].

        The reward's are over the rows that have one.

        Args:
            total: makes them those of the rows in all processes, of which it sums what each has.
        """
        measured = {path: leaf for path, leaf in self.spec.observations.items() if leaf.kind != "categorical"}
        names = {f"obs:{path}": path for path in measured}
        moments = {name: _Moments(self.row_type[name].shape or (1,)) for name in [*names, "reward"]}
        rows = max(1, min(CHUNK, CHUNK_BYTES // self.row_type.itemsize))
        for stream in self._circle:
            for start in range(stream.tail, stream.count, rows):
                records = stream.read(start, min(rows, stream.count - start))
                for name, moment in moments.items():
                    kept = records[~records["is_first"]] if name == "reward" else records
                    moment.add(kept[name])
        return {names.get(name, name): moment.mean_and_std(total) for name, moment in moments.items()}

    def seal(self) -> None:
        """Finish the replay: nothing can be appended any more, and opening it gives the same rows or an error."""
        self.flush()
        checksums = tuple(file_checksum(stream.path) for stream in self._streams)
        self._header = replace(self._header, contents=Contents(self.rows_written, checksums))
        write_header(self.folder, self._header)

    def distinct_rewards(self, most: int) -> Tensor | None:
        """The values that the reward takes, float32 [n] in rising order; None if there are more than `most`."""
        found = np.empty(0, np.float32)
        for stream in self._circle:
            for start in range(stream.tail, stream.count, CHUNK):
                records = stream.read(start, min(CHUNK, stream.count - start))
                found = np.union1d(found, records["reward"][~records["is_first"]])
                if len(found) > most:
                    return None
        return torch.from_numpy(found)

    def flush(self) -> None:
        """Wait until every row is on the disk itself."""
        for stream in self._streams:
            stream.flush()

    def close(self) -> None:
        """Close the files. The replay can be opened again."""
        for stream in self._circle:
            stream.close()

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_circle(self, start: int, records: np.ndarray, cold: np.ndarray) -> None:
        """Rows start, start + 1, ... of the circle; where one stream follows another, a new episode is marked.

        Args:
            records: [T] is filled with them.
            cold: [T] flags, set for the rows at which the state starts empty although the episode had begun earlier;
                after such a row, a burn-in warms the state up.
        """
        streams, done, index = self._circle, 0, 0
        while start >= len(streams[index]):
            start, index = start - len(streams[index]), index + 1
        while done < len(records):
            stream = streams[index]
            part = records[done : done + len(stream) - start]
            if len(part):
                stream.read_into(part, stream.tail + start)
                cold[done] = not part["is_first"][0]
                if done:
                    # The oldest row of this stream may lie inside an episode longer than the stream. It still begins an
                    # episode here, because the row before it belongs to another stream.
                    _mark_beginning(part, slice(1))
            done, start, index = done + len(part), 0, (index + 1) % len(streams)

    @cached_property
    def _columns(self) -> list[str]:
        """The fields of a record that a batch has."""
        return [*(f"obs:{path}" for path in self.spec.observations), *Rows._fields[1:]]

    def _batch(self, columns: dict[str, np.ndarray], valid: np.ndarray) -> Batch:
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        obs = {path: tensors.pop(f"obs:{path}") for path in self.spec.observations}
        return Batch(obs, **tensors, valid=torch.from_numpy(valid))


class _Moments:
    """Mean and variance, accumulated over pieces of the rows. Source: Chan et al. 1979, the pairwise update."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, x: np.ndarray) -> None:
        """Add some rows, [rows, n], or none."""
        if not len(x):
            return
        x = x.astype(np.float64).reshape(len(x), *self.mean.shape)
        total = self.count + len(x)
        delta = x.mean(0) - self.mean
        self.squares = self.squares + ((x - x.mean(0)) ** 2).sum(0) + delta**2 * self.count * len(x) / total
        self.mean = self.mean + delta * len(x) / total
        self.count = total

    def mean_and_std(self, total: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
        mean, squares, count = torch.from_numpy(self.mean), torch.from_numpy(self.squares), self.count
        if total is not None:
            own, count = mean, int(total(torch.tensor(count)))
            mean = total(self.count * own) / max(count, 1)
            squares = total(squares + self.count * (own - mean) ** 2)
        return mean, (squares / max(count, 1)).sqrt()


def file_checksum(path: Path) -> int:
    """CRC-32 of a file, which a process reads only once unless the file changes."""
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


def _mark_beginning(records: np.ndarray, where: np.ndarray | slice) -> None:
    """Turn each of some rows into the first row of an episode."""
    for name, value in (("is_first", True), ("episode_step", 0), ("prev_action", 0), ("reward", 0)):
        records[name][where] = value
