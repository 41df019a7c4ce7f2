"""Snippets of documents run as written, but for seconds: the settings that make them so."""

QUICK = {
    "training.env_steps": 160,
    "training.prefill": 120,
    "training.train_ratio": 4,
    "training.evaluate_every": 100,
    "replay.sequence_length": 16,
    "replay.batch_size": 2,
    "evaluation.episodes": 2,
    "evaluation.samples": 2,
    "evaluation.acting_episodes": 1,
    "env.num_envs": 2,
    "tracking": "none",
}
