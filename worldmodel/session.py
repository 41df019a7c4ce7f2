"""A training from beginning to end: make everything, train, say what came of it.

run = train("configs/pendulum.yaml", {"seed": 1})
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import build
from worldmodel.config import Config
from worldmodel.config_io import read_config, write_config
from worldmodel.data.environment import Environments
from worldmodel.data.policy import RandomPolicy
from worldmodel.data.replay import Replay, pad_episodes
from worldmodel.data.rollout import Rollout
from worldmodel.models.networks import parameter_count
from worldmodel.models.world_model import WorldModel
from worldmodel.run import Run
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.progress import RunProgress
from worldmodel.training.trainer import Trainer
from worldmodel.types import Batch


def train(
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    progress: RunProgress | None = None,
) -> Run:
    """Train a world model on rollouts of a random policy.

    Args:
        config: settings, or the YAML file they are in; the defaults if left out.
        overrides: single settings by dotted key, such as {"rssm.deter": 256}; only with a file or the defaults.
        progress: shows how it goes; standard error by default.
    Returns:
        The finished (or interrupted) run, with the last weights; `open_run` takes the best.
    Raises:
        ValueError: for impossible settings or environments, before anything is written.
        EnvironmentFailureError, NonFiniteLossError: the run stopped; its last good checkpoint is kept.
    """
    if not isinstance(config, Config):
        config = read_config(config if config is not None else (), overrides)
    elif overrides:
        raise ValueError("overrides: expected none beside a finished Config; use dataclasses.replace")
    device, tracking = build.build_device(config.device), build.tracking_mode(config)
    progress = progress or RunProgress(config.training.env_steps)
    with ExitStack() as stack:
        environments = stack.enter_context(build.build_environments(config))
        apart = stack.enter_context(build.build_environments(config, heldout=True))
        model = build.build_model(config, environments.spec).to(device)
        folder = _make_folder(config)
        tracker, wandb_at = build.build_tracker(config, folder, tracking)
        stack.push(lambda kind, *_: tracker.finish(_products(folder), failed=kind is not None))
        _announce(progress.say, config, model, folder, wandb_at)
        heldout = collect_heldout(config, apart, folder / "heldout").to(device)
        replay = stack.enter_context(build.build_replay(config, environments, folder / "replay"))
        policy = RandomPolicy(environments.spec.action, make_generator(config.seed, stream=Stream.POLICY))
        trainer = Trainer(
            build.build_learner(config, model, make_generator(config.seed, stream=Stream.LATENTS, device=device)),
            Rollout(environments, policy, config.seed),
            replay,
            heldout,
            tracker,
            progress,
            folder=folder,
            schedule=build.build_schedule(config),
            sampling=make_generator(config.seed, stream=Stream.SAMPLING),
            seed=config.seed,
        )
        with progress:
            finished = trainer.run()
        _conclude(progress.say, trainer, folder, wandb_at, finished)
    if trainer.evaluation is not None:
        progress.say(f"report      {write_report(folder)}")
    return Run(folder, config, model.eval())


def write_report(folder: Path) -> Path:
    """Write a run's page, folder/report.html, from what is in its folder: -> where it is.

    Raises:
        FileNotFoundError, ValueError: if the folder is not a run's, or has no metrics.
    """
    from worldmodel.report.page import page  # and so matplotlib
    from worldmodel.report.record import read_record

    path = folder / "report.html"
    path.write_text(page(read_record(folder), asdict(Config())), encoding="utf-8")
    return path


def collect_heldout(config: Config, environments: Environments, folder: Path) -> Batch:
    """Whole episodes of the same random policy, with seeds of their own."""
    settings = config.evaluation
    random = make_generator(config.seed, stream=Stream.HELDOUT)
    seed = int(torch.randint(2**31, (1,), generator=random))
    rollout = Rollout(environments, RandomPolicy(environments.spec.action, random), seed)
    capacity = settings.episodes * settings.max_length
    with Replay(folder, environments.spec, capacity=capacity, streams=1) as replay:
        episodes = 0
        while episodes < settings.episodes:
            rows = rollout.step()
            replay.append(rows)
            episodes += int(rows.is_last.sum())
        return pad_episodes(list(replay.episodes()), settings.max_length)


def _products(folder: Path) -> list[Path]:
    return [folder / "config.yaml", *sorted((folder / "checkpoints").glob("*.safetensors"))]


def _make_folder(config: Config) -> Path:
    stem = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ["", *(f"-{i}" for i in range(2, 100))]:
        folder = Path(config.runs) / (stem + suffix)
        try:
            folder.mkdir(parents=True)  # not asked for first: another run may start in the same second
        except FileExistsError:
            continue
        write_config(config, folder / "config.yaml")
        return folder
    raise FileExistsError(f"{config.runs}: a hundred runs named {stem} exist already")


def _announce(
    say: Callable[[str], None], config: Config, model: WorldModel, folder: Path, wandb_at: str | None
) -> None:
    spec = model.spec
    leaves = ", ".join(f"{path} {leaf.kind} {list(leaf.shape)}" for path, leaf in spec.observations.items())
    parts = {"encoder": model.encoder, "rssm": model.rssm, "decoder": model.decoder}
    sizes = ", ".join(f"{name} {parameter_count(part):,}" for name, part in parts.items())
    say(f"{config.env.id}: observes {leaves}; acts {spec.action.kind} [{spec.action.width}]")
    say(f"{parameter_count(model):,} parameters ({sizes}) on {model.device}")
    say(f"run folder {folder}; W&B {wandb_at or 'off'}")
    say(f"collecting {config.evaluation.episodes} held-out episodes, then {config.training.prefill} rows of prefill")


def _conclude(say: Callable[[str], None], trainer: Trainer, folder: Path, wandb_at: str | None, finished: bool) -> None:
    say("finished" if finished else "stopped early, as asked; everything so far is saved")
    if trainer.evaluation is None:
        say("no update was made")
        return
    per_step, kl = trainer.evaluation.per_step, trainer.evaluation.kl.summary
    terms = ", ".join(f"{name} {value:.3f}" for name, value in per_step.items() if name not in ("elbo", "kl"))
    say(f"held-out, nats per step: ELBO {per_step['elbo']:.3f} = log-likelihoods ({terms}) - KL {per_step['kl']:.3f}")
    say(f"KL per step: median {kl['median']:.3f}, 95 % {kl['q95']:.3f}; {kl['active_units']:.0f} active latent groups")
    if not trainer.evaluation.open_loop:
        say("no open-loop errors: no held-out episode has evaluation.context + evaluation.horizon rows")
    floors = trainer.learner.model.resolution()
    if floors:
        listed = "; ".join(f"{name} {_numbers(floor)}" for name, floor in floors.items())
        say(f"densities are measured down to a std of: {listed}")
    say(f"pictures    {folder / 'figures' / 'kl_overview.png'} and its neighbours")
    say(f"numbers     {folder / 'metrics.jsonl'}")
    if wandb_at:
        say(f"W&B         {wandb_at}" + ("" if wandb_at.startswith("http") else f"   (upload: wandb sync {wandb_at})"))


def _numbers(x: torch.Tensor) -> str:
    values = np.atleast_1d(x.cpu().numpy())
    shown = " ".join(f"{v:.3g}" for v in values[:8])
    return shown + (f" ... ({len(values)} in all)" if len(values) > 8 else "")
