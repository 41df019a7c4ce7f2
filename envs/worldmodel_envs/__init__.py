"""Gymnasium environments and wrappers. Nothing here imports the library that trains on them.

Importing this registers the environments, so that `gymnasium.make("worldmodel/LinearGaussian-v0")` finds them. The
dream of a run, `gymnasium.make("worldmodel/Dream-v0", run=...)`, is the library's, which is imported when one is made.
"""

import gymnasium

for _name, _module in (("HiddenMarkov", "hidden_markov"), ("LinearGaussian", "linear_gaussian")):
    gymnasium.register(f"worldmodel/{_name}-v0", f"worldmodel_envs.{_module}:{_name}", max_episode_steps=63)  # 64 rows
for _name, _function in (
    ("NoisyAcrobot", "noisy_acrobot"),
    ("NoisyCartPole", "noisy_cart_pole"),
    ("NoisyCliffWalking", "noisy_cliff_walking"),
    ("NoisyFrozenLake", "noisy_frozen_lake"),
    ("NoisyMountainCar", "noisy_mountain_car"),
    ("NoisyMountainCarContinuous", "noisy_mountain_car_continuous"),
    ("NoisyPendulum", "noisy_pendulum"),
):
    gymnasium.register(f"worldmodel/{_name}-v0", f"worldmodel_envs.stock:{_function}", max_episode_steps=63)
gymnasium.register(
    "worldmodel/Dream-v0",
    "worldmodel.runs.dream:make_dream",
    vector_entry_point="worldmodel.runs.dream:make_dreams",
)
