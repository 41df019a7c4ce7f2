"""The settings of what acts: the search for actions, actor and critic, and how these learn. See `config`."""

from dataclasses import dataclass
from typing import Literal

from worldmodel.checks import not_negative, positive, require

PLANNERS = ("mppi", "cem")  # policies that search in the world model


@dataclass(frozen=True)
class PlannerConfig:
    """The search for actions by which a trained model acts: it imagines what follows each."""

    method: Literal["mppi", "cem"] = "mppi"
    """How candidates are weighed: all of them by a softmax of their returns, or the best of them alike."""
    horizon: int = 15
    """Actions that are planned ahead (H). The critic's value stands for what follows, or nothing without a critic."""
    candidates: int = 64
    """Sequences of actions that are imagined in each iteration."""
    iterations: int | None = None
    """Rounds of the search at every step; null: 1 for mppi, 3 for cem."""
    std: float = 0.7
    """Spread of the first candidates around the plan, of continuous actions, in units of half the action's range."""
    explore: float = 0.1
    """Share of the uniform distribution that candidates are drawn from, of actions that are classes or bits."""
    elites: int = 8
    """Of cem: how many of the best candidates make the next plan."""
    temperature: float = 0.2
    """Of mppi's softmax, in units of the returns' standard deviation over candidates."""
    discount: float | None = None
    """Worth of a reward that comes one step later, as a share of its worth now; null: behaviour.discount in a run with
    a critic, whose value stands for all that follows the plan, and 0.99 in others."""

    def __post_init__(self) -> None:
        positive(self, "planner", "horizon", "candidates", "std", "elites", "temperature")
        require(self.candidates > 1, "planner.candidates", "at least 2", self.candidates)
        several = self.iterations is None or self.iterations > 0
        require(several, "planner.iterations", "null or at least 1", self.iterations)
        require(0 <= self.explore <= 1, "planner.explore", "a share in [0, 1]", self.explore)
        worth = self.discount is None or 0 <= self.discount <= 1
        require(worth, "planner.discount", "null or a share in [0, 1]", self.discount)
        fits = self.method == "mppi" or self.elites <= self.candidates
        require(fits, "planner.elites", f"at most planner.candidates = {self.candidates}", self.elites)


@dataclass(frozen=True)
class ActingConfig:
    """Who collects the rows of a run after its prefill, which is random."""

    policy: Literal["random", "actor", "mppi", "cem"] = "random"
    """A random policy; an actor, which is learned beside the world model in imagination (`actor`, `critic`,
    `behaviour`); or a search in the world model (`planner`). Where `offline` names stored data nothing is collected,
    and `actor` learns one all the same."""


@dataclass(frozen=True)
class ActorConfig:
    """A perceptron from the state (h_t, z_t) to a distribution over actions."""

    reads: Literal["state", "observation"] = "state"
    """The state, or only the observation that the model decodes from it, as a control: what the model remembers beyond
    that does not reach the actor."""
    units: int = 64
    """Width of the hidden layers."""
    layers: int = 2
    """Hidden layers."""
    unimix: float = 0.01
    """Share of the uniform distribution that is mixed in, of actions that are classes or bits."""
    min_std: float = 0.1
    """Smallest std of a continuous action before it is clipped, in units of half the action's range."""
    max_std: float = 1.0
    """Largest std, likewise."""
    slow_rate: float | None = None
    """Share by which a slow copy of the actor moves towards it after each update: a moving average of its weights over
    about 1 / slow_rate updates. The copy is evaluated and played, the actor itself collects the rows; null: no copy."""

    def __post_init__(self) -> None:
        positive(self, "actor", "units", "layers", "min_std", "max_std")
        require(0 <= self.unimix < 1, "actor.unimix", "a share in [0, 1)", self.unimix)
        possible = self.slow_rate is None or 0 < self.slow_rate <= 1
        require(possible, "actor.slow_rate", "null or a share in (0, 1]", self.slow_rate)
        wide = self.max_std > self.min_std
        require(wide, "actor.max_std", f"more than actor.min_std = {self.min_std}", self.max_std)


@dataclass(frozen=True)
class CriticConfig:
    """A perceptron from the state (h_t, z_t) to the value of following the actor from there."""

    units: int = 64
    """Width of the hidden layers."""
    layers: int = 2
    """Hidden layers."""
    bins: int = 63
    """Bins of the value, evenly spaced in symlog units: an odd number."""
    limit: float = 10.0
    """The outermost bins, in symlog units: values lie within +-(exp(limit) - 1)."""
    slow_rate: float = 0.02
    """Share by which the slow critic moves towards the critic after each update."""
    slow_regularisation: float = 0.1
    """Weight of the cross-entropy from the critic to the slow critic, which steadies the critic and slows it down."""

    def __post_init__(self) -> None:
        positive(self, "critic", "units", "layers", "bins", "limit")
        not_negative(self, "critic", "slow_regularisation")
        require(self.bins % 2 == 1 and self.bins > 1, "critic.bins", "an odd number, at least 3", self.bins)
        require(0 < self.slow_rate <= 1, "critic.slow_rate", "a share in (0, 1]", self.slow_rate)


@dataclass(frozen=True)
class BehaviourConfig:
    """How actor and critic learn in imagination: an update of theirs follows each of the world model's."""

    starts: int = 64
    """Posterior states of a batch that imagination starts from, at most: drawn from the rows that count and at which
    no episode terminates."""
    horizon: int = 30
    """Steps imagined from each (H)."""
    discount: float = 0.997
    """Worth of a reward that comes one step later, as a share of its worth now (gamma)."""
    lam: float = 0.95
    """Of the returns: 1 takes imagined rewards to the horizon, 0 the critic's value one step later."""
    gradient: Literal["auto", "reinforce", "pathwise"] = "auto"
    """The actor's: of any model, or through the model along the imagined path; auto is pathwise for continuous actions
    and Gaussian latents, and otherwise reinforce."""
    gradient_limit: float | None = 3.0
    """Of pathwise gradients: no trajectory's is longer, in any imagined state, than so many times the median one's;
    null lets them explode."""
    entropy: float = 3e-4
    """Reward for a nat of the policy's entropy, in units of the return's scale."""
    least_scale: float = 1.0
    """Smallest scale that returns are divided by, in reward units; larger ones are the range of most returns."""
    optimizer: Literal["adamw", "laprop"] = "adamw"
    """AdamW, or DreamerV3's LaProp."""
    learning_rate: float = 1e-3
    """The critic's, and the actor's; it does not fall."""
    clip_norm: float = 0.3
    """Largest norm of the gradient, of the actor and of the critic each; longer ones are scaled down to it. Chosen for
    REINFORCE; pathwise gradients, which have a limit of their own, learn faster with a large one (preset pendulum)."""
    adaptive_clip: float | None = None
    """Largest gradient of each parameter as a share of the parameter's own norm (AGC, 0.3 in DreamerV3), before
    clip_norm; null leaves it out."""

    def __post_init__(self) -> None:
        positive(self, "behaviour", "starts", "horizon", "least_scale", "learning_rate", "clip_norm")
        not_negative(self, "behaviour", "entropy")
        for name in ("discount", "lam"):
            require(0 <= getattr(self, name) <= 1, f"behaviour.{name}", "a share in [0, 1]", getattr(self, name))
        for name in ("adaptive_clip", "gradient_limit"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"behaviour.{name}", "null or a number greater than zero", limit)
