"""What a run learns from: its environments, and the untrained model with its losses. Nothing is written here."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import nn

from worldmodel import build
from worldmodel.config import Config
from worldmodel.data.environment import Environments
from worldmodel.data.minari import PREFIX, open_minari
from worldmodel.data.offline import source_spec
from worldmodel.evaluation.rounds import side_by_side
from worldmodel.models.world_model import WorldModel
from worldmodel.runs.folder import reading
from worldmodel.runs.given import Given
from worldmodel.runs.own_model import make_auxiliary, make_model
from worldmodel.runs.rows import is_divided
from worldmodel.system.launched import launched
from worldmodel.training.interruptions import SIGNALS, Interruptions
from worldmodel.training.processes import Processes
from worldmodel.types import EnvSpec


class Worlds(NamedTuple):
    """The environments of a run; none of a run from stored rows."""

    learning: Environments | None = None  # that the rows come from
    heldout: Environments | None = None  # of held-out episodes, in the process that writes
    playing: Environments | None = None  # there too: that the present policy is evaluated in, of a run that acts


@contextmanager
def make_world(
    config: Config,
    interruptions: Interruptions,
    processes: Processes,
    given: Given,
    folder: Path | None = None,
) -> Iterator[tuple[WorldModel, dict[str, nn.Module], Worlds]]:
    """The untrained model, its auxiliary losses, and the environments of the run.

    Nothing is written here, so that impossible settings leave nothing behind.
    """
    if folder is None:  # a run of an earlier version may go on
        _require_warmup(config)
    device = build.build_device(config.device, launched())
    build.tracking_mode(config)
    with ExitStack() as stack:
        worlds, acting = Worlds(), config.acting.policy != "random"
        with interruptions.abandoning(*SIGNALS):  # there is nothing yet to save
            if config.offline is None:
                learning = stack.enter_context(build.build_environments(config))
                heldout = playing = None
                if processes.writes:
                    heldout = stack.enter_context(build.build_environments(config, heldout=True))
                if processes.writes and acting and (episodes := config.evaluation.acting_episodes):
                    count = side_by_side(episodes)
                    playing = stack.enter_context(build.build_evaluation_environments(config, count))
                worlds = Worlds(learning, heldout, playing)
            spec = _spec(config, worlds.learning, folder) if given.data is None else given.data.spec
            _require_gradient(config, spec)
            model = make_model(config, spec, given.model).to(device)
            losses = make_auxiliary(config, model, given.auxiliary)
        yield model, losses, worlds


def _spec(config: Config, environments: Environments | None, folder: Path | None) -> EnvSpec:
    if environments is not None:
        return environments.spec
    assert config.offline is not None
    source = str(folder) if folder is not None and is_divided(folder) else config.offline
    return source_spec(source, **reading(config))


def _require_warmup(config: Config) -> None:
    """Raise ValueError if the run would end before its KL has its whole weight."""
    updates = build.build_schedule(config).total_updates
    words = f"loss.kl_warmup: expected at most the {updates} updates of the run, got {config.loss.kl_warmup}"
    if config.loss.kl_warmup > updates:
        raise ValueError(words)


def _require_gradient(config: Config, spec: EnvSpec) -> None:
    """Raise ValueError for images decoded at every class of every group."""
    images = [path for path, leaf in spec.observations.items() if leaf.kind == "image"]
    if config.rssm.gradient == "marginal" and images:
        states = config.rssm.stoch * config.rssm.classes
        raise ValueError(
            f"rssm.gradient: expected straight_through or reinmax where observations are images, got 'marginal', which "
            f"would decode {images[0]} {states} times a step"
        )


def left_out(config: Config, environments: Environments | None, folder: Path) -> tuple[str, ...]:
    """The paths of text observations that are left out, where that can be known: stored steps no longer have any."""
    if environments is not None:
        return environments.left_out
    if config.offline is None or not config.offline.startswith(PREFIX) or is_divided(folder):
        return ()
    return open_minari(config.offline, **reading(config)).left_out
