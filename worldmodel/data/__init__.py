"""From environments to batches: spaces, environment, rollout, replay."""
