"""Gymnasium environments and wrappers. Nothing here knows of the library that trains on them.

Importing this registers the environments, so that `gymnasium.make("envs:LinearGaussian-v0")` finds them.
"""

import gymnasium

gymnasium.register("HiddenMarkov-v0", "envs.hidden_markov:HiddenMarkov", max_episode_steps=63)  # 64 rows
gymnasium.register("LinearGaussian-v0", "envs.linear_gaussian:LinearGaussian", max_episode_steps=63)  # 64 rows
