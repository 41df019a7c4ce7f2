"""Learners (one optimiser, one objective), the trainer (the loop), checkpoints, metrics, tracking and progress."""
