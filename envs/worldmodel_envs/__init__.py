"""Gymnasium environments and wrappers. Nothing here knows of the library that trains on them.

Importing this registers the environments, so that `gymnasium.make("worldmodel/LinearGaussian-v0")` finds them.
"""

import gymnasium

gymnasium.register(  # 64 rows
    "worldmodel/HiddenMarkov-v0", "worldmodel_envs.hidden_markov:HiddenMarkov", max_episode_steps=63
)
gymnasium.register(  # 64 rows
    "worldmodel/LinearGaussian-v0", "worldmodel_envs.linear_gaussian:LinearGaussian", max_episode_steps=63
)
