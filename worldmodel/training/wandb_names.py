"""What a run's metrics, curves and pictures are called at Weights & Biases, and what they are drawn over there.

W&B makes a section of its page of everything whose name begins alike, and sorts sections by name. The record,
`metrics.jsonl`, keeps the names that it always had; they are translated here and nowhere else.
"""

from typing import NamedTuple

from worldmodel.system.names import tracked_name

UPDATE, ENV_STEPS = "update", "env_steps"  # the two step axes
BOUND = ("elbo", "kl")  # the terms of a bound that are no log-likelihoods
BOUNDS = {  # tables with the terms of a bound
    "train": "train",
    "heldout": "heldout",
    "acting_heldout": "acting/own_episodes",
}
SECTIONS = {  # every other table whose name changes: the metrics that begin so, and what takes its place
    "acting_ending": "acting/ending",
    "acting_evidence": "evidence/own_episodes",
    "final_return": "acting/final",
    "grad_norm": "optimization/grad_norm",
    "heldout_bits_per_dimension": "heldout/bits_per_dimension",
    "heldout_evidence": "evidence/heldout",
    "heldout_kl": "kl/heldout",
    "latent": "train/latent",
    "open_loop": "imagination/open_loop",
    "optimizer": "optimization",
    "play": "acting/film",
    "resources": "wall_clock/resources",
    "rate": "wall_clock",  # rather than timing, so that it comes behind train
    "seconds": "wall_clock/seconds",
    "training_kl": "kl/training_sequences",
}
SINGLE = {  # names that change by themselves
    "acting": "acting/curves",
    "bound": "train/bound_curves",
    "env_restarts": "wall_clock/env_restarts",
    "loss/value": "train/loss",
    "open_loop": "imagination/open_loop_errors",
    **{f"kl/{name}": f"kl/batch/{name}" for name in ("mean", "median", "q95", "optimised_mean")},
}


class Definition(NamedTuple):
    """How W&B treats the metrics of a name, or of all names that begin as it does if it ends in a star."""

    name: str
    axis: str  # what charts are drawn over, by default
    summary: str | None = None  # what stands for the run in tables; None is the last value


HIGHEST = "max,last"
DEFINITIONS = (  # the first that fits counts
    Definition("acting/return", ENV_STEPS, HIGHEST),
    Definition("acting/median_return", ENV_STEPS, HIGHEST),
    Definition("acting/least_return", ENV_STEPS, HIGHEST),
    Definition("heldout/elbo", UPDATE, HIGHEST),
    Definition("train/elbo", UPDATE, HIGHEST),
    Definition("evidence/heldout/smc", UPDATE, HIGHEST),
    Definition("best/return", ENV_STEPS),
    Definition("wall_clock/env_steps_per_second", ENV_STEPS),
    Definition("wall_clock/env_restarts", ENV_STEPS),
    Definition("acting/*", ENV_STEPS),
    *(
        Definition(f"{section}/*", UPDATE)
        for section in (
            *("behaviour", "best", "evidence", "heldout", "imagination", "kl", "ledger", "optimization"),
            *("reconstruction", "train", "wall_clock"),
        )
    ),
)


def wandb_name(name: str) -> str:
    """A metric's, a curve's or a picture's name at W&B, each part between slashes fit for a file name.

        train/obs -> train/log_likelihood/obs, grad_norm/total -> optimization/grad_norm/total

    A name that is not listed here stays as it is.
    """
    table, _, rest = name.partition("/")
    if name in SINGLE:
        name = SINGLE[name]
    elif rest and table in BOUNDS:
        name = f"{BOUNDS[table]}/{rest if rest in BOUND else f'log_likelihood/{rest}'}"
    elif rest and table in SECTIONS:
        name = f"{SECTIONS[table]}/{rest}"
    return tracked_name(name)
