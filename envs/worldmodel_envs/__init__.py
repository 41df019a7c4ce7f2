"""Gymnasium environments and wrappers. Nothing here imports the library that trains on them.

Importing this registers the environments, so that `gymnasium.make("worldmodel/LinearGaussian-v0")` finds them. The
dream of a run, `gymnasium.make("worldmodel/Dream-v0", run=...)`, is the library's, which is imported when one is made.
"""

import gymnasium

gymnasium.register(  # 64 rows
    "worldmodel/HiddenMarkov-v0", "worldmodel_envs.hidden_markov:HiddenMarkov", max_episode_steps=63
)
gymnasium.register(  # 64 rows
    "worldmodel/LinearGaussian-v0", "worldmodel_envs.linear_gaussian:LinearGaussian", max_episode_steps=63
)
gymnasium.register(
    "worldmodel/Dream-v0",
    "worldmodel.runs.dream:make_dream",
    vector_entry_point="worldmodel.runs.dream:make_dreams",
)
