import dataclasses
import json
import tracemalloc
from contextlib import ExitStack, closing
from itertools import pairwise

import numpy as np
import pytest
import torch

from worldmodel.data import offline
from worldmodel.data.batches import pad_episodes
from worldmodel.data.environment import make_environments
from worldmodel.data.header import row_type, share_folder, shares, spec_from_json
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay
from worldmodel.data.rollout import Rollout
from worldmodel.types import ActionSpec, EnvSpec, ObservationSpec, Rows
from worlds import INTEGER_SPEC, MIXED_SPEC, VECTOR_SPEC, make_batch, register

SPEC = EnvSpec({"at": ObservationSpec("vector", (2,))}, ActionSpec("continuous", 1))
STANDARD_ERRORS = 4.5  # two-sided: a false alarm in 150,000 comparisons; seeds are fixed


def episode_rows(stream, lengths, offset=0):
    """The rows of one stream whose episodes have these lengths; every number tells where it comes from."""
    for episode, length in enumerate(lengths):
        for t in range(length):
            offset += 1
            yield {
                "at": [1000.0 * stream + offset, float(episode)],
                "prev_action": [offset / 8 if t else 0.0],
                "reward": offset / 4 if t else 0.0,
                "is_first": t == 0,
                "is_last": t == length - 1,
                "is_terminal": t == length - 1 and episode % 2 == 0,
                "episode_step": t,
            }


def append(replay, written):
    """Write the rows of each stream, [stream][row], step by step."""
    for step in zip(*written, strict=True):
        columns = {name: np.array([row[name] for row in step]) for name in step[0]}
        replay.append(Rows(obs={"at": columns.pop("at")}, **columns))


@pytest.fixture
def keep():
    """Closes what it is given when the test is over."""
    with ExitStack() as stack:
        yield lambda replay: stack.enter_context(closing(replay))


@pytest.fixture
def make(tmp_path, keep):
    """A replay with a stream for every list of lengths, and what was written: [stream][row], to the shortest's end."""

    def make(lengths, *, capacity=1000):
        written = [list(episode_rows(i, of_stream)) for i, of_stream in enumerate(lengths)]
        written = [rows[: min(map(len, written))] for rows in written]
        replay = keep(Replay(tmp_path, SPEC, capacity=capacity, streams=len(lengths)))
        append(replay, written)
        return replay, written

    return make


def unpack(batch):
    """[sequence][row] as written."""
    named = {**batch.obs, **batch._asdict()}
    del named["obs"], named["valid"]
    lists = {name: x.tolist() for name, x in named.items()}
    B, T = batch.reward.shape
    return [[{name: x[b][t] for name, x in lists.items()} for t in range(T)] for b in range(B)]


def every_sequence(replay, length):
    """All distinct sequences by the number of their first row, each drawn at least once."""
    batch = replay.sample(40 * len(replay), length, torch.Generator().manual_seed(0))
    found = {}
    for sequence in unpack(batch):
        assert found.setdefault(sequence[0]["at"][0], sequence) == sequence
    return found


def stored(replay):
    """Every stored row in the order of the circle, as sequences of one row have it."""
    return [found[0] for _, found in sorted(every_sequence(replay, 1).items())]


LENGTHS = ([3, 1, 4, 2, 5], [5, 2, 1, 4, 3], [1, 1, 6, 7])


def test_a_sequence_is_its_neighbours_on_the_circle_of_everything_written(make):
    replay, written = make(LENGTHS)
    circle = [row for rows in written for row in rows]
    sequences = every_sequence(replay, 7)
    assert len(sequences) == len(replay) == len(circle) == 45
    for start, row in enumerate(circle):
        assert sequences[row["at"][0]] == [circle[(start + t) % 45] for t in range(7)]


def test_a_running_episode_is_followed_by_a_beginning(make):
    replay, _ = make([[4, 9], [2, 3, 4]])  # the first stream stops inside an episode
    for sequence in every_sequence(replay, 6).values():
        for before, after in pairwise(sequence):
            same = after["at"][1] == before["at"][1] and after["at"][0] == before["at"][0] + 1
            assert after["is_first"] != same


def test_every_row_is_equally_likely_at_every_place(make):
    replay, written = make(LENGTHS)
    rows, draws = 45, 9000
    batch = replay.sample(draws, 4, torch.Generator().manual_seed(1))
    ids = [row["at"][0] for of_stream in written for row in of_stream]
    p = 1 / rows
    for t in range(4):
        counts = np.array([(batch.obs["at"][:, t, 0] == i).sum() for i in ids])
        assert counts.sum() == draws
        assert np.abs(counts - draws * p).max() < STANDARD_ERRORS * np.sqrt(draws * p * (1 - p))


def test_the_generator_decides_the_batch(make):
    replay, _ = make(LENGTHS)
    torch.manual_seed(0)
    first = unpack(replay.sample(5, 4, torch.Generator().manual_seed(3)))
    torch.manual_seed(1)
    assert first == unpack(replay.sample(5, 4, torch.Generator().manual_seed(3)))
    assert first != unpack(replay.sample(5, 4, torch.Generator().manual_seed(4)))


def test_burn_in_covers_only_rows_before_the_first_reset(make):
    replay, _ = make(LENGTHS)
    batch = replay.sample(300, 6, torch.Generator().manual_seed(0), burn_in=3)
    for is_first, valid in zip(batch.is_first.tolist(), batch.valid.tolist(), strict=True):
        reset = is_first.index(True) if True in is_first else 6
        assert valid == [t >= min(reset, 3) for t in range(6)]
    assert replay.sample(50, 6, torch.Generator().manual_seed(0)).valid.all()


def test_a_restart_makes_a_reset_of_a_first_row_inside_an_episode_and_leaves_the_rest(make):
    replay, _ = make(LENGTHS)
    plain, restarted = (
        replay.sample(300, 6, torch.Generator().manual_seed(0), restart=restart) for restart in (False, True)
    )
    cold = ~plain.is_first[:, 0]
    assert cold.any() and not cold.all() and restarted.valid.all()
    assert restarted.is_first[:, 0].all() and not restarted.reward[cold, 0].any()
    assert not restarted.prev_action[cold, 0].any() and not restarted.episode_step[cold, 0].any()
    for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal", "episode_step"):
        before, after = getattr(plain, name), getattr(restarted, name)
        assert torch.equal(before[:, 1:], after[:, 1:]) and torch.equal(before[~cold], after[~cold])
    assert torch.equal(plain.obs["at"], restarted.obs["at"]) and torch.equal(plain.is_last, restarted.is_last)


def test_a_stream_without_rows_is_passed_over(make, tmp_path, keep):
    _, (first, _, third) = make([[1], [1], [1]])
    (tmp_path / "stream-001.rows").write_bytes(b"")  # as after a power failure
    sequences = every_sequence(keep(Replay.open(tmp_path)), 2)
    assert list(sequences.values()) in ([first + third, third + first], [third + first, first + third])


def test_a_batch_is_not_touched_by_the_next_one(make):
    replay, _ = make(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    batch = replay.sample(5, 4, generator)
    before = unpack(batch)
    assert unpack(replay.sample(5, 4, generator)) != before and unpack(batch) == before


def test_a_row_for_each_stream_is_asked_for(make):
    replay, _ = make([[3], [3]])
    with pytest.raises(ValueError, match="one for each of 2 streams, got 1"):
        append(replay, [list(episode_rows(0, [1]))])
    assert len(replay) == 6


def test_a_single_row_can_be_sampled(make):
    replay, (written,) = make([[3]])
    assert unpack(replay.sample(1, 1, torch.Generator()))[0][0] in written


def test_more_rows_than_are_stored_cannot_be_sampled(make):
    replay, written = make([[3, 2]])
    assert unpack(replay.sample(1, 5, torch.Generator()))[0][0] in written[0]
    with pytest.raises(ValueError, match="length: expected at most the 5 rows stored, got 6"):
        replay.sample(1, 6, torch.Generator())


def test_the_oldest_whole_episodes_go_first(tmp_path, keep):
    lengths = [4, 3, 2, 5, 3, 4, 2, 3]
    written = list(episode_rows(0, lengths))
    replay = keep(Replay(tmp_path, SPEC, capacity=10, streams=1))
    size = 10 * row_type(SPEC).itemsize
    for count, row in enumerate(written, 1):
        append(replay, [[row]])
        beginnings = [i for i in range(count) if written[i]["is_first"] and count - i <= 10]
        assert stored(replay) == written[beginnings[0] : count]
        assert sum(path.stat().st_size for path in tmp_path.glob("*.rows")) == min(count * size // 10, size)


def kept(rows, share):
    """What a stream of `share` rows keeps, one row after the other, by the rule in words."""
    left = []
    for row in rows:
        if len(left) == share:
            episode = left[0]["at"][1]
            length = sum(other["at"][1] == episode for other in rows)
            drop = sum(other["at"][1] == episode for other in left) if length <= share // 2 else 1
            left = left[drop:]
        left.append(row)
    return left


@pytest.mark.parametrize("capacity", [17, 26, 40])
def test_the_capacity_is_shared_between_streams_and_never_exceeded(make, tmp_path, capacity):
    replay, written = make(LENGTHS, capacity=capacity)
    assert stored(replay) == [row for rows in written for row in kept(rows, capacity // 3)]
    assert capacity // 2 <= len(replay) <= capacity
    assert sum(path.stat().st_size for path in tmp_path.glob("*.rows")) <= capacity * row_type(SPEC).itemsize


def test_an_episode_longer_than_its_stream_loses_its_own_oldest_rows(make):
    replay, (first, second) = make([[20], [20]], capacity=12)
    left = [first[14:], second[14:]]
    assert stored(replay) == left[0] + left[1]
    for sequence in every_sequence(replay, 8).values():
        for before, after in pairwise(sequence):
            if after["at"][0] == before["at"][0] + 1:
                assert after in left[0] + left[1]
            else:  # a splice
                assert (after["is_first"], after["prev_action"], after["reward"]) == (True, [0], 0)
                assert after["episode_step"] == 0
    assert list(replay.episodes()) == []


def test_a_full_stream_never_falls_below_half(tmp_path, keep):
    """An episode that filled the stream goes row by row while the next one is written."""
    written = list(episode_rows(0, [8, 3, 20, 4]))
    replay = keep(Replay(tmp_path, SPEC, capacity=8, streams=1))
    for count, row in enumerate(written, 1):
        append(replay, [[row]])
        assert len(replay) >= min(count, 4)
        assert stored(replay) == written[count - len(replay) : count]
    assert [unpack(episode)[0] for episode in replay.episodes()] == [written[31:]]


@pytest.mark.parametrize(
    "lengths, capacity",
    [(LENGTHS, 1000), (LENGTHS, 26), (LENGTHS, 17), ([[20], [20]], 12), ([[20, 4]], 8), ([[8, 1]], 8)],
    ids=["with room", "wrapped around", "wrapped many times", "outgrown", "after one that outgrew", "just filled"],
)
def test_an_opened_replay_is_the_one_that_was_closed(make, tmp_path, keep, lengths, capacity):
    replay, _ = make(lengths, capacity=capacity)
    replay.flush()
    opened = keep(Replay.open(tmp_path))
    assert (opened.spec, opened.capacity, len(opened)) == (SPEC, capacity, len(replay))
    assert stored(opened) == stored(replay)
    more = [list(episode_rows(i, [3, 4, 2], offset=100)) for i in range(len(lengths))]
    for step in range(9):  # both write the same rows to the same places
        samples = []
        for each in (opened, replay):
            append(each, [rows[step : step + 1] for rows in more])
            samples.append(unpack(each.sample(20, 2, torch.Generator().manual_seed(2))))
        assert samples[0] == samples[1]


def test_an_empty_replay_can_be_opened_and_written(tmp_path, keep):
    Replay(tmp_path, SPEC, capacity=10, streams=1).close()
    replay = keep(Replay.open(tmp_path))
    assert len(replay) == 0
    written = list(episode_rows(0, [3, 2]))
    append(replay, [written])
    assert stored(replay) == written


def test_a_replay_is_not_overwritten(make, tmp_path):
    replay, written = make([[3, 2]])
    with pytest.raises(FileExistsError):
        Replay(tmp_path, SPEC, capacity=10, streams=1)
    assert stored(replay) == written[0]


def test_another_format_or_no_replay_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Replay.open(tmp_path)
    Replay(tmp_path, SPEC, capacity=10, streams=1).close()
    header = json.loads((tmp_path / "replay.json").read_text())
    (tmp_path / "replay.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(ValueError, match="expected replay format 2 or 3, got 99"):
        Replay.open(tmp_path)


def test_every_stream_needs_a_row(tmp_path):
    with pytest.raises(ValueError, match="at least one row for each of 3 streams, got 2"):
        Replay(tmp_path / "new", SPEC, capacity=2, streams=3)
    assert not (tmp_path / "new").exists()


def test_the_reward_has_statistics_before_there_is_one(make):
    replay, _ = make([[1], [1]])
    mean, std = replay.statistics()["reward"]
    assert mean.tolist() == std.tolist() == [0.0]


def test_statistics_are_those_of_all_stored_rows(tmp_path, keep):
    rng = np.random.default_rng(0)
    replay = keep(Replay(tmp_path, SPEC, capacity=5000, streams=2))
    at = 1e3 + rng.normal(size=(2400, 2, 2)).astype(np.float32)  # far from zero: a naive sum of squares would fail
    reward = rng.normal(size=(2400, 2)).astype(np.float32)
    is_first = rng.random((2400, 2)) < 0.1
    is_first[0] = True
    none, zero = np.zeros(2, bool), np.zeros((2, 1), np.float32)
    for t in range(2400):
        replay.append(Rows({"at": at[t]}, zero, reward[t], is_first[t], none, none, np.zeros(2, np.int32)))
    found = replay.statistics()
    kept = reward[~is_first].astype(np.float64)[:, None]
    for name, x in (("at", at.astype(np.float64).reshape(-1, 2)), ("reward", kept)):
        mean, std = found[name]
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(std, x.std(0), rtol=1e-9)


def test_statistics_of_images_are_those_of_every_pixel(tmp_path, keep):
    spec = EnvSpec({"camera": ObservationSpec("image", (16, 32, 3))}, ActionSpec("continuous", 1))
    replay = keep(Replay(tmp_path, spec, capacity=1500, streams=1))  # more rows than are read at once
    frames = np.random.default_rng(0).integers(0, 256, (1500, 1, 16, 32, 3), np.uint8)
    none, zero = np.zeros(1, bool), np.zeros(1, np.float32)
    for frame in frames:
        replay.append(Rows({"camera": frame}, zero[None], zero, none, none, none, np.zeros(1, np.int32)))
    mean, std = replay.statistics()["camera"]
    np.testing.assert_allclose(mean, frames[:, 0].mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, frames[:, 0].std(0), rtol=1e-9)


def test_episodes_are_the_whole_ones_in_order(make):
    replay, (first, second, third) = make([[3, 2, 4, 9], [5, 2, 9], [10]])  # the first two stop inside an episode
    whole = [first[0:3], first[3:5], first[5:9], second[0:5], second[5:7], third]
    found = list(replay.episodes())
    assert [unpack(episode)[0] for episode in found] == whole
    assert all(episode.valid.all() for episode in found)
    beginnings = list(replay.beginnings())
    assert [unpack(first)[0] for first, _ in beginnings] == [rows[:1] for rows in whole]
    assert [actions for _, actions in beginnings] == [len(rows) - 1 for rows in whole]
    assert all(first.is_first.all() and first.valid.all() for first, _ in beginnings)


def test_an_episode_cut_short_by_a_reset_counts_as_truncated(tmp_path, keep):
    replay = keep(Replay(tmp_path, SPEC, capacity=100, streams=1))
    append(replay, [[*list(episode_rows(0, [3, 4]))[:5], *episode_rows(0, [2], offset=50)]])
    assert [episode.reward.shape[1] for episode in replay.episodes()] == [3, 2, 2]
    interrupted = list(replay.episodes())[1]
    assert interrupted.is_last.tolist() == [[False, True]]
    assert interrupted.is_terminal.tolist() == [[False, False]]
    reopened = keep(Replay.open(tmp_path, read_only=True))
    assert [unpack(e) for e in reopened.episodes()] == [unpack(e) for e in replay.episodes()]


def test_padding_joins_episodes_and_marks_what_it_added(make):
    replay, (written,) = make([[3, 2, 6]])
    episodes = list(replay.episodes())
    padded = pad_episodes(episodes, max_length=5)
    assert padded.valid.tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    parts = [written[0:3], written[3:5], written[5:10]]
    assert [rows[: len(part)] for rows, part in zip(unpack(padded), parts, strict=True)] == parts
    assert not padded.is_first[0, 3:].any() and not padded.obs["at"][0, 3:].any()
    assert pad_episodes(episodes, max_length=50).reward.shape == (3, 6)


def test_every_kind_of_leaf_survives_with_its_dtype(tmp_path, keep):
    written = make_batch(MIXED_SPEC, batch=2, length=9, first=[(0, 4), (1, 7)])
    written.is_last[:, -1] = True
    replay = keep(Replay(tmp_path, MIXED_SPEC, capacity=40, streams=2))
    for t in range(9):
        rows = {name: getattr(written, name)[:, t].numpy() for name in Rows._fields[1:]}
        replay.append(Rows(obs={path: x[:, t].numpy() for path, x in written.obs.items()}, **rows))
    opened = keep(Replay.open(tmp_path))
    assert opened.spec == MIXED_SPEC
    episodes = list(opened.episodes())
    places = [(0, slice(0, 4)), (0, slice(4, 9)), (1, slice(0, 7)), (1, slice(7, 9))]
    for episode, (b, of) in zip(episodes, places, strict=True):
        for path, x in written.obs.items():
            torch.testing.assert_close(episode.obs[path][0], x[b, of], rtol=0, atol=0)
        for name in Rows._fields[1:]:
            torch.testing.assert_close(getattr(episode, name)[0], getattr(written, name)[b, of], rtol=0, atol=0)


def test_rows_of_an_environment_survive(tmp_path, keep):
    register()
    with make_environments("Bytes-v0", count=2, image_size=16) as environments:
        spec = environments.spec
        rollout = Rollout(environments, RandomPolicy(spec.action, torch.Generator().manual_seed(0)), 0)
        steps = [rollout.step() for _ in range(12)]  # two episodes of six rows
    replay = keep(Replay(tmp_path, spec, capacity=100, streams=2))
    for rows in steps:
        replay.append(rows)
    opened = keep(Replay.open(tmp_path))
    assert opened.spec == spec
    episodes = list(opened.episodes())
    assert len(episodes) == 4
    for number, episode in enumerate(episodes):
        stream, start = number // 2, 6 * (number % 2)
        for t, rows in enumerate(steps[start : start + 6]):
            for path, x in rows.obs.items():
                np.testing.assert_array_equal(episode.obs[path][0, t], x[stream], strict=True)
            for name in Rows._fields[1:]:
                np.testing.assert_array_equal(getattr(episode, name)[0, t], getattr(rows, name)[stream])


def test_stored_rows_do_not_stay_in_memory(tmp_path, keep):
    wide = EnvSpec({"at": ObservationSpec("vector", (250,))}, ActionSpec("continuous", 1))
    replay = keep(Replay(tmp_path, wide, capacity=10_000, streams=1))
    yes, no, zero = np.array([True]), np.array([False]), np.zeros(1, np.float32)
    first = Rows({"at": np.ones((1, 250))}, zero[None], zero, yes, no, no, np.zeros(1, np.int32))
    replay.append(first)
    later = first._replace(is_first=no)
    tracemalloc.start()
    for _ in range(9_999):
        replay.append(later)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "stream-000.rows").stat().st_size > 10_000_000
    assert peak < 50_000


def test_a_splice_into_a_running_episode_wants_a_burn_in_and_a_reset_does_not(make):
    replay, _ = make([[20], [20]], capacity=12)  # both streams hold the end of an episode that outgrew them
    batch = replay.sample(200, 8, torch.Generator().manual_seed(0), burn_in=2)
    for first, valid in zip(batch.is_first.tolist(), batch.valid.tolist(), strict=True):
        cold = [0] + [t for t in range(1, 8) if first[t]]
        assert valid == [not any(c <= t < c + 2 for c in cold) for t in range(8)]


def test_a_spec_from_before_there_were_integers_is_read():
    spec = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 1))
    stored = json.loads(json.dumps(dataclasses.asdict(spec)))
    del stored["observations"]["obs"]["low"], stored["observations"]["obs"]["high"]
    assert spec_from_json(stored) == spec
    assert spec_from_json(json.loads(json.dumps(dataclasses.asdict(INTEGER_SPEC)))) == INTEGER_SPEC


def test_distinct_rewards_are_those_of_rows_that_have_one(tmp_path):
    episode = make_batch(VECTOR_SPEC, batch=1, length=6, first=())
    episode.reward[0] = torch.tensor([9.0, 0.5, -1.0, 0.5, 0.1, -1.0])  # the first row's is none
    with Replay(tmp_path, VECTOR_SPEC, capacity=20, streams=1) as replay:
        for rows in offline.episode_rows(episode):
            replay.append(rows)
        assert replay.distinct_rewards(3).tolist() == torch.tensor([-1.0, 0.1, 0.5]).tolist()
        assert replay.distinct_rewards(2) is None


def test_the_rows_of_other_processes_are_read_with_its_own_and_never_written(tmp_path, generator):
    folders = [share_folder(tmp_path / "replay", rank) for rank in range(3)]
    assert folders[0] == tmp_path / "replay" and folders[2] == tmp_path / "replay" / "rank-2"
    for rank, folder in enumerate(folders):
        with Replay(folder, VECTOR_SPEC, capacity=50, streams=1) as replay:
            for i in range(5 + rank):
                replay.append(one_row(100 * rank + i))
    assert shares(tmp_path / "replay") == {1: folders[1], 2: folders[2]}
    with Replay.open(tmp_path / "replay", read_only=True) as all_rows:
        assert len(all_rows) == all_rows.rows_written == 5 + 6 + 7
        seen = all_rows.sample(200, 2, generator)
        assert set(seen.reward.flatten().tolist()) == {*range(5), *range(100, 106), *range(200, 207)} | {0.0}
    with Replay.open(folders[0]) as replay:
        assert len(replay) == 5
        replay.join([Replay.open(folders[2], read_only=True)])
        replay.append(one_row(5))
        assert (len(replay), replay.rows_written, replay.streams) == (13, 13, 1)
    with Replay.open(folders[0]) as replay, Replay.open(folders[2]) as other:
        assert (len(replay), len(other)) == (6, 7)


def test_a_folder_that_names_itself_as_a_share_counts_once(tmp_path):
    with Replay(tmp_path / "replay", VECTOR_SPEC, capacity=50, streams=1) as replay:
        replay.append(one_row(1))
    with Replay(share_folder(tmp_path / "replay", 1), VECTOR_SPEC, capacity=50, streams=1) as replay:
        replay.append(one_row(2))
    for name in ("rank-2", "rank-03"):
        (tmp_path / "replay" / name).symlink_to(".")
    for name in ("rank-1/rank-1", "rank-04"):  # a share has no shares, and one name
        (tmp_path / "replay" / name).mkdir()
        for path in (tmp_path / "replay" / "rank-1").glob("*.*"):
            (tmp_path / "replay" / name / path.name).write_bytes(path.read_bytes())
    assert list(shares(tmp_path / "replay")) == [1]
    with Replay.open(tmp_path / "replay", read_only=True) as found:
        assert len(found) == 2


def one_row(reward):
    """A row of one environment in the midst of an episode."""
    none = np.zeros(1, bool)
    obs = {"obs": np.zeros((1, 3), np.float32)}
    return Rows(
        obs, np.zeros((1, 2), np.float32), np.full(1, reward, np.float32), none, none, none, np.ones(1, np.int32)
    )


def test_statistics_of_bits_are_their_frequencies(tmp_path, keep):
    spec = EnvSpec({"bits": ObservationSpec("binary", (2,))}, ActionSpec("continuous", 1))
    replay = keep(Replay(tmp_path, spec, capacity=8, streams=1))
    none, zero = np.zeros(1, bool), np.zeros(1, np.float32)
    for bits in ([0, 1], [0, 1], [1, 1], [0, 1]):
        replay.append(
            Rows({"bits": np.array([bits], np.uint8)}, zero[None], zero, none, none, none, np.zeros(1, np.int32))
        )
    np.testing.assert_allclose(replay.statistics()["bits"][0], [0.25, 1.0])
