"""Write rollouts of a Gymnasium environment to a folder, to train on later."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from worldmodel.checks import require_positive
from worldmodel.commands.options import add_options_of, arguments_of
from worldmodel.config import Config
from worldmodel.config_io import add_config_options, config_from_options, write_config
from worldmodel.training.interruptions import SIGNALS, AbandonedError, Interruptions

if TYPE_CHECKING:
    from worldmodel.data.offline import Tally
    from worldmodel.data.rollout import Rollout
    from worldmodel.training.progress import Watch


def add_options(parser: ArgumentParser) -> None:
    """Every setting, and files of them; how much to collect, and where to."""
    add_config_options(parser)
    add_options_of(parser, collect, skip={"config"})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Collect. An environment that fails ends it with status 1, Ctrl-C with 130, SIGTERM with 143; what was collected
    by then stays in OUTPUT.partial.
    """
    config, folder = config_from_options(options), options.output
    require_positive(rows=options.rows)
    if folder.exists():
        raise FileExistsError(f"output: expected a folder that does not exist yet, got {folder}")
    # Heavy, and not needed to refuse a setting.
    from worldmodel.data.guard import EnvironmentFailureError

    try:
        with Interruptions() as interruptions, interruptions.abandoning(*SIGNALS):
            collect(config, **arguments_of(options, collect))
    except EnvironmentFailureError as error:
        print(f"worldmodel: collecting stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except AbandonedError as error:
        print(
            f"worldmodel: collecting stopped by {error}; what was collected stays in {folder}.partial", file=sys.stderr
        )
        sys.exit(128 + error.signal)


def collect(config: Config, *, output: Path, rows: int) -> None:
    """Write config.yaml, heldout/ and replay/: the rows that a training with these settings would begin with.

    Args:
        config: the settings.
        output: the folder to make; must not exist.
        rows: how many to write, over all environments; a few more where these cannot all write as many.
    """
    from worldmodel import build
    from worldmodel.data.offline import HELDOUT, REPLAY, tally, written_whole
    from worldmodel.data.policy import RandomPolicy
    from worldmodel.data.rollout import Rollout
    from worldmodel.runs.messages import without_text
    from worldmodel.runs.rows import collect_heldout
    from worldmodel.seeding import Stream, make_generator
    from worldmodel.training.progress import Watch

    watch = Watch()
    with (
        watch.phase("making the environments"),
        build.build_environments(config) as environments,
        build.build_environments(config, heldout=True) as heldout_environments,
        written_whole(output) as partial,
    ):
        write_config(config, partial / "config.yaml")
        print(f"collecting {config.evaluation.episodes} held-out episodes of {config.env.id}, then {rows} rows")
        if environments.left_out:
            print(without_text(environments.left_out))
        with watch.phase("held-out episodes"):
            collect_heldout(config, heldout_environments, partial / HELDOUT, watch.at)
        scored = tally(partial / HELDOUT)
        actor = RandomPolicy(environments.spec.action, make_generator(config.seed, stream=Stream.POLICY))
        with watch.phase("collecting"):
            learnt = _fill(partial / REPLAY, Rollout(environments, actor, config.seed), rows, watch)
    print(f"{output / REPLAY}: {learnt}")
    print(f"{output / HELDOUT}: {scored}")


def _fill(folder: Path, rollout: "Rollout", rows: int, watch: "Watch") -> "Tally":
    """Write a replay of at least so many rows."""
    from worldmodel.data.offline import Tally
    from worldmodel.data.replay import Replay

    count = rollout.environments.count
    steps = -(-rows // count)
    written = Tally()
    with Replay(folder, rollout.environments.spec, capacity=steps * count, streams=count) as replay:
        for _ in range(steps):
            new = rollout.step()
            replay.append(new)
            written.add(new)
            watch.at(f"{written.rows}/{steps * count} rows")
        replay.seal()
    return written
