"""Learner (one gradient step), trainer (the loop), evaluation, checkpoints, tracking and progress."""
