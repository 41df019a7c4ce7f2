"""Gymnasium environments and wrappers. Nothing here knows of the library that trains on them.

Importing this registers the environments, so that `gymnasium.make("worldmodel/LinearGaussian-v0")` finds them.
"""

import gymnasium

for _name, _module in (("HiddenMarkov", "hidden_markov"), ("LinearGaussian", "linear_gaussian")):
    gymnasium.register(f"worldmodel/{_name}-v0", f"worldmodel_envs.{_module}:{_name}", max_episode_steps=63)  # 64 rows
