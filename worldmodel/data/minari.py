"""Minari datasets <-> stored episodes.

When a dataset is read, its spaces become leaves and an action vector, as those of an environment do. When episodes are
written, the leaves become a Dict nested as their paths are, or the bare leaf if "obs" is the only one, and the action
vector becomes the plainest space of its kind. What was written is read back row for row and byte for byte.

Minari is an extra of this package and is imported when it is first needed. It keeps its datasets under
MINARI_DATASETS_PATH, or in the home folder.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from worldmodel.data import spaces
from worldmodel.data.batches import whole_episode
from worldmodel.data.replay import Replay
from worldmodel.data.row_spaces import action_space_of_rows
from worldmodel.system.installation import install_command
from worldmodel.types import Batch, EnvSpec, ObservationSpec

PREFIX = "minari:"  # tells a dataset's id from a folder


class MissingExtraError(ModuleNotFoundError):
    """An optional part of the package is not installed; the message says how to install it."""


class MinariEpisodes:
    """The episodes of a Minari dataset, read from the disk again at every pass over them."""

    def __init__(
        self, dataset: Any, *, image_size: int, drop_text: bool, integers: Literal["mass", "density"] = "mass"
    ) -> None:
        """Args:
        dataset: as `minari.load_dataset` returns it.
        image_size, drop_text, integers: see `spaces.observation_specs`.
        """
        self._dataset = dataset
        self.left_out = tuple(spaces.text_leaves(dataset.observation_space))  # rows do not hold them
        observations = spaces.observation_specs(
            dataset.observation_space, image_size=image_size, drop_text=drop_text, integers=integers
        )
        self._spec = EnvSpec(observations, spaces.action_spec(dataset.action_space))

    @property
    def spec(self) -> EnvSpec:
        """What a row holds."""
        return self._spec

    @property
    def lossy(self) -> bool:
        """Whether images were changed when the dataset was written: by default, Minari stores them as JPEG."""
        from minari.dataset.minari_storage import is_image_space

        space = self._dataset.observation_space
        return bool(self._dataset.storage.jpeg_encoding) and any(
            is_image_space(leaf) for _, leaf in spaces.leaves(space)
        )

    def episodes(self) -> Iterator[Batch]:
        """Every episode in the order of the dataset, as a batch of one.

        Raises:
            ValueError: for data that does not fit the dataset's own spaces; the message names the episode.
        """
        for episode in self._dataset.iterate_episodes():
            try:
                yield self._batch(episode)
            except ValueError as error:
                raise ValueError(f"episode {episode.id} of the dataset: {error}") from error

    def _batch(self, episode: Any) -> Batch:
        dataset = self._dataset
        obs = spaces.encode_observations(dataset.observation_space, self.spec.observations, episode.observations)
        actions = [spaces.encode_action(dataset.action_space, action) for action in episode.actions]
        _check(obs, actions, episode)
        return whole_episode(obs, np.stack(actions), episode.rewards, terminated=bool(episode.terminations[-1]))


class Exported(NamedTuple):
    """How much an export wrote."""

    episodes: int
    rows: int  # of these episodes; Minari counts steps, one fewer in each episode
    left_behind: int  # rows that were not exported: of unfinished episodes, or of a single row


def open_minari(
    dataset_id: str,
    *,
    image_size: int = 64,
    drop_text: bool = True,
    integers: Literal["mass", "density"] = "mass",
) -> MinariEpisodes:
    """Open a dataset that Minari has stored on this machine; nothing is downloaded.

    Args:
        dataset_id: such as "D4RL/door/human-v2", with or without "minari:" before it.
        image_size: height and width that images are resized to.
        drop_text: leave text observations out instead of refusing the dataset.
        integers: what Boxes of whole numbers are, see `spaces.observation_specs`.
    Raises:
        MissingExtraError: if Minari is not installed.
        ValueError: if the id is malformed.
        FileNotFoundError: if there is no such dataset.
        UnsupportedSpaceError: if its spaces cannot be modelled.
    """
    minari, name = _import_minari(), _checked_id(dataset_id)
    try:
        dataset = minari.load_dataset(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{PREFIX}{name}: expected a dataset that is on this machine, found none of that id "
            f"(`minari list local` shows those there are, `minari download {name}` fetches it)"
        ) from error
    return MinariEpisodes(dataset, image_size=image_size, drop_text=drop_text, integers=integers)


def export_minari(
    replay: Replay,
    dataset_id: str,
    *,
    environment: GymnasiumSpec | None = None,
    author: str | None = None,
    author_email: str | None = None,
    algorithm_name: str | None = None,
    code_permalink: str | None = None,
    description: str | None = None,
) -> Exported:
    """Write the whole episodes of a replay as a new Minari dataset, images bit for bit.

    Each action is written as the environment received it: clipped to [-1, 1], or the largest entry of a one-hot group.
    An episode of a single row is left out, because Minari stores steps.

    Args:
        replay: open; read one episode at a time.
        dataset_id: such as "pendulum/random-v0"; must be new.
        environment: what Minari's `recover_environment` makes; its spaces may differ from those that are stored.
        author: filed with the dataset where given.
        author_email: likewise.
        algorithm_name: likewise; who chose the actions.
        code_permalink: likewise; the code that wrote the episodes.
        description: likewise.
    Raises:
        MissingExtraError: if Minari is not installed.
        ValueError: if the id is malformed or taken, Minari cannot store a leaf's path, or no episode is whole.
    """
    minari, name = _import_minari(), _checked_id(dataset_id)
    observation_space, action_space = _observation_space(replay.spec), action_space_of_rows(replay.spec.action)
    if not any(True for _ in _exportable(replay)):
        raise ValueError(f"{replay.folder}: expected at least one whole episode to export, found none")
    about = {
        "author": author,
        "author_email": author_email,
        "algorithm_name": algorithm_name,
        "code_permalink": code_permalink,
        "description": description,
    }
    with _new_dataset(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about metadata that was not given
        dataset = minari.create_dataset_from_buffers(
            name,
            [],
            env=environment,
            observation_space=observation_space,
            action_space=action_space,
            data_format="hdf5",
            jpeg_encoding=False,
            **about,
        )
        dataset.storage.update_episodes(_buffers(replay, action_space))
    episodes, steps = dataset.storage.total_episodes, dataset.storage.total_steps
    return Exported(episodes, steps + episodes, len(replay) - steps - episodes)


@contextmanager
def _new_dataset(name: str) -> Iterator[None]:
    """A block that makes a dataset. Refuses an id that exists; after an error, removes the half that was written."""
    from minari.storage import get_dataset_path

    path = get_dataset_path(name)
    if path.exists():
        raise ValueError(f"dataset: expected a new id, got {name}, which Minari has already; raise its version")
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _import_minari() -> ModuleType:
    try:
        import h5py  # noqa: F401  without it, Minari would fail later and say something else
        import minari
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Minari datasets need the extra `minari`, which is not installed: {install_command('minari')}"
        ) from error
    return minari


def _checked_id(dataset_id: str) -> str:
    from minari.dataset.minari_dataset import parse_dataset_id

    name = dataset_id.removeprefix(PREFIX)
    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # TypeError: without a version
        form = "namespace/name-v0 (two letters, digits, - or _ at least before the slash)"
        raise ValueError(f"dataset: expected an id such as {form}, got {dataset_id!r}") from error
    return name


def _check(obs: dict[str, np.ndarray], actions: list[np.ndarray], episode: Any) -> None:
    """Raise ValueError unless T steps have T + 1 observations and T actions and only the last one ends the episode."""
    steps = len(episode.rewards)
    if steps < 1 or len(actions) != steps:
        raise ValueError(f"expected a step at least, and an action for each; got {steps} and {len(actions)}")
    if np.any(episode.terminations[:-1]) or np.any(episode.truncations[:-1]):
        raise ValueError(f"expected it to end at the last of its {steps} steps, found an end before")
    if not np.isfinite(episode.rewards).all() or not np.isfinite(actions).all():
        raise ValueError("expected finite rewards and actions, found others")
    for path, x in obs.items():
        if len(x) != steps + 1:
            raise ValueError(f"observation {path!r}: expected {steps + 1} for {steps} steps, got {len(x)}")


def _exportable(replay: Replay) -> Iterator[Batch]:
    return (episode for episode in replay.episodes() if episode.reward.shape[1] > 1)


def _buffers(replay: Replay, action_space: gymnasium.Space) -> Iterator[Any]:
    """Every whole episode as the buffer that Minari stores."""
    from minari.data_collector import EpisodeBuffer

    for episode in _exportable(replay):
        terminal = episode.is_terminal[0, 1:].numpy()
        yield EpisodeBuffer(
            observations=_nest({path: x[0].numpy() for path, x in episode.obs.items()}),
            actions=_decode_actions(action_space, episode.prev_action[0, 1:].numpy()),
            rewards=episode.reward[0, 1:].numpy(),
            terminations=terminal,
            truncations=episode.is_last[0, 1:].numpy() & ~terminal,
            infos={},
        )


def _decode_actions(space: gymnasium.Space, vectors: np.ndarray) -> np.ndarray:
    if isinstance(space, gym_spaces.Box):  # the stored units already; decoding would round small numbers
        return np.clip(vectors, -1, 1)
    return np.stack([spaces.decode_action(space, vector) for vector in vectors])


def _observation_space(spec: EnvSpec) -> gymnasium.Space:
    nested = _nest({path: _minari_space(leaf) for path, leaf in spec.observations.items()})

    def space(node: Any) -> gymnasium.Space:
        if not isinstance(node, dict):
            return node
        return gym_spaces.Dict({name: space(child) for name, child in node.items()})

    return space(nested)


def _minari_space(leaf: ObservationSpec) -> gymnasium.Space:
    if leaf.kind == "categorical":
        return gym_spaces.MultiDiscrete(list(leaf.classes), dtype=np.int32)
    if leaf.kind == "binary":
        return gym_spaces.MultiBinary(leaf.shape[0])
    return spaces.leaf_space(leaf)


def _nest(leaves: dict[str, Any]) -> Any:
    """{"arm/angle": x} -> {"arm": {"angle": x}}, since HDF5 takes a slash for a folder; {"obs": x} -> x."""
    if list(leaves) == [spaces.ROOT]:
        return leaves[spaces.ROOT]
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node: Any = nested
        for folder in folders:
            node = node.setdefault(folder, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node or {"", "."} & {*folders, name}:
            raise ValueError(f"observation {path!r}: expected a path that can be a Dict in a Dict, as Minari stores it")
        node[name] = leaf
    return nested
