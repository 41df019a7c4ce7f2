"""Settings -> objects: sections of the configuration become arguments here, in `build_networks` for the world model,
and in `build_acting` for what acts."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from worldmodel.behaviour.actor_critic import ActorCritic
from worldmodel.build_acting import build_acting_evaluator
from worldmodel.checks import require
from worldmodel.config import BEFORE, Config
from worldmodel.config_acting import PLANNERS
from worldmodel.config_model import LossConfig
from worldmodel.data import suites
from worldmodel.data.environment import Environments, environment_law, make_environments
from worldmodel.data.replay import Replay
from worldmodel.models.decoder import CONTINUE, REWARD
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.loss import Objective
from worldmodel.objectives.overshooting import Overshooting
from worldmodel.system.launched import Launched
from worldmodel.system.provenance import provenance
from worldmodel.training.captured import CapturableLearner, CapturedUpdate, CudaRecorder
from worldmodel.training.evaluators import Evaluator, EvidenceEvaluator, HeldOutEvaluator, RoughEvidenceSettings
from worldmodel.training.learner import Learner
from worldmodel.training.processes import ALONE, Processes
from worldmodel.training.schedule import Schedule
from worldmodel.training.tracking import FolderTracker, Tracker, Trackers
from worldmodel.training.wandb_filing import file_run, wandb_mode
from worldmodel.training.wandb_tracker import Place, WandbTracker
from worldmodel.types import Batch, EnvSpec


def build_environments(config: Config, *, heldout: bool = False) -> Environments:
    """The environments that write the data; for held-out episodes a single one, cut at the longest scored episode."""
    settings = asdict(config.env)
    env_id, count = settings.pop("id"), settings.pop("num_envs")
    if heldout:
        return make_environments(env_id, count=1, row_limit=config.evaluation.max_length, **settings)
    return make_environments(env_id, count=count, **settings)


def build_evaluation_environments(config: Config, count: int) -> Environments:
    """The environments that a policy is evaluated in, cut at the longest scored episode; none that fails is replaced,
    since a new one would begin elsewhere."""
    settings = asdict(config.env) | {"restarts": 0}
    env_id, _ = settings.pop("id"), settings.pop("num_envs")
    return make_environments(env_id, count=count, row_limit=config.evaluation.max_length, **settings)


def build_law(
    config: Config, *, allow_env: bool = False, log: Callable[[str], None] = lambda words: None
) -> dict[str, Any] | None:
    """The law of the rows that a run writes; None where the environment states none, or something changes its rows.

    Args:
        config: of the run.
        allow_env: make the environment even if it is not one of this project's, which imports the modules that its
            settings name; without it such an environment has no law here.
        log: told which modules those are, before.
    """
    env = config.env
    if _changed(config) or not (allow_env or suites.is_own(env.id)):
        return None
    if not suites.is_own(env.id):
        log(making_words(config))
    return environment_law(env.id, env.kwargs)


def why_no_law(config: Config) -> str | None:
    """Why a run's rows have no law unless `allow_env` is given; None where it would change nothing."""
    env_id = config.env.id
    if _changed(config) or suites.is_own(env_id) or suites.is_well_known(env_id):
        return None
    modules = ", ".join(suites.modules_of(env_id))
    imports = f"imports {modules}" if modules else "runs its code"
    return (
        f"no exact evidence: {env_id} is not one of this project's environments; --allow_env makes it, which {imports}"
    )


def making_words(config: Config) -> str:
    """What making a run's environments imports, as far as its settings tell."""
    if config.env.id.startswith(suites.GIVEN):
        return f"making {config.env.id}, which Python has to hand over"
    modules = ", ".join(suites.modules_of(config.env.id, config.env.wrappers))
    return f"making {config.env.id}, which imports {modules or 'nothing that its settings name'}"


def _changed(config: Config) -> bool:
    """Whether a run's rows are others than its environment emits."""
    env = config.env
    return bool(env.wrappers or env.action_repeat > 1 or env.pixels != "off" or env.hide or config.offline is not None)


def build_objective(config: LossConfig, spec: EnvSpec) -> Objective:
    """What is optimised."""
    if config.alpha is not None:
        dyn_rep: tuple[float, float] | None = (config.alpha, 1 - config.alpha)
    elif config.dyn is not None and config.rep is not None:
        dyn_rep = (config.dyn, config.rep)
    else:
        dyn_rep = None
    scales = {path: config.observation_scale for path in spec.observations}
    return Objective(
        beta=config.beta,
        kl_warmup=config.kl_warmup,
        dyn_rep=dyn_rep,
        free_nats=config.free_nats,
        free_nats_rule=config.free_nats_rule,
        scales=scales | {REWARD: config.reward_scale, CONTINUE: config.continue_scale},
        overshooting=build_overshooting(config),
    )


def build_overshooting(config: LossConfig) -> Overshooting | None:
    """The term about imagined futures; None where there is none."""
    if config.overshooting == 0:
        return None
    return Overshooting(
        scale=config.overshooting,
        of=config.overshooting_of,
        steps=config.overshooting_steps,
        every=config.overshooting_every,
        samples=config.overshooting_samples,
    )


def build_schedule(config: Config, processes: Processes = ALONE) -> Schedule:
    """When things happen in the training loop."""
    training, replay = config.training, config.replay
    return Schedule(
        env_steps=training.env_steps,
        prefill=training.prefill,
        train_ratio=training.train_ratio,
        batch_size=replay.batch_size,
        growth=replay.growth,
        growth_after=replay.growth_after,
        sequence_length=replay.sequence_length,
        burn_in=replay.burn_in,
        restart=replay.restart,
        log_every=training.log_every,
        evaluate_every=training.evaluate_every,
        save_every=training.save_every,
        updates=training.updates if config.offline is not None else None,
        processes=processes.world,
    )


def build_evaluators(
    config: Config,
    learner: Learner[WorldModel],
    heldout: Batch,
    replay: Replay,
    agent: ActorCritic | None = None,
    environments: Environments | None = None,
) -> tuple[HeldOutEvaluator, list[Evaluator]]:
    """The parts of every evaluation: of the held-out episodes, and the others.

    Args:
        config: of the run.
        learner: of the world model.
        heldout: whole episodes, padded, on the model's device.
        replay: the rows that are learned from.
        agent: the actor and its critic where they learn.
        environments: those that the present policy is to play in, if it is.
    """
    settings, model = config.evaluation, learner.model
    held_out = HeldOutEvaluator(
        learner,
        heldout,
        replay,
        build_schedule(config),
        context=settings.context,
        horizon=settings.horizon,
        samples=settings.samples,
        seed=settings.seed,
    )
    rough = RoughEvidenceSettings(
        settings.particles, settings.particle_episodes, held_out.context + held_out.horizon, settings.seed
    )
    evaluators: list[Evaluator] = [EvidenceEvaluator(model, heldout, rough)] if settings.particles else []
    if environments is not None:
        evaluators.append(build_acting_evaluator(config, learner, agent, environments, rough))
    return held_out, evaluators


def build_learner(
    config: Config,
    model: WorldModel,
    generator: torch.Generator,
    processes: Processes = ALONE,
    auxiliary: Mapping[str, nn.Module] | None = None,
) -> Learner[WorldModel]:
    """The optimiser around a model."""
    optimizer = config.optimizer
    if config.training.compile:
        own = isinstance(model.dynamics, RSSM)
        require(own, "training.compile", "false where the recurrence is not this project's", config.training.compile)
        assert isinstance(model.dynamics, RSSM)
        model.dynamics.compile()
    return Learner(
        model,
        build_objective(config.loss, model.spec),
        generator,
        learning_rate=optimizer.learning_rate,
        warmup=optimizer.warmup,
        final_fraction=optimizer.final_fraction if optimizer.decay == "cosine" else 1.0,
        total_updates=build_schedule(config).total_updates,
        clip_norm=optimizer.clip_norm,
        weight_decay=optimizer.weight_decay,
        eps=optimizer.eps,
        autocast=config.training.autocast,
        processes=processes,
        auxiliary=auxiliary,
    )


def require_capturable(config: Config, device: torch.device, processes: int = 1) -> None:
    """Raise ValueError if `training.cuda_graph` asks for a graph of updates that cannot be captured here."""
    wanted, name = config.training.cuda_graph, "training.cuda_graph"
    expected = f"false on the device {device}, which has no CUDA graphs"
    require(not wanted or device.type == "cuda", name, expected, wanted)
    require(not wanted or processes == 1, name, f"false where {processes} processes share the training", wanted)


def build_captured_update(
    config: Config, learners: Mapping[str, CapturableLearner], device: torch.device
) -> CapturedUpdate | None:
    """Steps of all learners as a CUDA graph; None where they are to be taken as they are."""
    if not config.training.cuda_graph:
        return None
    return CapturedUpdate(learners, CudaRecorder(device, [learner.generator for learner in learners.values()]))


def build_replay(config: Config, environments: Environments, folder: Path) -> Replay:
    """An empty replay with a stream for each environment."""
    return Replay(folder, environments.spec, capacity=config.replay.capacity, streams=environments.count)


def tracking_mode(config: Config) -> Literal["online", "offline"] | None:
    """How W&B will run, or None where it will not.

    Raises:
        ValueError: if online is asked for and no key is configured.
    """
    if config.tracking == "none":
        return None
    mode = wandb_mode(config.tracking, os.environ)
    return None if mode == "disabled" else mode


def build_tracker(
    config: Config, folder: Path, run_id: str, *, resumed: bool, processes: Processes = ALONE
) -> tuple[Tracker, Place | None]:
    """The run's trackers, and where W&B keeps the run if it does. Processes that do not write have no trackers."""
    if not processes.writes:
        return Trackers([]), None
    mode = tracking_mode(config)
    if mode is None:
        return FolderTracker(folder), None
    wandb = WandbTracker(
        folder,
        asdict(config) | {"started_by": provenance()},
        file_run(folder, os.environ, **asdict(config.wandb)),
        mode=mode,
        may_go_offline=config.tracking == "auto",
        run_id=run_id,
        resumed=resumed,
    )
    return Trackers([FolderTracker(folder), wandb]), wandb.place


def lasting_settings(config: Config) -> dict[str, Any]:
    """The settings that a run keeps for life: its checkpoints belong to them. How long and where it runs may change."""
    settings = asdict(config)
    for key in ("training", "evaluation", "wandb", "tracking", "name", "runs", "device"):
        del settings[key]
    if config.acting.policy not in PLANNERS:  # whose rows depend on how it searches
        del settings["planner"]
    for key in ("asynchronous", "step_timeout", "restarts"):
        del settings["env"][key]
    return settings


def unnamed_settings() -> dict[str, Any]:
    """What a lasting setting was for a checkpoint that does not name it, being older than the setting."""
    settings = lasting_settings(Config())
    for key, before in BEFORE.items():
        section, name = key.split(".")
        settings[section][name] = before
    return settings


def build_device(name: str, processes: Launched | None = None) -> torch.device:
    """A device that is there; of several processes, each has a GPU of its own.

    Raises:
        ValueError: if it is not there, or is one of the GPUs by its number for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if processes is not None and processes.world > 1 and name.startswith("cuda"):
        require(name == "cuda", "device", "auto, cpu or cuda where several processes share the training", name)
        name = f"cuda:{processes.local}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: expected auto or a torch device of this machine, got {name!r}: {error}") from error
    return device
