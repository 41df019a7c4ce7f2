"""What a process leaves behind when it is killed between any two bytes, and files that somebody else has changed."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from worldmodel.data.records import DamagedReplayError, RecordFile
from worldmodel.data.replay import Replay, TornRowsWarning, row_type
from worldmodel.data.rollout import Rows
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec

SPEC = EnvSpec({"at": ObservationSpec("vector", (1,))}, ActionSpec("continuous", 1))
DTYPE = row_type(SPEC)
CAPACITY = 7


def rows_of(number, is_first, is_last, step):
    """Row `number` of one environment: its observation is its number, its reward ten times that."""
    return Rows(
        obs={"at": np.array([[number]], np.float32)},
        prev_action=np.array([[0.0 if is_first else 0.5]], np.float32),
        reward=np.array([10.0 * number], np.float32),
        is_first=np.array([is_first]),
        is_last=np.array([is_last]),
        is_terminal=np.array([is_last]),
        episode_step=np.array([step], np.int32),
    )


def script(lengths, interrupted=()):
    """Episodes of these lengths, one row after the other; those in `interrupted` never say that they end."""
    number = 0
    for episode, length in enumerate(lengths):
        for t in range(length):
            last = t == length - 1 and episode not in interrupted
            yield rows_of(number, t == 0, last, t)
            number += 1


def stored(stream):
    """The numbers of the rows of a stream, after checking each against what was written."""
    records = stream.read(stream.tail, len(stream))
    numbers = records["obs:at"][:, 0].astype(int).tolist()
    assert records["reward"].tolist() == [10.0 * n for n in numbers]
    return numbers


def open_quietly(folder, **kwargs):
    """A replay opened again, and the rows it said it dropped."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replay = Replay.open(folder, **kwargs)
    texts = [str(w.message) for w in caught if w.category is TornRowsWarning]
    return replay, texts


@pytest.fixture
def journal(monkeypatch):
    """Every write that the streams make, as (byte it begins at, content)."""
    writes = []
    original = RecordFile._write

    def logged(self, row, content):
        writes.append((row % self.capacity * self.dtype.itemsize, bytes(content)))
        original(self, row, content)

    monkeypatch.setattr(RecordFile, "_write", logged)
    return writes


@pytest.mark.parametrize("lengths", [[3, 2, 4, 1, 5], [2, 12, 3], [20]], ids=str)
def test_a_process_killed_between_any_two_bytes_loses_no_row_that_was_acknowledged(tmp_path, journal, lengths):
    written = tmp_path / "written"
    replay = Replay(written, SPEC, capacity=CAPACITY, streams=1)
    states = [(0, [])]  # after each acknowledged row: writes so far, rows stored
    for rows in script(lengths, interrupted={1}):
        replay.append(rows)
        states.append((len(journal), stored(replay._streams[0])))
    replay.close()
    killed = tmp_path / "killed.rows"
    for (begin, before), (end, after) in pairwise(states):
        for write in range(begin, end):
            at, content = journal[write]
            for cut in range(len(content)):  # this many bytes of the write arrived
                image = image_of([*journal[:write], (at, content[:cut])])
                if image == image_of(journal[: write + 1]):
                    break  # the rest of the bytes were there already: the whole row is
                killed.write_bytes(image)
                stream = RecordFile(killed, DTYPE, CAPACITY, "rb")
                found = stored(stream)
                stream.close()
                assert found and found[-1] == before[-1] if before else not found
                assert set(before) & set(after) <= set(found)
                old = image_of(journal[:write])
                if at < len(old):
                    old[at] = image[at]  # `closed`, of a row that is about to go
                assert stream.torn == int(image != old)


def image_of(writes):
    """What is in a file after these writes."""
    image = bytearray()
    for start, part in writes:
        image[start : start + len(part)] = part
    return image


def test_what_comes_after_a_torn_row_takes_its_place_and_closes_the_interrupted_episode(tmp_path):
    replay = Replay(tmp_path, SPEC, capacity=100, streams=1)
    for rows in script([3, 4], interrupted={1}):
        replay.append(rows)
    replay.close()
    path = tmp_path / "stream-000.rows"
    path.write_bytes(path.read_bytes()[:-3])
    reopened, texts = open_quietly(tmp_path)
    assert "dropped 1 row(s)" in texts[0]
    assert (stored(reopened._streams[0]), reopened.rows_written) == ([0, 1, 2, 3, 4, 5], 6)
    assert [e.reward.shape[1] for e in reopened.episodes()] == [3]
    reopened.append(rows_of(6, True, False, 0))
    closed = list(reopened.episodes())[-1]
    assert closed.is_last.tolist() == [[False, False, True]]
    assert not closed.is_terminal.any()
    reopened.close()
    again, texts = open_quietly(tmp_path)
    assert (stored(again._streams[0]), texts) == ([0, 1, 2, 3, 4, 5, 6], [])
    again.close()


@pytest.mark.parametrize("rows", [5, 11], ids=["before the ring is full", "after"])
def test_an_altered_byte_is_an_error_that_names_the_row_when_it_is_read(tmp_path, rows):
    replay = Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1)
    for row in script([rows]):
        replay.append(row)
    replay.close()
    path = tmp_path / "stream-000.rows"
    sound = path.read_bytes()
    oldest = max(0, rows - CAPACITY)
    for slot in range(min(rows, CAPACITY)):
        row = slot if slot + CAPACITY >= rows else slot + CAPACITY
        if row in (rows - 1, oldest):
            continue  # the newest and the one it would take the place of: these may have been in the middle of a write
        for byte in range(1, DTYPE.itemsize):
            at = slot * DTYPE.itemsize + byte
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x40]) + sound[at + 1 :])
            with pytest.raises(DamagedReplayError, match=f"stream-000.rows: row {row} is not as it was written"):
                reopened, _ = open_quietly(tmp_path, read_only=True)
                with reopened:
                    stored(reopened._streams[0])


def test_a_file_that_was_cut_is_an_error_where_it_can_be_told(tmp_path):
    replay = Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1)
    for row in script([11]):
        replay.append(row)
    replay.close()
    path = tmp_path / "stream-000.rows"
    path.write_bytes(path.read_bytes()[: 3 * DTYPE.itemsize])  # the newest rows are in the first four slots
    with pytest.raises(DamagedReplayError, match="more rows than the file holds; restore it from a copy"):
        Replay.open(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 2, "capacity": 3, "streams": 1, "spec": {}}']
)
def test_a_damaged_header_is_an_error_that_says_what_to_do(tmp_path, text):
    Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1).close()
    (tmp_path / "replay.json").write_text(text)
    with pytest.raises(DamagedReplayError, match=r"replay.json: expected the header of a replay; restore it"):
        Replay.open(tmp_path)


def test_a_replay_whose_making_was_interrupted_is_made_again(tmp_path):
    Replay(tmp_path, SPEC, capacity=CAPACITY, streams=2).close()
    (tmp_path / "replay.json").unlink()  # it comes last
    with Replay(tmp_path, SPEC, capacity=CAPACITY, streams=2) as replay:
        assert len(replay) == 0
    with pytest.raises(FileExistsError, match="there is a replay here already"):
        Replay(tmp_path, SPEC, capacity=CAPACITY, streams=2)
