"""The settings of where a Weights & Biases run is filed; part of `config.Config`."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WandbConfig:
    """Where a Weights & Biases run is filed, and under which words. Whether there is one is the setting `tracking`.

    A setting that is not given is taken from the environment variable that W&B has for it, if that is set.
    """

    project: str | None = None
    """Project name; null is WANDB_PROJECT, or worldmodel."""
    name: str | None = None
    """Name of the run; null is WANDB_NAME, or the name of the run's folder."""
    entity: str | None = None
    """User or team; null is WANDB_ENTITY, or the account's own default."""
    group: str | None = None
    """Group that this run is shown under; null is WANDB_RUN_GROUP, or none."""
    tags: list[str] = field(default_factory=list)
    """Tags; without any, those of WANDB_TAGS, which are separated by commas."""
    notes: str | None = None
    """A longer description, in Markdown; null is WANDB_NOTES, or none."""
    dir: str | None = None
    """Folder that W&B's files lie in, as DIR/wandb; null is WANDB_DIR, or the run's own folder."""
