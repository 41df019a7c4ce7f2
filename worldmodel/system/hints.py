"""What was probably meant by a name that does not exist."""

import difflib
from collections.abc import Collection, Mapping

OTHER_NAMES = {  # what other libraries of world models call a setting, and what it is called here
    # Dreamer: danijar/dreamerv2 and dreamerv3, NM512/dreamerv3-torch and r2dreamer
    "task": "env.id",
    "envs": "env.num_envs",
    "size": "env.image_size",
    "steps": "training.env_steps",
    "replay_ratio": "training.train_ratio",
    "pretrain": "training.prefill",
    "eval_every": "training.evaluate_every",
    "precision": "training.autocast",
    "batch_length": "replay.sequence_length",
    "replay_size": "replay.capacity",
    "dataset_size": "replay.capacity",
    "logdir": "runs",
    "dyn_deter": "rssm.deter",
    "dyn_hidden": "rssm.hidden",
    "dyn_stoch": "rssm.stoch",
    "discrete": "rssm.classes",
    "dyn_discrete": "rssm.classes",
    "unimix_ratio": "rssm.unimix",
    "kl_free": "loss.free_nats",
    "kl_scale": "loss.beta",
    "kl_balance": "loss.alpha",
    "dyn_scale": "loss.dyn",
    "rep_scale": "loss.rep",
    "model_lr": "optimizer.learning_rate",
    "lr": "optimizer.learning_rate",
    "grad_clip": "optimizer.clip_norm",
    "imag_length": "behaviour.horizon",
    "imag_horizon": "behaviour.horizon",
    "imag_gradient": "behaviour.gradient",
    "discount_lambda": "behaviour.lam",
    "actor_entropy": "behaviour.entropy",
    "actent": "behaviour.entropy",
    "actor_lr": "behaviour.learning_rate",
    # sheeprl, CleanRL and Stable-Baselines3
    "env_id": "env.id",
    "total_steps": "training.env_steps",
    "total_timesteps": "training.env_steps",
    "learning_starts": "training.prefill",
    "per_rank_batch_size": "replay.batch_size",
    "per_rank_sequence_length": "replay.sequence_length",
    "buffer_size": "replay.capacity",
    "gamma": "behaviour.discount",
}
OTHER_COMMANDS = {  # likewise of commands
    "fit": "train",
    "run": "train",
    "resume": "train",
    "eval": "evaluate",
    "test": "evaluate",
    "dream": "imagine",
    "predict": "imagine",
    "video": "play",
    "film": "play",
    "plot": "report",
    "record": "collect",
    "list": "presets",
    "configs": "presets",
}


def hint(name: str, known: Collection[str], others: Mapping[str, str], *, dashes: str = "") -> str:
    """A clause that names what was probably meant, such as "; did you mean rssm.deter?"; empty where nothing is near.

    Args:
        name: what does not exist; a section may stand before a dot.
        known: what does.
        others: names that something known has elsewhere.
        dashes: before what is named.
    """
    near = meant(name.replace("-", "_"), known, others)
    return f"; did you mean {' or '.join(f'{dashes}{one}' for one in near)}?" if near else ""


def meant(name: str, known: Collection[str], others: Mapping[str, str]) -> list[str]:
    """What was probably meant, in the order in which it is looked for.

    A name that it has elsewhere; the same name in another section; one that is spelt alike; a last part, behind the
    dot, that is spelt alike.
    """
    last = name.rpartition(".")[2]
    if others.get(last) in known:
        return [others[last]]
    if alike := [one for one in known if one.rpartition(".")[2] == last]:
        return alike
    if near := difflib.get_close_matches(name, known, n=1):
        return near
    ends = {one.rpartition(".")[2]: one for one in known}
    return [ends[one] for one in difflib.get_close_matches(last, ends, n=1)]
