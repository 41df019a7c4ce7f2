import itertools

import numpy as np
import pytest
import torch

from worldmodel.data import offline
from worldmodel.data.offline import DataFolders, Tally, divide, episode_rows, open_data
from worldmodel.data.replay import Replay
from worlds import MIXED_SPEC, make_batch

LENGTHS = [4, 1, 6, 3, 2, 5, 7, 2, 3, 8]


class Stored:
    """Episodes of given lengths, all different; counts how often it is walked through."""

    spec = MIXED_SPEC

    def __init__(self, lengths=LENGTHS):
        self.walks = 0
        self.made = [make_batch(MIXED_SPEC, batch=1, length=n, seed=i, first=()) for i, n in enumerate(lengths)]
        for episode in self.made:
            episode.is_last[0, -1] = True

    def episodes(self):
        self.walks += 1
        yield from self.made


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def read(folder):
    with Replay.open(folder, read_only=True) as replay:
        assert replay.spec == MIXED_SPEC
        return list(replay.episodes())


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip([*a.obs.values(), *a[1:]], [*(b.obs[path] for path in a.obs), *b[1:]], strict=True)
    )


def places(parts, episodes):
    """Where in `episodes` each of `parts` comes from; each must be there exactly once."""
    found = [
        [i for i, episode in enumerate(episodes) if _shape(episode) == _shape(part) and same(part, episode)]
        for part in parts
    ]
    assert all(len(places) == 1 for places in found)
    return [place for (place,) in found]


def _shape(episode):
    return tuple(episode.reward.shape)


@pytest.mark.parametrize("heldout", [1, 4, 9])
def test_every_episode_goes_to_one_side_whole_and_in_order(tmp_path, heldout):
    source = Stored()
    learnt, scored = divide(source, tmp_path / "data", heldout=heldout, generator=generator())
    replay, held_out = (places(read(tmp_path / "data" / name), source.made) for name in ("replay", "heldout"))
    assert replay == sorted(replay)
    assert held_out == sorted(held_out)
    assert len(held_out) == heldout
    assert sorted(replay + held_out) == list(range(10))
    for tally, part in ((learnt, replay), (scored, held_out)):
        rows = sum(LENGTHS[i] for i in part)
        assert tally == Tally(rows, len(part), rows)


def test_both_replays_have_room_for_what_they_hold_and_no_more(tmp_path):
    divide(Stored(), tmp_path / "data", heldout=3, generator=generator())
    for name in ("replay", "heldout"):
        with Replay.open(tmp_path / "data" / name) as replay:
            assert replay.capacity == len(replay) > 0


def test_the_generator_decides_and_every_episode_is_as_likely_to_be_held_out(tmp_path):
    source, counts = Stored([2] * 5), np.zeros(5)
    draws = 60
    for seed in range(draws):
        divide(source, tmp_path / str(seed), heldout=2, generator=generator(seed))
        counts[places(read(tmp_path / str(seed) / "heldout"), source.made)] += 1
    assert counts.sum() == 2 * draws
    assert np.abs(counts - 0.4 * draws).max() < 4.5 * np.sqrt(draws * 0.4 * 0.6)  # standard errors
    divide(source, tmp_path / "again", heldout=2, generator=generator(7))
    for first, second in zip(read(tmp_path / "7" / "heldout"), read(tmp_path / "again" / "heldout"), strict=True):
        assert same(first, second)


def test_a_replay_can_be_divided_itself(tmp_path):
    source = Stored()
    with Replay(tmp_path / "whole", MIXED_SPEC, capacity=sum(LENGTHS), streams=1) as replay:
        for episode in source.made:
            for rows in episode_rows(episode):
                replay.append(rows)
        divide(replay, tmp_path / "data", heldout=2, generator=generator())
    parts = [*read(tmp_path / "data" / "replay"), *read(tmp_path / "data" / "heldout")]
    assert sorted(places(parts, source.made)) == list(range(10))


def test_the_source_is_walked_through_twice_and_one_episode_at_a_time(tmp_path):
    class Fleeting(Stored):
        """Spoils an episode as soon as the next one is asked for: keeping one is found out."""

        def episodes(self):
            for episode in super().episodes():
                given = type(episode)(
                    {path: x.clone() for path, x in episode.obs.items()}, *(x.clone() for x in episode[1:])
                )
                yield given
                for x in (*given.obs.values(), *given[1:]):
                    x.zero_()

    source = Fleeting()
    divide(source, tmp_path / "data", heldout=3, generator=generator())
    assert source.walks == 2
    parts = [*read(tmp_path / "data" / "replay"), *read(tmp_path / "data" / "heldout")]
    assert sorted(places(parts, source.made)) == list(range(10))


@pytest.mark.parametrize("heldout, words", [(10, "fewer than the 10 whole episodes there are, got 10"), (0, "got 0")])
def test_at_least_one_episode_must_be_on_either_side(tmp_path, heldout, words):
    with pytest.raises(ValueError, match=words):
        divide(Stored(), tmp_path / "data", heldout=heldout, generator=generator())
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_written_over(tmp_path):
    divide(Stored(), tmp_path / "data", heldout=2, generator=generator())
    before = read(tmp_path / "data" / "replay")
    with pytest.raises(FileExistsError, match=r"expected no replay/ in it"):
        divide(Stored([3, 3]), tmp_path / "data", heldout=1, generator=generator())
    assert all(same(a, b) for a, b in zip(before, read(tmp_path / "data" / "replay"), strict=True))


def test_the_data_can_join_what_a_folder_holds_already(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: run\n")
    divide(Stored(), tmp_path / "run", heldout=2, generator=generator())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "replay", "heldout"}
    assert len(read(tmp_path / "run" / "heldout")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "folder of a run"])
def test_whenever_it_is_cut_short_there_is_all_or_no_replay_and_it_can_be_done_again(tmp_path, monkeypatch, exists):
    """Every system call that changes names, and every row, is a place to stop at."""
    append, rename = Replay.append, offline.Path.rename
    for stop in itertools.count():
        folder = tmp_path / str(stop) / "data"
        folder.mkdir(parents=True) if exists else folder.parent.mkdir()
        left = [stop]

        def or_stop(function, left=left):
            def wrapped(*arguments):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return function(*arguments)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(Replay, "append", or_stop(append))
            patch.setattr(offline.Path, "rename", or_stop(rename))
            try:
                divide(Stored([3, 2, 2]), folder, heldout=1, generator=generator())
                break
            except KeyboardInterrupt:
                pass
        assert not (folder / "replay").exists()
        with pytest.raises(FileNotFoundError):
            open_data(folder)
        if not (folder / "heldout").exists():
            divide(Stored([3, 2, 2]), folder, heldout=1, generator=generator())
            assert open_data(folder) == (folder / "replay", folder / "heldout")
            assert not (folder.parent / "data.partial").exists()
    assert stop == 7 + (2 if exists else 1)
    assert len(read(folder / "replay")) == 2


def test_what_a_folder_stands_for(tmp_path):
    divide(Stored(), tmp_path / "data", heldout=2, generator=generator())
    replay, heldout = tmp_path / "data" / "replay", tmp_path / "data" / "heldout"
    assert open_data(tmp_path / "data") == DataFolders(replay, heldout)
    assert open_data(replay) == DataFolders(replay, None)


def test_anything_else_is_refused_and_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    divide(Stored(), tmp_path / "half", heldout=2, generator=generator())
    (tmp_path / "half" / "heldout").rename(tmp_path / "elsewhere")
    for name, error, words in (
        ("nowhere", FileNotFoundError, "nowhere: expected a data folder or a run's .*; found nothing of that name"),
        ("empty", FileNotFoundError, "empty: expected .*; found an empty folder"),
        ("other", FileNotFoundError, "other: expected .*; found pictures"),
        ("file", ValueError, "file: expected .*; found a file"),
        ("half", FileNotFoundError, "half: expected .*; found replay/ alone .*name .*half/replay"),
    ):
        with pytest.raises(error, match=words):
            open_data(tmp_path / name)


def test_rows_of_an_episode_are_what_was_in_it():
    episode = Stored([5]).made[0]
    rows = list(episode_rows(episode))
    assert len(rows) == 5
    for t, row in enumerate(rows):
        for path, x in episode.obs.items():
            np.testing.assert_array_equal(row.obs[path], x[:, t].numpy(), strict=True)
        for name in row._fields[1:]:
            np.testing.assert_array_equal(getattr(row, name), getattr(episode, name)[:, t].numpy(), strict=True)


def test_a_tally_counts_rows_and_whole_episodes_across_environments():
    tally = Tally()
    assert str(tally) == "0 rows, no whole episode"
    for is_last, step in (([0, 0], [0, 0]), ([1, 0], [1, 1]), ([0, 1], [0, 2])):
        fields = {name: np.zeros(2) for name in ("prev_action", "reward", "is_first", "is_terminal")}
        tally.add(offline.Rows({}, is_last=np.array(is_last, bool), episode_step=np.array(step), **fields))
    assert tally == Tally(rows=6, episodes=2, whole_rows=5)
    assert str(tally) == "6 rows, 2 whole episodes of 2.5 rows on average"
