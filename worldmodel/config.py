"""Every setting: its unit, its default, and what it may be.

The sections are frozen dataclasses that check themselves when they are built, so an impossible setting fails before any
work starts. Nothing below `build.py`, `build_networks.py` and `build_acting.py` sees them: those unpack a section
into arguments. The sections of the model and its loss are in `config_model.py`, those of what acts in
`config_acting.py`.

A step is one stored row: an observation with the action and the reward that led to it. A reset is one, and so is an
action that is held (`env.action_repeat`).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodel.checks import not_negative, positive, require, require_path
from worldmodel.config_acting import ActingConfig, ActorConfig, BehaviourConfig, CriticConfig, PlannerConfig
from worldmodel.config_model import DecoderConfig, EncoderConfig, LossConfig, RSSMConfig
from worldmodel.config_wandb import WandbConfig
from worldmodel.train_ratio import fewest_env_steps, updates_paid

# Values to assume for settings that older runs do not name, where today's default differs.
BEFORE = {"env.integers": "density"}


@dataclass(frozen=True)
class EnvConfig:
    """The environments that write the data."""

    id: str = "Pendulum-v1"
    """A registered Gymnasium id, or `module:Id` to import `module` first."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the environment's constructor."""
    wrappers: list[str | dict[str, dict[str, Any]]] = field(default_factory=list)
    """Gymnasium wrappers to apply, the first innermost: `module:Class`, or `{module:Class: {keyword: value}}`."""
    num_envs: int = 4
    """Environments side by side."""
    asynchronous: bool = False
    """A process for each environment, so that none can end or block the run. Faster if steps take over 100 us."""
    step_timeout: float = 60.0
    """Seconds that a step of an environment may take before it counts as failed. Making one may take as long, but at
    least 60; closing one 2."""
    restarts: int = 0
    """How many failed environments are replaced by new ones; the next failure saves and stops the run."""
    action_repeat: int = 1
    """Environment steps for which an action is held; their rewards are summed, and they are stored as one step."""
    time_limit: int | None = None
    """Environment steps (before action repeat) after which an episode is truncated; null keeps the registered limit."""
    pixels: Literal["off", "only", "add"] = "off"
    """Rendered frames as observations: not at all, instead of the environment's own, or beside them."""
    image_size: int = 64
    """Height and width in pixels that every image is resized to; a power of two, at least 16."""
    drop_text: bool = True
    """Leave text observations out, and say so; otherwise an environment that has them is refused."""
    integers: Literal["mass", "density"] = "mass"
    """What Boxes of whole numbers that are no images have: a mass, as bits, classes or integers; or a density, as real
    numbers, which has no upper bound where the world is deterministic. `density` also takes values beyond the bounds of
    a space."""
    hide: dict[str, list[int]] = field(default_factory=dict)
    """Entries to leave out of observations that are no images, by path (obs where there is one): {obs: [1, 3]}."""

    def __post_init__(self) -> None:
        require(bool(self.id), "env.id", "the id of a Gymnasium environment", self.id)
        positive(self, "env", "num_envs", "step_timeout", "action_repeat")
        not_negative(self, "env", "restarts")
        for entry in self.wrappers:
            paths = [entry] if isinstance(entry, str) else list(entry)
            named = len(paths) == 1 and re.fullmatch(r"[\w.]+:\w+", paths[0]) is not None
            require(named, "env.wrappers", "module:Class, or {module:Class: {keyword: value}}", entry)
        for path, indices in self.hide.items():
            require(all(i >= 0 for i in indices), "env.hide", f"indices of zero or more for {path}", indices)
        require(self.time_limit is None or self.time_limit > 0, "env.time_limit", "null or at least 1", self.time_limit)
        power_of_two = self.image_size >= 16 and self.image_size & (self.image_size - 1) == 0
        require(power_of_two, "env.image_size", "a power of two, at least 16", self.image_size)


@dataclass(frozen=True)
class ReplayConfig:
    """The steps on disk, and how batches are drawn from them."""

    capacity: int = 1_000_000
    """Steps kept, over all environments; the oldest episodes are overwritten first."""
    batch_size: int = 16
    """Sequences per batch (B), over all processes that share the training."""
    growth: int = 1
    """How many times as many sequences a batch has in the last part of the training, so that its gradients are less
    noisy there. The number of updates stays what `training.train_ratio` pays for with batches of batch_size."""
    growth_after: float = 0.75
    """The share of the updates after which batches are larger."""
    sequence_length: int = 64
    """Steps per sequence (T)."""
    burn_in: int = 4
    """Steps at the start of a sequence that begins inside an episode: they warm the state up and count in no loss."""
    restart: bool = False
    """Treat a sequence that begins inside an episode as an episode of its own. Exact where every step is distributed as
    one after a reset, so that no state need be warmed up."""

    def __post_init__(self) -> None:
        positive(self, "replay", "capacity", "batch_size", "growth", "sequence_length")
        require(0 <= self.growth_after <= 1, "replay.growth_after", "0 to 1", self.growth_after)
        in_range = 0 <= self.burn_in < self.sequence_length
        require(in_range, "replay.burn_in", f"0 to sequence_length - 1 = {self.sequence_length - 1}", self.burn_in)
        if self.restart:
            require(self.burn_in == 0, "replay.burn_in", "0 where replay.restart is set", self.burn_in)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, one learning rate for the whole model."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup: int = 100
    """Updates over which the learning rate rises linearly from zero."""
    decay: Literal["cosine", "none"] = "cosine"
    """How the learning rate falls afterwards."""
    final_fraction: float = 0.05
    """The learning rate after the last update, as a share of the peak."""
    clip_norm: float = 100.0
    """Largest global norm of the gradient; longer ones are scaled down to it."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    eps: float = 1e-8
    """Adam's denominator offset."""

    def __post_init__(self) -> None:
        positive(self, "optimizer", "learning_rate", "clip_norm", "eps")
        not_negative(self, "optimizer", "warmup", "weight_decay")
        require(0 <= self.final_fraction <= 1, "optimizer.final_fraction", "a share in [0, 1]", self.final_fraction)


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how often, on what."""

    env_steps: int = 20_000
    """Steps to collect in all, over all environments, the prefill included."""
    prefill: int = 5_000
    """Steps to collect before the first update."""
    train_ratio: float = 128.0
    """Steps replayed into updates per step collected after the prefill."""
    updates: int | None = None
    """Updates of a run that learns from stored data (`offline`); null: as many as env_steps would pay for."""
    log_every: int = 50
    """Updates between two lines of metrics."""
    evaluate_every: int = 500
    """Updates between two evaluations on the held-out episodes."""
    save_every: int = 500
    """Updates between two checkpoints."""
    autocast: bool = False
    """Run the networks in bfloat16; densities and KLs stay in float32."""
    tf32: bool = False
    """Multiply float32 matrices as TF32 on a GPU that can: faster, with three digits of each factor. It makes results
    less exact, not less repeatable."""
    deterministic: bool = False
    """On a GPU, use operations that give the same bits every time, and stop at one that has no such form. It is what a
    resumed run needs there to be bit for bit the one that never stopped; slower. On a CPU runs are so in any case."""
    compile: bool = False
    """Compile the recurrent step with torch.compile: half a minute of start-up; needs a C++ compiler on a CPU. It takes
    the place of the scan, which is faster for a block GRU: worth it for other cells, ReinMax and full covariances."""
    cuda_graph: bool = False
    """Capture the whole update in a CUDA graph after three updates, and replay it for the others: one launch instead of
    thousands, and the same numbers. For a single process on an NVIDIA or AMD GPU, without `compile`."""

    def __post_init__(self) -> None:
        positive(self, "training", "env_steps", "prefill", "train_ratio")
        positive(self, "training", "log_every", "evaluate_every", "save_every")
        require(self.updates is None or self.updates > 0, "training.updates", "null or at least 1", self.updates)
        more = self.env_steps > self.prefill
        require(more, "training.env_steps", f"more than training.prefill = {self.prefill}", self.env_steps)
        one = not (self.cuda_graph and self.compile)
        require(one, "training.cuda_graph", "false where training.compile is true", self.cuda_graph)


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out episodes: collected once, never trained on, always scored from their reset on."""

    seed: int = 0
    """Decides which episodes are held out, and the noise in scoring: runs that differ in `seed` alone are scored on the
    same episodes."""
    episodes: int = 16
    """Held-out episodes."""
    max_length: int = 1_000
    """Steps of an episode that are scored, at most."""
    context: int = 16
    """Steps that are filtered before the model predicts without looking."""
    horizon: int = 48
    """Steps that it then predicts, under the recorded actions."""
    samples: int = 32
    """Imagined futures per context; the prediction is their mean."""
    score_samples: int | None = None
    """Imagined futures per context when imagination is scored; null: `samples`. With few of them the negative
    log-likelihood is overstated, by any number of nats where futures are narrow: some hundred are best."""
    acting_episodes: int = 10
    """Episodes that the present policy plays at every evaluation of a run that acts, without exploring, from the same
    starts each time; the model is scored on them too. Zero leaves it out."""
    particles: int = 32
    """Particles of the rough estimate of evidence and gap at every evaluation; zero leaves it out."""
    particle_episodes: int = 8
    """Held-out episodes of this rough estimate, the first context + horizon steps of each; fewer where observations are
    large."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "evaluation.seed", "zero or more, below 2^63", self.seed)
        positive(self, "evaluation", "episodes", "max_length", "context", "horizon", "samples", "particle_episodes")
        not_negative(self, "evaluation", "acting_episodes")
        count = self.score_samples
        require(count is None or count > 0, "evaluation.score_samples", "null or at least 1", count)
        require(self.particles != 1 and self.particles >= 0, "evaluation.particles", "0 or at least 2", self.particles)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    acting: ActingConfig = field(default_factory=ActingConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    offline: str | None = None
    """Stored data to learn from, without an environment: a data folder, a run's, a replay's, or minari:ID; `given:`
    where training was handed episodes in Python."""
    model: str | None = None
    """`module:name` of a function (settings, spec) that makes a whole world model of one's own, imported as the
    factories of its parts are; `given:name` where training was handed it in Python."""
    tracking: Literal["auto", "offline", "online", "none"] = "auto"
    """Weights & Biases: online if a key is configured, otherwise offline (auto); always offline or online; or none."""
    name: str = "run"
    """First part of the run's folder name; the time it started is added."""
    runs: str = "runs"
    """Folder that run folders are made in."""
    seed: int = 0
    """Seed of everything that is random in training; the held-out episodes have `evaluation.seed`."""
    device: str = "auto"
    """A torch device such as cpu or cuda:0; auto is a GPU where there is one."""

    def __post_init__(self) -> None:
        require(bool(self.name) and "/" not in self.name, "name", "a file name", self.name)
        require(0 <= self.seed < 2**63, "seed", "zero or more, below 2^63", self.seed)
        require_path("model", self.model)
        parts = (self.encoder.factory, self.rssm.factory, self.decoder.factory)
        whole = self.model is None or parts == (None, None, None)
        require(whole, "model", "null where encoder, rssm or decoder has a factory", self.model)
        alone = self.training.updates is None or self.offline is not None
        require(alone, "training.updates", "null unless offline names stored data", self.training.updates)
        steady = not self.training.cuda_graph or self.replay.growth == 1
        require(steady, "replay.growth", "1 where training.cuda_graph replays batches of one shape", self.replay.growth)
        self._require_what_acting_needs()
        streams, length = self.env.num_envs, self.replay.sequence_length
        enough = self.training.prefill >= length
        require(enough, "training.prefill", f"at least replay.sequence_length = {length}", self.training.prefill)
        pay: dict[str, Any] = {"prefill": self.training.prefill, "train_ratio": self.training.train_ratio}
        pay |= {"batch_size": self.replay.batch_size, "sequence_length": length}
        require(
            updates_paid(self.training.env_steps, **pay) >= 1,
            "training.env_steps",
            f"enough steps for one update: at least {fewest_env_steps(**pay)}",
            self.training.env_steps,
        )
        ahead = self.loss.overshooting_steps
        fits = self.loss.overshooting == 0 or ahead + self.replay.burn_in < length
        expected = f"replay.burn_in + loss.overshooting_steps below replay.sequence_length = {length}"
        require(fits, "loss.overshooting_steps", expected, ahead)
        share = self.replay.capacity // streams
        roomy = share >= 2 * length
        expected = f"at least two sequences per environment = {2 * length * streams}"
        require(roomy, "replay.capacity", expected, self.replay.capacity)
        fits = self.evaluation.context + self.evaluation.horizon <= self.evaluation.max_length
        require(
            fits,
            "evaluation.horizon",
            f"context + horizon within evaluation.max_length = {self.evaluation.max_length}",
            self.evaluation.horizon,
        )

    def _require_what_acting_needs(self) -> None:
        policy, search = self.acting.policy, self.planner
        for scale in ("reward_scale", "continue_scale"):
            learned = policy == "random" or getattr(self.loss, scale) > 0
            require(learned, "acting.policy", f"random where loss.{scale} is 0: the model learns no returns", policy)
        if policy == "cem":
            expected = f"at most planner.candidates = {search.candidates} where acting.policy is cem"
            require(search.elites <= search.candidates, "planner.elites", expected, search.elites)
        if self.offline is not None:
            expected = "random or actor where offline names stored data: nothing is collected"
            require(policy in ("random", "actor"), "acting.policy", expected, policy)
