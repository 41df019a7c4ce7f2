"""What a run says when it starts and when it ends."""

from collections.abc import Callable, Sequence
from pathlib import Path

from worldmodel.config import Config
from worldmodel.data.offline import GIVEN
from worldmodel.models.networks import parameter_count
from worldmodel.models.world_model import WorldModel
from worldmodel.report.formats import counted, several
from worldmodel.training.trainer import Trainer
from worldmodel.training.wandb_tracker import Place


def without_text(left_out: Sequence[str]) -> str:
    """Says which observations are left out because they are text."""
    return f"text is left out: {', '.join(left_out)} (env.drop_text)"


def source_words(config: Config) -> str:
    """What a run learns from, in words."""
    if config.offline is None:
        return config.env.id
    return "the episodes that it was given" if config.offline == GIVEN else config.offline


def announce(
    log: Callable[[str], None],
    config: Config,
    model: WorldModel,
    folder: Path,
    wandb_at: Place | None,
    left_out: Sequence[str] = (),
    update: int = 0,
) -> None:
    """Say what is learned from, which observations are left out, how large the model is, and where the run is kept.

    A run that goes on after an update has its first episodes already, and nothing is said of them.
    """
    spec = model.spec
    leaves = ", ".join(f"{path} {leaf.kind} {list(leaf.shape)}" for path, leaf in spec.observations.items())
    sizes = ", ".join(f"{name} {parameter_count(part):,}" for name, part in model.parts.items())
    source = source_words(config)
    log(f"{source}: observes {leaves}; acts {spec.action.kind} [{spec.action.width}]")
    if left_out:
        log(without_text(left_out))
    log(f"{parameter_count(model):,} parameters ({sizes}) on {model.device}")
    log(f"run folder {folder}; W&B {_kept_at(wandb_at)}")
    if config.offline is not None:
        log(f"learning from {source}, without an environment")
    elif update == 0:
        held_out = counted(config.evaluation.episodes, "held-out episode")
        log(f"{held_out}, then {counted(config.training.prefill, 'step')} of prefill")


def conclude(
    log: Callable[[str], None], config: Config, trainer: Trainer, folder: Path, wandb_at: Place | None, finished: bool
) -> None:
    """Say how the run ended: its held-out numbers, the floors of their densities, and where its files are."""
    if trainer.interruptions.terminated:
        log(
            f"stopped by SIGTERM after update {trainer.updates}; everything is saved: `worldmodel train "
            f"--resume {folder}` goes on, `worldmodel report {folder}` draws what there is"
        )
        return
    if finished and trainer.interruptions.requested:
        log(f"finished; drawing was stopped, as asked: `worldmodel imagine {folder}` and `report {folder}` do it again")
        return
    log("finished" if finished else f"stopped early, as asked; `worldmodel train --resume {folder}` goes on")
    if trainer.evaluation is None:
        log("nothing was left to do" if trainer.updates else "no update was made")
        return
    if "return" in trainer.scores:
        newest, best = trainer.scores["return"], trainer.best
        who = "the actor" if config.acting.policy == "actor" else config.acting.policy
        episodes = counted(config.evaluation.acting_episodes, "episode")
        log(f"{who} earns {newest:.1f} on average over {episodes} (best evaluation: {best:.1f})")
    per_step, kl = trainer.evaluation.per_step, trainer.evaluation.kl.summary
    terms = ", ".join(f"{name} {value:.3f}" for name, value in per_step.items() if name not in ("elbo", "kl"))
    log(f"held-out, nats per step: ELBO {per_step['elbo']:.3f} = log-likelihoods ({terms}) - KL {per_step['kl']:.3f}")
    log(f"KL per step: median {kl['median']:.3f}, 95 % {kl['q95']:.3f}; {kl['active_units']:.0f} active latent groups")
    held_out, usual = trainer.heldout, config.evaluation
    if not held_out.imagines:
        log("no imagination, and no open-loop errors: no held-out episode has more than one step")
    elif (held_out.context, held_out.horizon) != (usual.context, usual.horizon):
        log(
            f"imagined {counted(held_out.horizon, 'step')} after {held_out.context}: no held-out episode has the "
            f"{usual.context} + {usual.horizon} of evaluation.context and evaluation.horizon"
        )
    floors = trainer.learner.model.resolution()
    if floors:
        listed = "; ".join(f"{name} {several(floor.tolist())}" for name, floor in floors.items())
        log(f"densities are measured down to a std of: {listed}")
    for label, name, words in (
        ("report", "report.html", ""),
        ("figures", "figures/kl_overview.png", " and its neighbours"),
        ("imagined", "imagination", ""),
        ("film", f"play/{config.acting.policy}.gif", ": the policy's best and its median episode"),
        ("dream", "play/dream.gif", ": the world beside the policy's dream of it"),
        ("numbers", "metrics.jsonl", ""),
    ):
        if (folder / name).exists():
            log(f"{label:11} {folder / name}{words}")
    if wandb_at is not None:
        offline = not wandb_at.address.startswith("http")
        hint = f"   (look: wandb leet {wandb_at.address}; upload: wandb sync {wandb_at.address})" if offline else ""
        log(f"W&B         {_kept_at(wandb_at)}{hint}")


def _kept_at(wandb_at: Place | None) -> str:
    """Where W&B keeps the run, if it does; and which of a sweep's runs it is."""
    if wandb_at is None:
        return "off"
    sweep = f", run {wandb_at.run_id} of sweep {wandb_at.sweep}" if wandb_at.sweep else ""
    return f"{wandb_at.address}{sweep}"
