"""Stored episodes to learn from: the folders that hold them, and how episodes are held out.

A data folder holds replay/ (to learn from) and heldout/ (to be scored on). So does a run's folder, which can be used in
its place. A single replay, or a Minari dataset, is divided into the two first.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch

from worldmodel.data.header import HEADER
from worldmodel.data.minari import PREFIX, open_minari
from worldmodel.data.replay import Replay
from worldmodel.system.files import refuse_link, sync
from worldmodel.types import Batch, EnvSpec, Rows

REPLAY, HELDOUT = "replay", "heldout"
GIVEN = "given:"  # the source of a run from episodes in memory, which are in its own folder once it has begun


@runtime_checkable
class EpisodeSource(Protocol):
    """Whole episodes that can be read more than once, such as a `Replay` or `MinariEpisodes`."""

    @property
    def spec(self) -> EnvSpec:
        """What a row holds."""
        ...

    def episodes(self) -> Iterator[Batch]:
        """The same episodes in the same order every time, each as a batch of one, [1, T, ...]."""
        ...


class DataFolders(NamedTuple):
    """The folders of stored episodes."""

    replay: Path  # to learn from
    heldout: Path | None  # to be scored on; None if episodes have yet to be held out of the replay


@dataclass
class Tally:
    """Counts of written rows and episodes, and of the rows that belong to episodes that ended."""

    rows: int = 0
    episodes: int = 0
    whole_rows: int = 0

    def add(self, rows: Rows) -> None:
        """Count one row of each environment, from the first row of every episode on."""
        self.rows += len(rows.reward)
        self.episodes += int(rows.is_last.sum())
        self.whole_rows += int((rows.episode_step[rows.is_last] + 1).sum())

    def add_episode(self, episode: Batch) -> None:
        """Count a whole episode, [1, T, ...]."""
        length = episode.reward.shape[1]
        self.rows, self.episodes, self.whole_rows = self.rows + length, self.episodes + 1, self.whole_rows + length

    def __str__(self) -> str:
        if not self.episodes:
            return f"{self.rows} rows, no whole episode"
        length = self.whole_rows / self.episodes
        return f"{self.rows} rows, {self.episodes} whole episodes of {length:.1f} rows on average"


def open_data(source: Path) -> DataFolders:
    """Find the replay and the held-out episodes of a folder.

    Args:
        source: a data folder or a run's (with replay/ and heldout/ in it), or the replay itself (with replay.json).
    Raises:
        FileNotFoundError: if there is no such folder, or it holds something else.
        ValueError: if it is a file.
    """
    if str(source) == GIVEN:
        raise FileNotFoundError(f"offline: expected {GIVEN} only in a run's folder that holds its episodes; train anew")
    expected = f"{source}: expected a data folder or a run's (replay/ and heldout/ in it), or a replay's"
    if not source.exists():
        raise FileNotFoundError(f"{expected}; found nothing of that name")
    if not source.is_dir():
        raise ValueError(f"{expected}; found a file")
    if (source / HEADER).is_file():
        return DataFolders(source, None)
    stored = [name for name in (REPLAY, HELDOUT) if (source / name / HEADER).is_file()]
    if len(stored) == 2:
        return DataFolders(source / REPLAY, source / HELDOUT)
    if stored:
        raise FileNotFoundError(
            f"{expected}; found {stored[0]}/ alone (to use it by itself, name {source / stored[0]})"
        )
    names = sorted(path.name for path in source.iterdir())
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    raise FileNotFoundError(f"{expected}; found {shown or 'an empty folder'}")


def source_spec(
    source: str, *, image_size: int, drop_text: bool = True, integers: Literal["mass", "density"] = "mass"
) -> EnvSpec:
    """What the rows of a source hold; writes nothing. Arguments and errors as in `prepare_data`."""
    if source.startswith(PREFIX):
        return open_minari(source, image_size=image_size, drop_text=drop_text, integers=integers).spec
    with Replay.open(open_data(Path(source)).replay, read_only=True) as replay:
        return replay.spec


def prepare_data(
    source: str,
    folder: Path,
    *,
    heldout: int,
    generator: torch.Generator,
    image_size: int,
    drop_text: bool = True,
    integers: Literal["mass", "density"] = "mass",
) -> tuple[Path, Path]:
    """The replay and the held-out folder of a source; if no episodes are held out yet, both are made in `folder`.

    Args:
        source: a folder as in `open_data`, or "minari:" and the id of a Minari dataset on this machine.
        folder, heldout, generator: see `divide`.
        image_size, drop_text, integers: how a Minari dataset is read, see `spaces.observation_specs`.
    Raises:
        Whatever `open_data`, `open_minari` and `divide` raise.
    """
    if source.startswith(PREFIX):
        episodes = open_minari(source, image_size=image_size, drop_text=drop_text, integers=integers)
        divide(episodes, folder, heldout=heldout, generator=generator)
        return folder / REPLAY, folder / HELDOUT
    found = open_data(Path(source))
    if found.heldout is not None:
        return found.replay, found.heldout
    with Replay.open(found.replay, read_only=True) as replay:
        divide(replay, folder, heldout=heldout, generator=generator)
    return folder / REPLAY, folder / HELDOUT


def tally(folder: Path) -> Tally:
    """Count the whole episodes of a stored replay."""
    counted = Tally()
    with Replay.open(folder, read_only=True) as replay:
        for episode in replay.episodes():
            counted.add_episode(episode)
    return counted


def divide(source: EpisodeSource, folder: Path, *, heldout: int, generator: torch.Generator) -> tuple[Tally, Tally]:
    """Write whole episodes to FOLDER/replay and FOLDER/heldout, holding some out at random.

    Both keep the order of the source, and their capacity is what is written. The source is read twice, with one episode
    in memory at a time. See `written_whole` for what an interruption leaves.

    Args:
        source: the episodes.
        folder: is made, with its parents, unless it exists; must not hold replay/ or heldout/.
        heldout: how many episodes to hold out.
        generator: source of the draw.
    Returns:
        The counts of the replay and of the held-out set.
    Raises:
        FileExistsError: if the folder holds replay/ or heldout/.
        ValueError: if no episode would be held out, or none left to learn from.
    """
    for name in (REPLAY, HELDOUT):
        if (folder / name).exists():
            raise FileExistsError(f"{folder}: expected no {name}/ in it, found one")
    if heldout < 1:
        raise ValueError(f"heldout: expected at least 1 episode, got {heldout}")
    lengths = [episode.reward.shape[1] for episode in source.episodes()]
    if len(lengths) <= heldout:
        raise ValueError(f"heldout: expected fewer than the {len(lengths)} whole episodes there are, got {heldout}")
    chosen = torch.zeros(len(lengths), dtype=torch.bool)
    chosen[torch.randperm(len(lengths), generator=generator)[:heldout]] = True
    room = {REPLAY: int(torch.tensor(lengths)[~chosen].sum()), HELDOUT: int(torch.tensor(lengths)[chosen].sum())}
    tallies = {name: Tally() for name in room}
    with written_whole(folder) as partial, ExitStack() as stack:
        replays = {
            name: stack.enter_context(Replay(partial / name, source.spec, capacity=rows, streams=1))
            for name, rows in room.items()
        }
        for is_held_out, episode in zip(chosen.tolist(), source.episodes(), strict=True):
            name = HELDOUT if is_held_out else REPLAY
            tallies[name].add_episode(episode)
            for rows in episode_rows(episode):
                replays[name].append(rows)
        for stored in replays.values():
            stored.seal()
    return tallies[REPLAY], tallies[HELDOUT]


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A block that writes to FOLDER.partial, which becomes FOLDER once everything in it is on the disk itself.

    If `folder` exists already, what was written moves into it, the replay last: where FOLDER/replay is, the rest is
    too. After an error, FOLDER.partial stays until the next attempt. Raises ValueError if `folder` is a link.
    """
    refuse_link(folder)
    partial = folder.with_name(folder.name + ".partial")
    if partial.is_symlink():
        partial.unlink()
    elif partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    if folder.exists():
        for path in sorted(partial.iterdir(), key=lambda path: path.name == REPLAY):
            path.rename(folder / path.name)
        partial.rmdir()
        sync(folder)
    else:
        partial.rename(folder)
    sync(folder.absolute().parent)


def episode_rows(episode: Batch) -> Iterator[Rows]:
    """The rows of one episode, [1, T, ...], one after the other as its environment would have written them."""
    obs = {path: x[0].numpy() for path, x in episode.obs.items()}
    rest = {name: getattr(episode, name)[0].numpy() for name in Rows._fields[1:]}
    for t in range(len(rest["reward"])):
        here = slice(t, t + 1)
        yield Rows({path: x[here] for path, x in obs.items()}, **{name: x[here] for name, x in rest.items()})
