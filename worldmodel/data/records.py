"""A ring of numbered, checked records in a file: what a replay keeps of one environment.

Every record carries its number and a checksum, so head and tail are found again without a second file that could
disagree, and an altered record is an error when it is read.
"""

import io
import os
import zlib
from collections import deque
from pathlib import Path

import numpy as np

RESTORE = "restore it from a copy, or begin a new run"
UNCHECKED = (
    5  # bytes at the start of a record that its checksum leaves out: is_last, which may be set later, and itself
)


class DamagedReplayError(ValueError):
    """A replay's file is not as it was written; the message says which, where, and what to do."""


class RecordFile:
    """A ring of rows in a file. Row i, counted from the first ever written, lies in slot i modulo capacity.

    What begins with a whole episode stays that way: when the ring is full its oldest episode goes, or only its oldest
    row where that episode takes up more than half of the ring.
    """

    def __init__(self, path: Path, dtype: np.dtype, capacity: int, mode: str) -> None:
        """Open a file, finding the rows in it.

        Args:
            path: the file; made, or emptied, by mode "w+b".
            dtype: of a record, beginning with closed, check and number; see `replay.row_type`.
            capacity: rows kept.
            mode: "w+b" for a new file, "r+b" to go on, "rb" to read.
        Raises:
            DamagedReplayError: if it was cut or altered.
        """
        self.path, self.dtype, self.capacity = path, dtype, capacity
        self.tail = self.count = 0  # the rows [tail, count) are stored
        self.torn = 0  # rows that were dropped when the file was opened
        self.starts: deque[int] = deque()  # the stored rows that begin an episode
        self._begin = 0  # the row, stored or not, that begins the episode of the oldest stored row
        self._inside = False  # whether the newest row is not the last of its episode
        if mode != "w+b":
            self._recover()
        self._file: io.FileIO = path.open(mode, buffering=0)  # type: ignore[assignment]

    def __len__(self) -> int:
        return self.count - self.tail

    def append(self, record: np.void) -> None:
        """Write one row, numbered, over the oldest if the ring is full; raises OSError if it cannot be written."""
        if record["is_first"] and self._inside:
            self._write(self.count - 1, b"\x01")  # closed, the first byte: written whole or not at all
        if len(self) == self.capacity:
            self._drop_oldest()
        record["number"] = self.count + 1
        record["check"] = _checksum(record.tobytes())
        self._write(self.count, record.tobytes())
        if record["is_first"]:
            self.starts.append(self.count)
        self._inside = not record["is_last"]
        self.count += 1

    def read(self, start: int, length: int) -> np.ndarray:
        """Rows start to start + length, which must be stored; raises DamagedReplayError if one was altered."""
        assert self.tail <= start <= start + length <= self.count, (self.tail, start, length, self.count)
        records = np.empty(length, self.dtype)
        slot = start % self.capacity
        first = min(length, self.capacity - slot)
        self._read_into(records[:first], slot)
        self._read_into(records[first:], 0)
        expected = np.arange(start + 1, start + length + 1, dtype=np.uint64)
        content, size = records.view(np.uint8).data, self.dtype.itemsize
        checks = [zlib.crc32(content[i + UNCHECKED : i + size]) for i in range(0, len(content), size)]
        sound = (records["number"] == expected) & (records["check"] == checks)
        if not sound.all():
            row = start + int(sound.argmin())
            raise DamagedReplayError(f"{self.path}: row {row} is not as it was written; {RESTORE}")
        records["is_last"] |= records["closed"]
        return records

    def flush(self) -> None:
        """Return when every row is on the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _drop_oldest(self) -> None:
        """Make room for a row: drop the oldest episode, or only its oldest row if it takes up over half the stream."""
        if self.starts and self.starts[0] == self.tail:
            self.starts.popleft()
        whole = self.starts and self.starts[0] - self._begin <= self.capacity // 2
        self.tail = self.starts[0] if whole else self.tail + 1
        if self.starts and self.starts[0] == self.tail:
            self._begin = self.tail

    def _write(self, row: int, content: bytes) -> None:
        data = memoryview(content)
        try:
            self._file.seek(row % self.capacity * self.dtype.itemsize)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(f"{self.path}: a row could not be written ({error}); make room, then resume") from error

    def _read_into(self, records: np.ndarray, slot: int) -> None:
        self._file.seek(slot * self.dtype.itemsize)
        data = memoryview(records.view(np.uint8).data)
        while data:
            got = self._file.readinto(data)
            if not got:
                raise DamagedReplayError(f"{self.path}: expected more rows than the file holds; {RESTORE}")
            data = data[got:]

    def _recover(self) -> None:
        """Find the stored rows of an existing file from the numbers and checksums that its records carry."""
        size = self.path.stat().st_size
        slots = size // self.dtype.itemsize
        self.torn = int(size % self.dtype.itemsize > 0)
        if slots == 0:
            return
        stored = np.memmap(self.path, self.dtype, "r", shape=(slots,))
        numbers = np.array(stored["number"]).astype(np.int64)
        numbers[(numbers - 1) % self.capacity != np.arange(slots)] = 0

        def drop_if_torn(slot: int) -> bool:
            torn = stored[slot]["check"] != _checksum(stored[slot].tobytes())
            if torn:
                numbers[slot], self.torn = 0, self.torn + 1
            return bool(torn)

        while numbers.any() and drop_if_torn(int(numbers.argmax())):
            pass
        if slots == self.capacity and numbers[int(numbers.max()) % slots]:
            drop_if_torn(int(numbers.max()) % slots)  # the oldest row, which the next takes the place of
        self.count = int(numbers.max())
        oldest = self._oldest(numbers)
        rows = np.arange(oldest, self.count)
        if not len(rows):
            return
        slot = rows % self.capacity
        self.starts = deque(rows[stored["is_first"][slot]].tolist())
        self._begin = oldest - int(stored["episode_step"][oldest % self.capacity])
        self._inside = not (stored["is_last"] | stored["closed"])[slot[-1]]
        self.tail = oldest
        if self._begin < oldest and self.starts and self.starts[0] - self._begin <= self.capacity // 2:
            self.tail = self._begin = self.starts[0]  # its first rows are overwritten, so it had been dropped whole

    def _oldest(self, numbers: np.ndarray) -> int:
        """The oldest row of the ring, where only rows right after the newest, being written, may be broken."""
        rows = np.arange(max(0, self.count - self.capacity), self.count)
        if self.count > len(numbers) and len(numbers) < self.capacity:
            raise DamagedReplayError(f"{self.path}: expected more rows than the file holds; {RESTORE}")
        broken = np.flatnonzero(numbers[rows % self.capacity] != rows + 1)
        if not len(broken):
            return int(rows[0]) if len(rows) else 0
        self.torn = max(self.torn, 1)
        if broken[-1] >= self.torn:
            raise DamagedReplayError(f"{self.path}: row {rows[broken[-1]]} is not as it was written; {RESTORE}")
        return int(rows[broken[-1]]) + 1


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(record: bytes) -> int:
    return zlib.crc32(memoryview(record)[UNCHECKED:])
