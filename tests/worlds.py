"""Small specs, models and batches that many tests use, and environments whose every row is known."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from worldmodel.behaviour.planner import Planner
from worldmodel.config_acting import PlannerConfig
from worldmodel.models.backward_network import BackwardNetwork
from worldmodel.models.decoder import Decoder
from worldmodel.models.encoder import Encoder
from worldmodel.models.full_gaussian import FullGaussianFamily
from worldmodel.models.latents import CategoricalFamily, GaussianFamily
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.types import ActionSpec, Batch, EnvSpec, ObservationSpec

VECTOR_SPEC = EnvSpec({"obs": ObservationSpec("vector", (3,))}, ActionSpec("continuous", 2))
MIXED_SPEC = EnvSpec(
    {
        "camera": ObservationSpec("image", (16, 16, 3)),
        "cards": ObservationSpec("categorical", (2,), (3, 4)),
        "joints/angle": ObservationSpec("vector", (2,)),
        "lamps": ObservationSpec("binary", (2,)),
    },
    ActionSpec("categorical", 3, (3,)),
)
INTEGER_SPEC = EnvSpec(
    {"grid": ObservationSpec("integer", (4,), low=(0, 0, -3, 5), high=(255, 9, 300, 5))},
    ActionSpec("categorical", 3, (3,)),
)
TINY = {  # settings of a run whose updates take milliseconds
    "env.num_envs": 2,
    "replay.batch_size": 4,
    "replay.sequence_length": 16,
    "encoder.units": 16,
    "rssm.deter": 16,
    "rssm.hidden": 16,
    "rssm.blocks": 2,
    "rssm.stoch": 3,
    "decoder.units": 16,
}
GAUSSIAN = GaussianFamily(groups=4, min_std=0.05)
CATEGORICAL = CategoricalFamily(groups=3, classes=5, unimix=0.01)
FULL = FullGaussianFamily(width=4, min_std=0.05)


def make_model(
    spec=VECTOR_SPEC,
    latent=GAUSSIAN,
    *,
    cell="block_gru",
    vector="gaussian",
    reward="gaussian",
    std=None,
    skip=True,
    inputs="standardise",
    standardise_targets=True,
    smoothing=False,
    read_reward=False,
    reads="state",
    seed=0,
) -> WorldModel:
    torch.manual_seed(seed)
    encoder = Encoder(spec.observations, layers=1, units=12, depth=4, reward=read_reward)
    backward_network = BackwardNetwork(encoder.width, spec.action.width, width=9) if smoothing else None
    rssm = RSSM(
        embed=encoder.width + (backward_network.width if backward_network else 0),
        action=spec.action.width,
        deter=8,
        hidden=10,
        latent=latent,
        cell=cell,
        blocks=2 if cell == "block_gru" else 1,
    )
    if isinstance(latent, FullGaussianFamily):
        correlate(rssm)
    decoder = Decoder(
        spec.observations,
        deter=8,
        stoch=latent.width,
        layers=1,
        units=12,
        depth=4,
        vector=vector,
        reward=reward,
        std=std,
        resolution=0.01,
        skip=skip,
        reads=reads,
    )
    return WorldModel(
        spec,
        encoder,
        rssm,
        decoder,
        inputs=inputs,
        standardise_targets=standardise_targets,
        backward_network=backward_network,
    )


@torch.no_grad()
def correlate(rssm) -> None:
    """Draw what a new RSSM has as zeros: what is beside the diagonal of a full covariance is among them."""
    for parameter in rssm.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter) * (parameter == 0))


def make_planner(spec, method, kind=Planner, **settings) -> Planner:
    """A planner with the usual settings, but for those that are given."""
    usual = PlannerConfig()
    fields = {name: getattr(usual, name) for name in ("horizon", "candidates", "std", "explore")}
    return kind(spec, method, **({"iterations": 1} | fields | settings))


def make_batch(spec=VECTOR_SPEC, batch=3, length=7, *, seed=0, first=((1, 3),), dtype=torch.float32) -> Batch:
    """Random rows. Every sequence starts an episode, and (sequence, row) pairs in `first` start another."""
    g = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    for b, t in first:
        is_first[b, t] = True
    is_last = is_first.roll(-1, 1)
    is_last[:, -1] = False
    is_terminal = is_last & (torch.rand(batch, length, generator=g) < 0.5)
    obs = {path: _leaf(leaf, batch, length, g, dtype) for path, leaf in spec.observations.items()}
    action = torch.rand(batch, length, spec.action.width, generator=g, dtype=dtype) * 2 - 1
    step = torch.zeros(batch, length, dtype=torch.int32)
    for t in range(1, length):
        step[:, t] = torch.where(is_first[:, t], 0, step[:, t - 1] + 1)
    return Batch(
        obs=obs,
        prev_action=action * ~is_first[..., None],
        reward=torch.randn(batch, length, generator=g, dtype=dtype) * ~is_first,
        is_first=is_first,
        is_last=is_last,
        is_terminal=is_terminal,
        episode_step=step,
        valid=torch.ones(batch, length, dtype=torch.bool),
    )


def _leaf(leaf, batch, length, g, dtype):
    if leaf.kind == "image":
        return torch.randint(0, 256, (batch, length, *leaf.shape), generator=g, dtype=torch.uint8)
    if leaf.kind == "categorical":
        columns = [torch.randint(0, n, (batch, length), generator=g, dtype=torch.int32) for n in leaf.classes]
        return torch.stack(columns, -1)
    if leaf.kind == "integer":
        bounds = zip(leaf.low, leaf.high, strict=True)
        columns = [torch.randint(low, high + 1, (batch, length), generator=g) for low, high in bounds]
        return torch.stack(columns, -1).to(leaf.torch_dtype)
    if leaf.kind == "binary":
        return torch.randint(0, 2, (batch, length, *leaf.shape), generator=g, dtype=torch.uint8)
    return torch.randn(batch, length, *leaf.shape, generator=g, dtype=dtype)


class Counting(gymnasium.Env):
    """Every row is known: the observation is (instance, episode, step), the reward 10 * episode + step.

    Episode e lasts 2 + e % 3 steps. Even episodes terminate, odd ones are truncated. The action is repeated in the next
    observation, so that a test can see which action led where.
    """

    observation_space = spaces.Dict(
        {"count": spaces.Box(-np.inf, np.inf, (3,), np.float64), "action": spaces.Box(-5, 5, (1,), np.float32)}
    )
    action_space = spaces.Box(-5, 5, (1,), np.float32)

    def __init__(self, instance: int = 0) -> None:
        self.instance, self.episode = instance, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.instance = seed
        self.episode, self.t = self.episode + 1, 0
        return self._observation(np.zeros(1, np.float32)), {}

    def step(self, action):
        self.t += 1
        over = self.t >= 2 + self.episode % 3
        terminated = over and self.episode % 2 == 0
        return self._observation(action), 10.0 * self.episode + self.t, terminated, over and not terminated, {}

    def _observation(self, action):
        return {
            "count": np.array([self.instance, self.episode, self.t], np.float64),
            "action": action.astype(np.float32),
        }


class Faulty(Counting):
    """A Counting world that goes wrong at its third step, in the way it is told to."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.steps = fault, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            if self.fault == "raise":
                raise RuntimeError("the pole is on fire")
            if self.fault == "die":
                import os

                os._exit(3)
            if self.fault == "hang":
                import time

                time.sleep(600)
        return super().step(action)


class Bytes(gymnasium.Env):
    """A picture, one bit and one card, for the data path of every kind of leaf; ends after five steps."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (20, 24, 3), np.uint8),
            "inner": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 4]))),
        }
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        return self._observation(), float(action.sum()), self.t >= 5, False, {}

    def _observation(self):
        camera = self.np_random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        inner = (np.int64(1 + self.t % 3), np.array([self.t % 2, 1], np.int8), np.array([self.t % 2, self.t % 4]))
        return {"camera": camera, "inner": inner}


def register() -> None:
    for name, maker in (("Counting", Counting), ("Faulty", Faulty), ("Bytes", Bytes)):
        if f"{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"{name}-v0", maker, disable_env_checker=True)
