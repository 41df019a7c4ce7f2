"""PPO and SAC of stable-baselines3 on the tasks of acting_study.py: the same budgets, evaluations and starts.

    python scripts/model_free_study.py --output runs/acting                # beside the results of acting_study.py
    python scripts/model_free_study.py --output runs/acting --only cartpole --seeds 0 1

Settings are those that the authors of stable-baselines3 have for each task (rl-baselines3-zoo: of hidden velocities
CartPole's, of MiniGrid DoorKey's, without its scaling of observations, which are classes here), with a constant
learning rate. No agent remembers anything, and pixels of 32 x 32 are too small for their convolutions. The agents
choose an action at every step of the environment, also where a preset holds it for several.

Every 500 steps the policy, without exploring, plays the 50 episodes that acting_study.py plays; PPO learns in whole
rollouts, after which it is evaluated, and may end beyond the budget. Results are in the format of acting_study.py, so
that its --write shows them in the same table and figure. Needs the extra `sb3` and those of the tasks.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from acting_study import STEPS_BETWEEN, TASKS, result_file  # beside this file
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from worldmodel.config_io import read_config
from worldmodel.data.spaces import ROOT
from worldmodel.data.suites import prepare
from worldmodel.evaluation.rounds import first_start
from worldmodel.seeding import Stream
from worldmodel_envs.stable_baselines import StableVecEnv
from worldmodel_envs.wrapping import apply_wrappers

EPISODES = 50
CARTPOLE: dict[str, Any] = {
    **{"envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8},
    **{"learning_rate": 1e-3, "clip_range": 0.2, "ent_coef": 0.0},
}
SETTINGS: dict[
    tuple[str, str], dict[str, Any]
] = {  # `envs`: how many side by side; `scaled`: rewards, by their returns
    ("cartpole", "PPO"): CARTPOLE,
    ("cartpole_hidden", "PPO"): CARTPOLE,
    ("lunar_lander", "PPO"): {
        **{"envs": 16, "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98},
        **{"ent_coef": 0.01},
    },
    ("minigrid", "PPO"): {
        **{"envs": 8, "n_steps": 128, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95},
        **{"learning_rate": 2.5e-4, "clip_range": 0.2, "ent_coef": 0.0, "scaled": True},
    },
    ("pendulum", "PPO"): {
        **{"envs": 4, "n_steps": 1024, "n_epochs": 10, "gamma": 0.9, "gae_lambda": 0.95, "learning_rate": 1e-3},
        **{"clip_range": 0.2, "ent_coef": 0.0, "use_sde": True, "sde_sample_freq": 4},
    },
    ("pendulum", "SAC"): {"envs": 1, "learning_rate": 1e-3},
}
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "SAC": SAC}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of a JSON file for each run")
    tasks = sorted({task for task, _ in SETTINGS})
    parser.add_argument("--only", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for (preset, name), settings in SETTINGS.items():
        for seed in options.seeds if preset in options.only else []:
            if not (path := result_file(preset, seed, budget(preset), name, {}, options.output)).exists():
                path.write_text(json.dumps(study(preset, name, seed, settings), indent=1) + "\n")


def budget(preset: str) -> int:
    """The task's budget in steps of the environment: its rows, each for as long as an action is held."""
    return TASKS[preset].env_steps * read_config(preset).env.action_repeat


def study(preset: str, name: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train with one seed: -> every evaluation."""
    start = first_start(read_config(preset).evaluation.seed, Stream.CHOOSING)
    settings = dict(settings)
    envs: VecEnv = StableVecEnv(make_task(preset, settings.pop("envs")))
    if settings.pop("scaled", False):
        envs = VecNormalize(envs, norm_obs=False, gamma=settings["gamma"])
    agent = ALGORITHMS[name]("MlpPolicy", envs, seed=seed, device="cpu", **settings)
    evaluations, seconds, seen = list[dict[str, float]](), 0.0, 0
    for goal in range(STEPS_BETWEEN, budget(preset) + 1, STEPS_BETWEEN):
        began = time.process_time()
        if goal > agent.num_timesteps:  # PPO learns after whole rollouts, which may be longer
            agent.learn(goal - agent.num_timesteps, reset_num_timesteps=False)
        seconds += time.process_time() - began
        if agent.num_timesteps == seen:
            continue
        seen = agent.num_timesteps
        found = returns(agent, make_task(preset, EPISODES), seed=start)
        evaluations.append({"steps": seen, "return": float(found.mean()), "cpu_seconds": round(seconds, 1)})
    envs.close()
    print(f"{preset} {name} seed {seed}: " + " ".join(f"{one['return']:.3g}" for one in evaluations), flush=True)
    about = {"preset": preset, "name": name, "settings": {}, "seed": seed, "env_steps": budget(preset)}
    return {**about, "action_repeat": 1, "target": TASKS[preset].target, "evaluations": evaluations}


def make_task(preset: str, count: int) -> VectorEnv:
    """A preset's environment as its settings wrap it and hide entries of its observations."""
    env = read_config(preset).env

    def wrap(one: gymnasium.Env) -> gymnasium.Env:
        one = apply_wrappers(one, env.wrappers)
        return without(one, env.hide[ROOT]) if env.hide else one

    return make(prepare(env.id), count, wrappers=[wrap], **env.kwargs)


def without(env: gymnasium.Env, hidden: Sequence[int]) -> gymnasium.Env:
    """An environment of a vector of numbers, without those of these indices."""
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    kept = np.setdiff1d(np.arange(space.shape[0]), hidden)
    return TransformObservation(env, lambda x: x[kept], gymnasium.spaces.Box(space.low[kept], space.high[kept]))


def make(env_id: str, count: int, **kwargs: Any) -> VectorEnv:
    """Environments side by side that begin anew in the step in which they end."""
    vector = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(env_id, count, vectorization_mode="sync", vector_kwargs=vector, **kwargs)


def returns(agent: BaseAlgorithm, envs: VectorEnv, *, seed: int) -> np.ndarray:
    """What the agent earns in the first episode of each environment, without exploring."""
    obs, _ = envs.reset(seed=seed)
    earned, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while running.any():
        action, _ = agent.predict(obs, deterministic=True)
        obs, reward, terminated, truncated, _ = envs.step(action)
        earned += np.where(running, reward, 0.0)
        running &= ~(terminated | truncated)
    envs.close()
    return earned


if __name__ == "__main__":
    main()
