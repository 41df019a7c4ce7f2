"""The rows of a run: its replay and its held-out episodes, made at its beginning and opened whenever it goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from worldmodel import build
from worldmodel.config import Config
from worldmodel.data.environment import Environments
from worldmodel.data.header import HEADER, found_rows, share_folder, shares
from worldmodel.data.offline import HELDOUT, REPLAY, written_whole
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.records import RESTORE
from worldmodel.data.replay import Replay, read_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.runs.folder import stored_data
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.processes import ALONE, Processes
from worldmodel.types import Batch


def make_stored(
    config: Config,
    folder: Path,
    heldout: Environments | None,
    at: Callable[[str], None] = lambda words: None,
) -> None:
    """Make what all processes of a run read: its held-out episodes, or of stored data the division into both.

    Args:
        config: of the run.
        folder: the run's; what an earlier session made there is kept.
        heldout: the environments of held-out episodes; None for a run from stored data.
        at: is told how far it is.
    """
    if heldout is None:
        if not is_divided(folder):  # of a division that was cut short: the replay comes last
            shutil.rmtree(folder / HELDOUT, ignore_errors=True)
        stored_data(config, folder)
        return
    if any((folder / "checkpoints").glob("*.safetensors")):
        _require_stored(folder)
    if not (folder / HELDOUT).exists():
        with written_whole(folder / HELDOUT) as partial:
            collect_heldout(config, heldout, partial, at)


def open_stored(
    config: Config, folder: Path, environments: Environments | None, processes: Processes = ALONE
) -> tuple[Replay, Batch]:
    """The replay that this process draws from, and the held-out episodes.

    A process keeps the rows of its own environments, and reads those of processes that are there no more: the rows of
    rank r are read by r modulo the number of processes. Stored data is read whole by each.
    """
    if environments is None:
        replay_folder, heldout_folder = stored_data(config, folder)
        replay = Replay.open(replay_folder, read_only=True)
        if len(replay) < config.replay.sequence_length:
            replay.close()
            expected = f"at most the {len(replay)} rows of {replay_folder}"
            raise ValueError(f"replay.sequence_length: expected {expected}, got {config.replay.sequence_length}")
        return replay, read_episodes(heldout_folder, config.evaluation.max_length)
    heldout = read_episodes(folder / HELDOUT, config.evaluation.max_length)
    own = share_folder(folder / REPLAY, processes.rank)
    if (own / HEADER).exists():
        replay = _own_replay(config, own, environments)
    else:
        replay = build.build_replay(config, environments, own)
    left = {rank: share for rank, share in shares(folder / REPLAY).items() if rank >= processes.world}
    mine = [share for rank, share in left.items() if rank % processes.world == processes.rank]
    replay.join(Replay.open(share, read_only=True) for share in mine)
    return replay, heldout


def is_divided(folder: Path) -> bool:
    """Whether an earlier session divided the stored data into the run's own folder: its source may be gone by now."""
    return (folder / REPLAY).exists()


def _require_stored(folder: Path) -> None:
    """See that a run with a checkpoint still has what it learned from and is scored on.

    Raises:
        FileNotFoundError: if not; nothing is made in the place of either.
    """
    for name in (REPLAY, HELDOUT):
        if not (folder / name / HEADER).is_file():
            found = found_rows(folder / name)
            raise FileNotFoundError(
                f"{folder / name}: expected the rows that this run's checkpoints belong to, "
                f"found no {HEADER}{found}; {RESTORE}"
            )


def _own_replay(config: Config, folder: Path, environments: Environments) -> Replay:
    """The replay of an earlier session, if it fits the settings; where there is no checkpoint yet, nothing else tells
    which settings the run was begun with.

    Raises:
        ValueError: if it does not.
    """
    replay = Replay.open(folder)
    have = {"env": replay.spec, "env.num_envs": replay.streams, "replay.capacity": replay.capacity}
    now = (environments.spec, environments.count, config.replay.capacity)
    for (key, then), wanted in zip(have.items(), now, strict=True):
        if then != wanted:
            replay.close()
            raise ValueError(
                f"{folder}: was begun with {key} = {then}, and config.yaml now means {wanted}; "
                "restore config.yaml, or begin a new run"
            )
    return replay


def collect_heldout(
    config: Config, environments: Environments, folder: Path, at: Callable[[str], None] = lambda words: None
) -> None:
    """Write whole episodes of a random policy. `evaluation.seed` decides which; `at` is told how far it is."""
    settings = config.evaluation
    random = make_generator(settings.seed, stream=Stream.HELDOUT)
    seed = int(torch.randint(2**31, (1,), generator=random))
    rollout = Rollout(environments, RandomPolicy(environments.spec.action, random), seed)
    capacity = settings.episodes * settings.max_length
    with Replay(folder, environments.spec, capacity=capacity, streams=1) as replay:
        episodes = 0
        while episodes < settings.episodes:
            rows = rollout.step()
            replay.append(rows)
            episodes += int(rows.is_last.sum())
            at(f"{episodes} of {settings.episodes} collected, {replay.rows_written} rows")
        replay.seal()
