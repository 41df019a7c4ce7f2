"""From environments to batches: spaces, environment, rollout, replay; `from_episodes` for arrays of one's own."""

from worldmodel.data.arrays import from_episodes as from_episodes
