"""What a process leaves behind when it is killed between any two bytes, and files that somebody else has changed."""

import json
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from worldmodel.data.header import row_type
from worldmodel.data.records import DamagedReplayError, RecordFile
from worldmodel.data.replay import Replay, TornRowsWarning
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, Rows

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

    def logged(self, row, content, offset=0):
        writes.append((row % self.capacity * self.dtype.itemsize + offset, bytes(content)))
        original(self, row, content, offset)

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
                row = image != image_of(journal[:write]) and len(content) == DTYPE.itemsize
                assert stream.torn == int(row)  # and where an episode was being closed, none is


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
        for byte in range(DTYPE.itemsize):
            at = slot * DTYPE.itemsize + byte
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x40]) + sound[at + 1 :])
            with pytest.raises(DamagedReplayError, match=f"stream-000.rows: row {row} is not as it was written"):
                reopened, _ = open_quietly(tmp_path, read_only=True)
                with reopened:
                    stored(reopened._streams[0])


def test_a_row_is_checked_each_time_it_is_read(tmp_path):
    with Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1) as replay:
        for row in script([5]):
            replay.append(row)
        assert stored(replay._streams[0]) == [0, 1, 2, 3, 4]
        with (tmp_path / "stream-000.rows").open("r+b") as file:
            file.seek(3 * DTYPE.itemsize - 1)
            file.write(b"\1")
        with pytest.raises(DamagedReplayError, match=r"stream-000.rows: row 2 is not as it was written"):
            stored(replay._streams[0])


class SlowToSeek:
    """A file that lets other threads run after it has gone to a place in it."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def seek(self, place):
        self.file.seek(place)
        time.sleep(0.001)


def test_two_threads_read_and_a_third_appends_side_by_side(tmp_path):
    with Replay(tmp_path, SPEC, capacity=100, streams=1) as replay:
        rows = list(script([60]))
        for row in rows[:20]:
            replay.append(row)
        stream = replay._streams[0]
        stream._file = SlowToSeek(stream._file)
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(stream.read, start % 20, 1) for start in range(80)]
            for row in rows[20:]:
                replay.append(row)
        assert [one.result()["obs:at"].item() for one in read] == [start % 20 for start in range(80)]
        assert stored(stream) == list(range(60))


def test_a_file_that_was_cut_is_an_error_where_it_can_be_told(tmp_path):
    replay = Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1)
    for row in script([11]):
        replay.append(row)
    replay.close()
    path = tmp_path / "stream-000.rows"
    path.write_bytes(path.read_bytes()[: 3 * DTYPE.itemsize])  # the newest rows are in the first four slots
    with pytest.raises(
        DamagedReplayError, match=r"expected 7 rows, since .* the file ends after 3: 4 are missing; restore it"
    ):
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


def sealed_replay(folder, streams=1):
    """A finished replay of seven rows a stream."""
    with Replay(folder, SPEC, capacity=7 * streams, streams=streams) as replay:
        for row in script([3, 4]):
            replay.append(
                Rows({"at": np.repeat(row.obs["at"], streams, 0)}, *(np.repeat(x, streams, 0) for x in row[1:]))
            )
        replay.seal()
    return folder / "stream-000.rows"


@pytest.mark.parametrize(
    "cut", [1, DTYPE.itemsize, 2 * DTYPE.itemsize + 5, 7 * DTYPE.itemsize], ids=lambda n: f"{n} bytes"
)
def test_a_finished_replay_that_was_shortened_is_an_error_that_counts_what_is_missing(tmp_path, cut):
    path = sealed_replay(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    missing = -(-cut // DTYPE.itemsize)
    words = rf"expected the 7 rows that it was finished with, found {7 - missing}: {missing} are missing; restore it"
    with pytest.raises(DamagedReplayError, match=words):
        Replay.open(tmp_path, read_only=True)


def test_every_bit_of_a_finished_replay_counts_and_nothing_is_added_to_it(tmp_path):
    path = sealed_replay(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedReplayError):
            Replay.open(tmp_path, read_only=True)
    path.write_bytes(whole)
    with Replay.open(tmp_path) as replay:
        assert replay.sealed and stored(replay._streams[0]) == list(range(7))
        with pytest.raises(ValueError, match="it was sealed"):
            replay.append(next(script([1])))
    assert path.read_bytes() == whole


def test_no_byte_of_a_record_can_close_it_by_itself(tmp_path):
    """An episode's end inside an episode: every value of every byte of `closed` of an inner row is an error."""
    with Replay(tmp_path, SPEC, capacity=CAPACITY, streams=1) as replay:
        for row in script([2, 3], interrupted={0}):
            replay.append(row)
        assert stored(replay._streams[0]) == list(range(5))
    path = tmp_path / "stream-000.rows"
    sound = path.read_bytes()
    for row in (1, 2):  # closed, and not closed
        for byte in range(4):
            at = row * DTYPE.itemsize + DTYPE.fields["closed"][1] + byte
            for value in range(256):
                path.write_bytes(sound[:at] + bytes([value]) + sound[at + 1 :])
                with Replay.open(tmp_path, read_only=True) as reopened:
                    if value == sound[at]:
                        assert reopened._streams[0].read(0, 5)["is_last"].tolist() == [False, True, False, False, True]
                        continue
                    with pytest.raises(DamagedReplayError, match=f"row {row} is not as it was written"):
                        stored(reopened._streams[0])


def test_rows_that_one_stream_lost_are_all_counted(tmp_path):
    with Replay(tmp_path, SPEC, capacity=2 * 40, streams=2) as replay:
        for row in script([30]):
            replay.append(Rows({"at": np.repeat(row.obs["at"], 2, 0)}, *(np.repeat(x, 2, 0) for x in row[1:])))
    path = tmp_path / "stream-001.rows"
    path.write_bytes(path.read_bytes()[: 12 * DTYPE.itemsize + 7])  # the other tells that 29 were there for certain
    reopened, texts = open_quietly(tmp_path)
    reopened.close()
    assert [text.split(": ")[1] for text in texts] == ["16 row(s) at the end are missing"]


@pytest.mark.parametrize("streams", [1, 2])
def test_rows_without_their_header_are_refused_and_left_alone(tmp_path, streams):
    path = sealed_replay(tmp_path, streams)
    before = path.read_bytes()
    (tmp_path / "replay.json").unlink()
    words = rf"expected no replay, found no replay.json, but rows without it: stream-000.rows \({len(before)} bytes\)"
    with pytest.raises(DamagedReplayError, match=words):
        Replay(tmp_path, SPEC, capacity=14, streams=streams)
    with pytest.raises(FileNotFoundError, match=r"found no replay.json there, but rows without it: stream-000.rows"):
        Replay.open(tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == streams


def test_nothing_is_written_through_a_link(tmp_path):
    path = sealed_replay(tmp_path / "other")
    before = path.read_bytes()
    for place in ("stream", "folder"):
        folder = tmp_path / place
        if place == "folder":
            folder.symlink_to(tmp_path / "other")
        else:
            folder.mkdir()
            (folder / "replay.json").write_bytes((tmp_path / "other" / "replay.json").read_bytes())
            (folder / "stream-000.rows").symlink_to(path)
        Replay.open(folder, read_only=True).close()  # reading is no harm
        with pytest.raises(ValueError, match=r"found a link to .*, which is not written through"):
            Replay.open(folder)
        (folder / "replay.json").unlink()
        with pytest.raises(ValueError, match="rows without it"):
            Replay(folder, SPEC, capacity=7, streams=1)
    assert path.read_bytes() == before


def old_format(folder, rows):
    """A replay as format 2 was written: `closed` is a flag before the checksum, and the header has none."""
    dtype = row_type(SPEC, 2)
    stream = RecordFile(folder / "stream-000.rows", dtype, CAPACITY, "x+b")
    for row in rows:
        record = np.zeros(1, dtype)[0]
        record["obs:at"] = row.obs["at"][0]
        for name in Rows._fields[1:]:
            record[name] = getattr(row, name)[0]
        stream.append(record)
    stream.close()
    (folder / "replay.json").write_text(
        json.dumps({"format": 2, "capacity": CAPACITY, "streams": 1, "spec": asdict(SPEC)})
    )
    return dtype


def test_a_replay_of_the_old_format_is_read_and_goes_on_in_it(tmp_path):
    dtype = old_format(tmp_path, script([2, 2], interrupted={0, 1}))
    assert dtype.fields["closed"][1] == 0 and dtype.fields["check"][1] == 1 and dtype.fields["number"][1] == 5
    with Replay.open(tmp_path) as replay:
        assert not replay.sealed
        replay.append(rows_of(4, True, True, 0))
        assert [e.reward.shape[1] for e in replay.episodes()] == [2, 2, 1]
    path = tmp_path / "stream-000.rows"
    content = path.read_bytes()
    assert [content[row * dtype.itemsize] for row in range(5)] == [0, 1, 0, 1, 0]
    assert json.loads((tmp_path / "replay.json").read_text())["format"] == 2
    path.write_bytes(content[: dtype.itemsize] + b"\x07" + content[dtype.itemsize + 1 :])
    with Replay.open(tmp_path, read_only=True) as replay, pytest.raises(DamagedReplayError, match="row 1 is not as"):
        stored(replay._streams[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capacity": -1}, "from 1 to .* as capacity, got -1"),
        ({"capacity": "7"}, "as capacity, got '7'"),
        ({"capacity": True}, "as capacity, got True"),
        ({"streams": 10**9, "capacity": 10**9}, "as streams, got 1000000000"),
        ({"streams": 0}, "as streams, got 0"),
        ({"spec": []}, r"entries by name as spec, got \[\]"),
        ({"spec": {**asdict(SPEC), "observations": {}}}, "at least one observation, got none"),
        ({"spec": {**asdict(SPEC), "observations": {"at": 3}}}, "entries by name as at, got 3"),
        ({"shape": [10**12]}, "as shape of at, got 1000000000000"),
        ({"shape": [2**29]}, "rows of at most 1,073,741,824 bytes, got 2,147,483,652"),
        ({"shape": [-1]}, "as shape of at, got -1"),
        ({"shape": 3}, "whole numbers as shape of at, got 3"),
        ({"shape": [1, 1]}, r"as at, got 'vector' of shape \(1, 1\)"),
        ({"kind": "sound"}, "as at, got 'sound'"),
        ({"kind": "categorical", "classes": [10**9]}, "at most 1048576 classes of at"),
        ({"classes": [2]}, "as many classes as variables of at"),
    ],
)
@pytest.mark.parametrize("form", [2, 3])
def test_a_header_that_says_what_cannot_be_is_refused_in_a_sentence(tmp_path, form, change, words):
    old_format(tmp_path, [])
    header = json.loads((tmp_path / "replay.json").read_text()) | {"format": form}
    leaf = {key: value for key, value in change.items() if key in ("shape", "kind", "classes")}
    header["spec"]["observations"]["at"] |= leaf
    header |= {key: value for key, value in change.items() if key not in leaf}
    if form == 3:
        header["checksum"] = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    (tmp_path / "replay.json").write_text(json.dumps(header))
    with pytest.raises(DamagedReplayError, match=words) as refusal:
        Replay.open(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_header_that_was_altered_is_found_out(tmp_path):
    sealed_replay(tmp_path)
    text = (tmp_path / "replay.json").read_text()
    (tmp_path / "replay.json").write_text(text.replace('"capacity": 7', '"capacity": 8'))
    with pytest.raises(DamagedReplayError, match="its checksum belongs to other contents"):
        Replay.open(tmp_path)


def test_a_stream_that_is_gone_is_named(tmp_path):
    sealed_replay(tmp_path, streams=2)
    (tmp_path / "stream-001.rows").unlink()
    with pytest.raises(FileNotFoundError, match=r"the rows of 2 environments, found no stream-001.rows"):
        Replay.open(tmp_path)
