"""A ring of numbered records with checksums, in one file: the rows that a replay keeps of one environment.

Every record carries its number and a checksum, so both ends of the ring are found without a second file that could
disagree, and reading an altered record is an error.

The checksum does not cover one entry, `closed`, which is written later: if an episode begins although the record before
it does not say `is_last`, that record is closed, which marks its episode as truncated. Then `closed` turns from zero to
a seal, the checksum of the record's checksum. Anything else in it is an error, except a part of the seal in the newest
record, which was being closed when the process ended.
"""

import io
import os
import sys
import threading
import zlib
from collections import deque
from pathlib import Path

import numpy as np

from worldmodel.system.files import no_link, refuse_link

RESTORE = "restore it from a copy, or begin a new run"


class DamagedReplayError(ValueError):
    """A replay's file was cut or altered; the message says which, where, and what to do."""


class RecordFile:
    """A ring of rows in a file. Row i, counted from the first ever written, lies in slot i modulo capacity.

    When the ring is full its oldest episode is dropped, so that the ring still begins with a whole episode; if that
    episode takes up more than half of the ring, only its oldest row is dropped.
    """

    def __init__(self, path: Path, dtype: np.dtype, capacity: int, mode: str) -> None:
        """Open a file and find the rows in it.

        Args:
            path: the file, which mode "x+b" makes.
            dtype: of a record, which begins with check, closed and number; see `header.row_type`.
            capacity: rows kept.
            mode: "x+b" for a new file, "r+b" to append to an old one, "rb" to read.
        Raises:
            DamagedReplayError: if the file was cut or altered.
            FileExistsError: if a new file exists already.
            ValueError: if a file that is to be written is a link.
        """
        self.path, self.dtype, self.capacity = path, dtype, capacity
        self._covered: int = dtype.fields["number"][1]  # type: ignore[index]  # where the checked part begins
        self.tail = self.count = 0  # the rows [tail, count) are stored
        self.torn = 0  # rows that were dropped when the file was opened
        self.starts: deque[int] = deque()  # the stored rows that begin an episode
        self._begin = 0  # the row, stored or not, that begins the episode of the oldest stored row
        self.before = 0  # rows in all streams when the newest row was appended; formats before 3 do not say
        self._inside = False  # whether the newest row is not the last of its episode
        self._check = 0  # of the newest row
        self._closing: int | None = None  # the row that was being closed when the last process ended
        if mode != "rb":
            refuse_link(path)
        if mode != "x+b":
            self._recover()
        opener = None if mode == "rb" else no_link
        self._file = io.FileIO(path, mode, opener=opener)
        self._position = threading.Lock()  # one position in the file for all threads: see `read_ahead`

    def __len__(self) -> int:
        return self.count - self.tail

    def append(self, record: np.void) -> None:
        """Number and write one row, over the oldest if the ring is full; raises OSError if it cannot be written."""
        if self._closing is not None or (record["is_first"] and self._inside):
            seal = self._seal(self._check).to_bytes(self.dtype["closed"].itemsize, sys.byteorder)
            self._write(self.count - 1, seal, self.dtype.fields["closed"][1])  # type: ignore[index]
            self._closing = None
        if len(self) == self.capacity:
            self._drop_oldest()
        record["number"] = self.count + 1
        self._check = record["check"] = self._checksum(record.tobytes())
        self._write(self.count, record.tobytes())
        if record["is_first"]:
            self.starts.append(self.count)
        self._inside = not record["is_last"]
        self.count += 1

    def read(self, start: int, length: int) -> np.ndarray:
        """Read `length` stored rows from row `start` on; raises DamagedReplayError if one was altered."""
        records = np.empty(length, self.dtype)
        self.read_into(records, start)
        return records

    def read_into(self, records: np.ndarray, start: int) -> None:
        """The same, into memory that is there already: the rows from `start` on into all of `records`, contiguous.

        Rows are checked each time they are read. To remember that a row was sound would save 3 of the 7 microseconds of
        a 64 x 64 image, and miss whatever alters the file during a run, which reads a row many times in hours.
        """
        length = len(records)
        assert self.tail <= start <= start + length <= self.count, (self.tail, start, length, self.count)
        slot = start % self.capacity
        first = min(length, self.capacity - slot)
        self._fill(records[:first], slot)
        self._fill(records[first:], 0)
        expected = np.arange(start + 1, start + length + 1, dtype=np.uint64)
        content, size, covered = records.view(np.uint8).data, self.dtype.itemsize, self._covered
        checks = [zlib.crc32(content[i + covered : i + size]) for i in range(0, len(content), size)]
        sound = (records["number"] == expected) & (records["check"] == checks)
        closed = records["closed"].nonzero()[0]
        for i in closed:
            sound[i] &= start + i == self._closing or records["closed"][i] == self._seal(records["check"][i])
        if not sound.all():
            row = start + int(sound.argmin())
            raise DamagedReplayError(f"{self.path}: row {row} is not as it was written; {RESTORE}")
        if len(closed):
            records["is_last"][closed] = True

    def flush(self) -> None:
        """Wait until every row is on the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; nothing can be read or appended after that."""
        self._file.close()

    def _seal(self, check: int | np.integer) -> int:
        """The value of `closed` in a closed record, never zero; format 2 has the flag 1 there."""
        return zlib.crc32(int(check).to_bytes(4, "little")) or 1 if self.dtype["closed"].itemsize == 4 else 1

    def _checksum(self, record: bytes) -> int:
        return zlib.crc32(memoryview(record)[self._covered :])

    def _drop_oldest(self) -> None:
        """Make room for a row: drop the oldest episode, or only its oldest row if it takes up over half of the ring."""
        if self.starts and self.starts[0] == self.tail:
            self.starts.popleft()
        whole = self.starts and self.starts[0] - self._begin <= self.capacity // 2
        self.tail = self.starts[0] if whole else self.tail + 1
        if self.starts and self.starts[0] == self.tail:
            self._begin = self.tail

    def _write(self, row: int, content: bytes, offset: int = 0) -> None:
        data = memoryview(content)
        try:
            with self._position:
                self._file.seek(row % self.capacity * self.dtype.itemsize + offset)
                while data:
                    data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(f"{self.path}: a row could not be written ({error}); make room, then resume") from error

    def _fill(self, records: np.ndarray, slot: int) -> None:
        data = memoryview(records.view(np.uint8).data)
        with self._position:
            self._file.seek(slot * self.dtype.itemsize)
            while data:
                got = self._file.readinto(data)
                if not got:
                    raise DamagedReplayError(f"{self.path}: was cut while it was being read; {RESTORE}")
                data = data[got:]

    def _recover(self) -> None:
        """Find the stored rows of a file by the numbers and checksums of its records."""
        size = self.path.stat().st_size
        slots = size // self.dtype.itemsize
        self.torn = int(size % self.dtype.itemsize > 0)
        if size > self.capacity * self.dtype.itemsize:
            most = f"at most {self.capacity:,} rows of {self.dtype.itemsize:,} bytes"
            raise DamagedReplayError(f"{self.path}: expected {most}, found {size:,} bytes; {RESTORE}")
        if slots == 0:
            return
        stored = np.memmap(self.path, self.dtype, "r", shape=(slots,))
        numbers = np.array(stored["number"]).astype(np.int64)
        numbers[(numbers - 1) % self.capacity != np.arange(slots)] = 0

        def drop_if_torn(slot: int) -> bool:
            torn = not self._is_sound(stored[slot], newest=slot == int(numbers.argmax()))
            if torn:
                numbers[slot], self.torn = 0, self.torn + 1
            return torn

        while numbers.any() and drop_if_torn(int(numbers.argmax())):
            pass
        if slots == self.capacity and numbers[int(numbers.max()) % slots]:
            drop_if_torn(int(numbers.max()) % slots)  # the oldest row, which the next one overwrites
        self.count = int(numbers.max())
        oldest = self._oldest(numbers)
        rows = np.arange(oldest, self.count)
        if not len(rows):
            return
        slot = rows % self.capacity
        self.starts = deque(rows[stored["is_first"][slot]].tolist())
        self._begin = oldest - int(stored["episode_step"][oldest % self.capacity])
        newest = stored[slot[-1]]
        self._check = int(newest["check"])
        self._inside = not (newest["is_last"] or newest["closed"])
        if newest["closed"] not in (0, self._seal(self._check)):
            self._closing = self.count - 1
        self.before = int(newest["before"]) if "before" in self.dtype.fields else 0  # type: ignore[operator]
        self.tail = oldest
        if self._begin < oldest and self.starts and self.starts[0] - self._begin <= self.capacity // 2:
            self.tail = self._begin = self.starts[0]  # its first rows are overwritten: the episode had been dropped

    def _is_sound(self, record: np.void, *, newest: bool) -> bool:
        """Whether a record is intact; the newest one may hold a part of its seal, which was being written."""
        seal, closed = self._seal(record["check"]), record["closed"]
        pairs = zip(closed.tobytes(), seal.to_bytes(closed.itemsize, sys.byteorder), strict=True)
        marked = all(have in (0, byte) for have, byte in pairs) if newest else closed in (0, seal)
        return marked and bool(record["check"] == self._checksum(record.tobytes()))

    def _oldest(self, numbers: np.ndarray) -> int:
        """The oldest row of the ring. Only the slots after the newest row, which was being written, may be broken."""
        rows = np.arange(max(0, self.count - self.capacity), self.count)
        if self.count > len(numbers) and len(numbers) < self.capacity:
            missing = self.capacity - len(numbers)
            raise DamagedReplayError(
                f"{self.path}: expected {self.capacity} rows, since older ones were written over, and the file ends "
                f"after {len(numbers)}: {missing} are missing; {RESTORE}"
            )
        broken = np.flatnonzero(numbers[rows % self.capacity] != rows + 1)
        if not len(broken):
            return int(rows[0]) if len(rows) else 0
        self.torn = max(self.torn, 1)
        if broken[-1] >= self.torn:
            raise DamagedReplayError(f"{self.path}: row {rows[broken[-1]]} is not as it was written; {RESTORE}")
        return int(rows[broken[-1]]) + 1
