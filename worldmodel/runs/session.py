"""Train a run from its beginning, or resume it: make everything that it needs, train, and write what it leaves.

run = train("pendulum", {"seed": 1})
run = resume("runs/pendulum-20260101-120000")

Started by torchrun, several processes make one run together: see `training.processes`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from worldmodel import build, build_acting
from worldmodel.config import Config
from worldmodel.data.guard import EnvironmentFailureError
from worldmodel.data.offline import EpisodeSource
from worldmodel.data.replay import Replay
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.elbo import explained
from worldmodel.report.formats import counted
from worldmodel.runs.acting import acts, compare_with_planner, write_acting
from worldmodel.runs.assembly import make_trainer
from worldmodel.runs.folder import (
    is_finished,
    locked,
    make_folder,
    note_divergence,
    note_finish,
    note_session,
    note_wandb,
    noted_divergence,
    products,
    read_settings,
)
from worldmodel.runs.given import (
    EnvMaker,
    Given,
    divide_given,
    read_given,
    require_auxiliary,
    require_given,
    with_given,
)
from worldmodel.runs.messages import announce, conclude, source_words
from worldmodel.runs.own_model import AuxiliaryMaker, ModelMaker, importing_words
from worldmodel.runs.rows import make_stored, open_stored
from worldmodel.runs.run import Run, open_run, write_report
from worldmodel.runs.worlds import Worlds, left_out, make_world
from worldmodel.system.launched import launched
from worldmodel.training.arithmetic import arithmetic
from worldmodel.training.checkpoint import Checkpoint, CheckpointError, newest_sound, require_settings
from worldmodel.training.divergence import ADVICE, NonFiniteLossError
from worldmodel.training.history import History, read_kl, rewind_metrics
from worldmodel.training.interruptions import SIGNALS, AbandonedError, Interruptions
from worldmodel.training.pictures import show_files
from worldmodel.training.processes import Processes, joined
from worldmodel.training.progress import RunProgress
from worldmodel.training.stages import Stages
from worldmodel.training.tracking import Tracker
from worldmodel.training.trainer import Trainer
from worldmodel.types import Batch


def train(
    config: Config | str | Path | Sequence[str | Path] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    data: EpisodeSource | None = None,
    env: EnvMaker | None = None,
    model: ModelMaker | WorldModel | None = None,
    auxiliary: Mapping[str, AuxiliaryMaker] | None = None,
    progress: RunProgress | None = None,
) -> Run:
    """Train a world model on rollouts of the policy that `acting.policy` names, or on stored data (`offline`).

    Args:
        config: settings; or YAML files of settings, by path or by a preset's name; the defaults if left out.
        overrides: single settings by dotted key, such as {"rssm.deter": 256}; only with a file or the defaults.
        data: episodes to learn from, as `data.from_episodes` makes them, in the place of an environment; `updates` and
            `evaluation.episodes` of the settings say how long, and how many of them are held out.
        env: a class or a function that makes an environment, registered with Gymnasium or not, in the place of
            `env.id`; whoever needs the environment later on, in another process, has to hand it over again.
        model: a function (settings, spec) that makes the world model, such as one that hands parts of its own to
            `build_model`; or a world model, of which a copy is trained. `open_run` and `resume` need it again.
        auxiliary: functions (model) that make modules, by name, each an `AuxiliaryLoss` that is added to the loss and
            priced in the ledger. `resume` needs them again, `open_run` does not.
        progress: shows how it goes; standard error by default.
    Returns:
        The finished (or interrupted, see `Run.ended_by`) run, with the last weights; `open_run` takes the best.
    Raises:
        ValueError: for impossible settings, environments or data, before anything is written; for too few stored steps
            or episodes, after the folder was made.
        EnvironmentFailureError, NonFiniteLossError, OSError: the run stopped; `resume` goes on from its last
            checkpoint.
    """
    if not isinstance(config, Config):
        config = read_given(config, overrides, data)
    elif overrides:
        raise ValueError("overrides: expected none beside a finished Config; use dataclasses.replace")
    given = Given(data, env, model, auxiliary)
    config = with_given(config, given)
    require_auxiliary(config, given)
    progress = progress or _progress(config)
    _say_imports(progress, config)
    making = f"making {counted(config.env.num_envs, 'environment')} of {config.env.id}"
    with (
        _processes(config) as processes,
        Interruptions(passed_on=processes.world > 1) as interruptions,
        _beginning(progress, config, making),
        make_world(config, interruptions, processes, given) as world,
    ):
        named = os.fsencode(make_folder(config)) if processes.writes else b""
        folder = Path(os.fsdecode(processes.exchange(named)[0]))
        with locked(folder, processes):
            if data is not None and processes.writes:
                divide_given(config, data, folder)
            return _run(config, folder, *world, progress, None, interruptions, processes, given)


def resume(
    folder: str | Path,
    *,
    env: EnvMaker | None = None,
    model: ModelMaker | WorldModel | None = None,
    auxiliary: Mapping[str, AuxiliaryMaker] | None = None,
    progress: RunProgress | None = None,
) -> Run:
    """Go on with a run from its newest sound checkpoint, or from its replay where it has none yet.

    Weights, optimiser, counters, random states and the replay are as they were. Steps collected since the checkpoint
    are kept, and the updates that they pay for are made. Environments begin new episodes; interrupted ones count as
    truncated.

    Making its environments, and a model that is not this project's, imports the modules that its settings name, and
    the run says so before. To open a stranger's run, use `open_run`, which imports none.

    Args:
        folder: the run's, as `train` made it.
        env, model, auxiliary: what `train` was given, if anything.
        progress: shows how it goes; standard error by default.
    Raises:
        FileNotFoundError: if the folder is not a run's.
        CheckpointError: if a checkpoint was written under other settings than config.yaml now has, or all are damaged.
        DamagedReplayError: if stored steps were altered or are missing.
        ValueError: if another process is working on it, or its steps are of other environments than config.yaml's.
    """
    folder = Path(folder)
    config = read_settings(folder)
    given = Given(None, env, model, auxiliary)
    require_given(config, folder, given, allow_code=True)
    require_auxiliary(config, given)
    progress = progress or _progress(config)
    _say_imports(progress, config)
    seen = _stamps(folder)
    checkpoint = _checkpoint(config, folder, progress)
    with (
        _processes(config) as processes,
        Interruptions(passed_on=processes.world > 1) as interruptions,
        _beginning(progress, config, build.making_words(config)),
        make_world(config, interruptions, processes, given, folder) as world,
        locked(folder, processes),  # after the workers were made, which do not keep the lock then
    ):
        if _stamps(folder) != seen:  # another process went on with the run meanwhile
            checkpoint = _checkpoint(config, folder, progress)
        return _run(config, folder, *world, progress, checkpoint, interruptions, processes, given)


@contextmanager
def _processes(config: Config) -> Iterator[Processes]:
    """The processes that share the run; raises ValueError if they, or their device, cannot do what is asked."""
    device = build.build_device(config.device, launched())
    build.require_capturable(config, device, launched().world)
    with joined(device, compiling=config.training.compile) as processes:
        processes.share_of(config.replay.batch_size, "replay.batch_size")
        if config.acting.policy == "actor":
            processes.share_of(config.behaviour.starts, "behaviour.starts")
        yield processes


def _say_imports(progress: RunProgress, config: Config) -> None:
    """Say which modules the settings name for the model and its losses, before they are imported."""
    if words := importing_words(config):
        progress.log(words)


def _beginning(progress: RunProgress, config: Config, making: str) -> AbstractContextManager[None]:
    """Say at once what is being made, since environments and libraries may take long to load: -> the phase of that."""
    progress.log(making if config.offline is None else f"reading {source_words(config)}")
    return progress.phase("setting up")


def _run(
    config: Config,
    folder: Path,
    model: WorldModel,
    losses: Mapping[str, nn.Module],
    worlds: Worlds,
    progress: RunProgress,
    checkpoint: Checkpoint | None,
    interruptions: Interruptions,
    processes: Processes,
    given: Given,
) -> Run:
    update = 0 if checkpoint is None else checkpoint.counters["updates"]
    run = Run(folder, config, model)
    with ExitStack() as stack:
        stack.enter_context(arithmetic(tf32=config.training.tf32, deterministic=config.training.deterministic))
        history, earlier, wandb_id, resumed = History(), None, "", False
        if processes.writes:
            history = History(rewind_metrics(folder / "metrics.jsonl", update, progress.log), read_kl(folder, update))
            earlier = noted_divergence(folder)
            wandb_id, resumed = note_session(folder, update, str(model.device), explained(model.likelihoods()))
        tracker, wandb_at = build.build_tracker(config, folder, wandb_id, resumed=resumed, processes=processes)
        stack.push(lambda kind, *_: _leave(progress, tracker, folder, interruptions, failed=kind is not None))
        if wandb_at is not None:
            note_wandb(folder, wandb_at.run_id)
        stack.push(lambda kind, error, _: _advise(progress.log, folder, kind, error, processes))
        announce(progress.log, config, model, folder, wandb_at, left_out(config, worlds.learning, folder), update)
        if processes.world > 1:
            progress.log(f"{processes.world} processes, each with environments and a replay of its own")
        stages = Stages()
        stored = _stored(config, folder, worlds, progress, stages, interruptions, processes)
        if stored is None:
            progress.log(f"stopped early, as asked; `worldmodel train --resume {folder}` goes on")
            return replace(run, model=model.eval(), ended_by=interruptions.signal)
        replay, heldout = stored
        stack.enter_context(replay)
        if worlds.heldout is not None:
            worlds.heldout.close()
        others = {"stages": stages, "history": history, "interruptions": interruptions}
        agent = build_acting.build_agent(config, model)
        trainer = make_trainer(
            config, folder, model, agent, worlds, replay, heldout, tracker, progress, processes, losses, **others
        )
        if checkpoint is not None:
            trainer.restore(checkpoint)
            checkpoint.parts.clear()  # or they would stay in memory for as long as the training
        if resumed:
            progress.log(f"going on after update {trainer.updates}, with {trainer.env_steps} steps")
        if earlier is not None:
            source = checkpoint.path if checkpoint else "its replay"
            progress.log(f"this run diverged before ({earlier}); it goes on from {source}; {ADVICE}")
        with progress:
            finished = trainer.run()
        run = replace(run, model=model.eval(), agent=None if agent is None else agent.eval())
        if processes.writes:
            _draw(run, trainer, interruptions, given)
        conclude(progress.log, config, trainer, folder, wandb_at, finished)
    interruptions.agreed(processes.greatest)  # the others wait for the one that draws, and end as it does
    return replace(run, ended_by=interruptions.signal)


def _stored(
    config: Config,
    folder: Path,
    worlds: Worlds,
    progress: RunProgress,
    stages: Stages,
    interruptions: Interruptions,
    processes: Processes,
) -> tuple[Replay, Batch] | None:
    """The replay and the held-out episodes, which the first process makes where they are not there yet; none if it is
    asked to stop meanwhile."""
    stored = None
    with stages("held_out"), progress.phase("held-out episodes"):
        with suppress(AbandonedError), interruptions.abandoning(*SIGNALS):
            if processes.writes:
                make_stored(config, folder, worlds.heldout, progress.at)
        if interruptions.agreed(processes.greatest):
            return None
        with suppress(AbandonedError), interruptions.abandoning(*SIGNALS):
            stored = open_stored(config, folder, worlds.learning, processes)
    if interruptions.agreed(processes.greatest):
        if stored is not None:
            stored[0].close()
        return None
    return stored


def _draw(run: Run, trainer: Trainer, interruptions: Interruptions, given: Given) -> None:
    """Write pictures and report after the last update, unless they are there or there is only time to save."""
    updates = trainer.updates
    if updates and not interruptions.terminated and not is_finished(run.folder, updates):
        with suppress(AbandonedError), interruptions.abandoning(*interruptions.still_to_come):
            best = open_run(run.folder, device=str(run.model.device), model=given.model, allow_code=True)
            finish_run(best, trainer)
            note_finish(run.folder, updates)


def _leave(
    progress: RunProgress, tracker: Tracker, folder: Path, interruptions: Interruptions, *, failed: bool
) -> None:
    """Finish tracking; after a SIGTERM, which leaves only seconds, without copies of the run's files."""
    if interruptions.terminated:
        tracker.finish([], failed=failed)
        return
    # It may wait for a network.
    with interruptions.abandoning(*interruptions.still_to_come), progress.phase("closing the records"):
        tracker.finish(products(folder), failed=failed)


def _advise(
    log: Callable[[str], None],
    folder: Path,
    kind: type[BaseException] | None,
    error: BaseException | None,
    processes: Processes,
) -> None:
    """Say how to go on after an end that is not the run's own fault; note a divergence, which is."""
    if kind is not None and issubclass(kind, KeyboardInterrupt | EnvironmentFailureError | OSError):
        log(f"everything that was stored is kept; `worldmodel train --resume {folder}` goes on")
    if isinstance(error, NonFiniteLossError) and processes.writes:
        note_divergence(folder, str(error).partition(";")[0])


def finish_run(run: Run, trainer: Trainer) -> None:
    """Write imagination/, for a run that acts play/, and report.html, from the best weights.

    Context and horizon are shortened where no held-out episode is long enough for them, down to a step each.
    """
    if trainer.heldout.imagines:
        with trainer.stages("imagine"), trainer.progress.phase("imagining"):
            imagined = run.write_imagination(seed=run.config.evaluation.seed)
            show_files(trainer.journal.pictures, trainer.updates, "imagination", imagined)
    show_policy = acts(run.config)
    if show_policy and run.agent is not None:
        with trainer.stages("play"), trainer.progress.phase("planning beside the actor"):
            compare_with_planner(run, trainer.journal.pictures, trainer.updates, trainer.progress)
    if show_policy:
        with trainer.stages("film"), trainer.progress.phase("filming the policy"):
            write_acting(run, trainer.journal.pictures, trainer.updates, trainer.progress)
    if trainer.heldout.imagines or show_policy:
        trainer.report_times()
    with trainer.progress.phase("writing the report"):
        write_report(run.folder)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that a run can be resumed from, the newest first."""
    return [folder / "checkpoints" / f"{name}.safetensors" for name in ("last", "previous", "best")]


def _stamps(folder: Path) -> list[tuple[int, int]]:
    """What changes when a checkpoint is written."""
    about = [path.stat() for path in _checkpoints(folder) if path.is_file()]
    return [(one.st_size, one.st_mtime_ns) for one in about]


def _checkpoint(config: Config, folder: Path, progress: RunProgress) -> Checkpoint | None:
    """The newest sound checkpoint, if there is one; says which newer ones are damaged.

    Raises:
        CheckpointError: if all are damaged, or it was written under other settings.
    """
    found, complaints = newest_sound(_checkpoints(folder))
    if found is None:
        if complaints:
            raise CheckpointError(f"{complaints[0]}; restore it from a copy, or begin a new run")
        return None
    for complaint in complaints:
        progress.log(f"{complaint}; going on from {found.path} instead")
    require_settings(found, build.lasting_settings(config), build.unnamed_settings())
    return found


def _progress(config: Config) -> RunProgress:
    """What is shown by default; nothing by any process but the first."""
    console = Console(quiet=True) if launched().rank else None
    if config.offline is None:
        return RunProgress(config.training.env_steps, console)
    return RunProgress(build.build_schedule(config).total_updates, console, unit="updates")
