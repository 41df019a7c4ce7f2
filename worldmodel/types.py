"""Letters, index conventions, and the types that pass between layers. No functions.

| letter | meaning              | letter | meaning                                             |
| B      | batch                | S      | latent groups (stochastic variables)                |
| T      | time                 | K      | classes of a categorical latent                     |
| D      | deterministic width  | Z      | latent width: S for Gaussian, S * K for categorical |
| E      | embedding width      | A      | action width                                        |
| N      | Monte Carlo samples, always leading: [N, B, T, ...]; in `data`, environments side by side |
| H      | imagination horizon                                                                       |

A Gaussian with a full covariance is a single group, S = 1, of any width Z.

Row t of an episode is complete when observation x_t arrives. It holds x_t, the action that led to it, the reward
received on arriving at it, and three flags. The first row of an episode has no action and no reward: both are zero,
and the reward's likelihood is masked there.

    is_first     the row after a reset
    is_last      the last row of its episode, whether that terminated or was truncated
    is_terminal  the episode terminated here, so that the value after it is zero; False if it was truncated
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class State(NamedTuple):
    """The model's state, h_t (`deter`) and z_t (`stoch`), with any leading shape."""

    deter: Float[Tensor, "*batch D"]
    stoch: Float[Tensor, "*batch Z"]


@dataclass(frozen=True)
class ObservationSpec:
    """One leaf of an observation space, as the rows store it and the model reads it.

    kind         stored as                 model input                        likelihood
    vector       float32 [n]               n numbers                          a density over R^n
    integer      uint8, int32, int64 [n]   n numbers                          n masses over low .. high
    image        uint8 [height, width, c]  pixels                             a mass over 256 levels each
    categorical  int32 [k], from zero      k one-hot vectors, concatenated    k categorical masses
    binary       uint8 [n]                 n zeros and ones                   n Bernoulli masses
    """

    kind: Literal["vector", "integer", "image", "categorical", "binary"]
    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()  # categorical only: the number of classes of each of the k variables
    low: tuple[int, ...] = ()  # integer only: the smallest value of each of the n entries,
    high: tuple[int, ...] = ()  # and the largest

    @property
    def width(self) -> int:
        """How many numbers a network reads of the leaf: an image's pixels, a categorical's one-hot entries."""
        return sum(self.classes) if self.kind == "categorical" else int(np.prod(self.shape))

    @property
    def is_numeric(self) -> bool:
        """Whether it is n numbers, real or whole, which are standardised one by one."""
        return self.kind in ("vector", "integer")

    @property
    def dtype(self) -> np.dtype:
        """The type of its stored rows; for whole numbers, the smallest of three types that holds them all."""
        if self.kind == "integer":
            low, high = min(self.low), max(self.high)
            if low >= 0 and high < 2**8:
                return np.dtype(np.uint8)
            return np.dtype(np.int32 if low >= -(2**31) and high < 2**31 else np.int64)
        return np.dtype({"vector": np.float32, "categorical": np.int32}.get(self.kind, np.uint8))

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as a tensor's type."""
        return torch.from_numpy(np.empty(0, self.dtype)).dtype


@dataclass(frozen=True)
class ActionSpec:
    """An action space as a vector of A numbers: numbers in [-1, 1], one-hot groups, or zeros and ones, by kind."""

    kind: Literal["continuous", "categorical", "binary"]
    width: int
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class EnvSpec:
    """Everything that a model needs to know about an environment. Observations are named by their path."""

    observations: dict[str, ObservationSpec]
    action: ActionSpec

    @property
    def width(self) -> int:
        """How many numbers a network reads of an observation, all leaves together."""
        return sum(leaf.width for leaf in self.observations.values())


class Batch(NamedTuple):
    """B sequences of T rows each, as a model reads them."""

    obs: dict[str, Tensor]  # [B, T, ...] by path, dtypes as in ObservationSpec
    prev_action: Float[Tensor, "B T A"]
    reward: Float[Tensor, "B T"]
    is_first: Bool[Tensor, "B T"]
    is_last: Bool[Tensor, "B T"]
    is_terminal: Bool[Tensor, "B T"]
    episode_step: Int[Tensor, "B T"]  # rows since the episode began; zero where is_first
    valid: Bool[Tensor, "B T"]  # False where a row only warms the state up (burn-in) or pads a shorter episode

    def __repr__(self) -> str:
        shapes = self.obs | {name: x for name, x in self._asdict().items() if name != "obs"}
        return f"Batch({', '.join(f'{name}{list(x.shape)}' for name, x in shapes.items())})"

    def to(self, device: torch.device | str) -> "Batch":
        """The same rows on another device. A copy to the host is complete when this returns."""
        kind = torch.device(device).type

        def copied(x: Tensor) -> Tensor:
            if kind == "cuda" and x.device.type == "cpu":
                x = x.pin_memory()  # from other memory the copy would wait for the GPU
            return x.to(device, non_blocking=kind != "cpu")  # it is queued on the device, before whatever uses it

        return Batch({key: copied(value) for key, value in self.obs.items()}, *map(copied, self[1:]))


class Rows(NamedTuple):
    """One row of each of N environments, as a rollout makes them."""

    obs: dict[str, np.ndarray]  # [N, ...] by path
    prev_action: np.ndarray  # [N, A] float32
    reward: np.ndarray  # [N] float32
    is_first: np.ndarray  # [N] bool
    is_last: np.ndarray  # [N] bool
    is_terminal: np.ndarray  # [N] bool
    episode_step: np.ndarray  # [N] int32


@runtime_checkable
class Policy(Protocol):
    """Chooses actions for N environments side by side. One with memory clears it for an environment at `is_first`.

    N may be another one than before where all rows are `is_first`.
    """

    def __call__(self, rows: Rows) -> Float[np.ndarray, "N A"]:
        """Actions as ActionSpec lays them out, given the newest row of each environment.

        A row holds the action that was executed and the reward that it earned. The action for an episode that has just
        ended is not used.
        """
        ...


@runtime_checkable
class SavedPolicy(Policy, Protocol):
    """A policy whose state belongs to a run's checkpoints, so that a resumed run acts as it would have acted."""

    def state(self) -> dict[str, Tensor]:
        """Everything that later actions depend on, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """A normalised density or mass p(x | .) for every batch entry, its event dimensions summed."""

    @property
    def measure(self) -> Literal["density", "mass", "mixed"]:
        """Whether `log_prob` is a log-density, a log-mass or a mix; nats of different measures cannot be compared."""
        ...

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is log p(x) itself; if not, it is a lower bound on it."""
        ...

    @property
    def mean(self) -> Tensor:
        """E[x] with the event's shape, in the units of x (for categories: the class probabilities)."""
        ...

    def log_prob(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """log p(x) in nats."""
        ...

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, in the units and dtype of x."""
        ...


@runtime_checkable
class Proposal(Protocol):
    """A distribution over z_t that particles are drawn from."""

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch Z"]:
        """One draw, without gradient."""
        ...

    def log_prob(self, z: Float[Tensor, "*batch Z"]) -> Float[Tensor, "*batch S"]:
        """log-density or log-mass of each group, in nats."""
        ...


@runtime_checkable
class Latent(Proposal, Protocol):
    """A distribution over S latent groups, as the posterior and the prior are."""

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch Z"]:
        """A differentiable sample (straight-through where exact reparameterisation is impossible)."""
        ...

    def entropy(self) -> Float[Tensor, "*batch S"]:
        """Entropy of each group, in nats."""
        ...

    def kl(self, other: Any) -> Float[Tensor, "*batch S"]:
        """KL(self || other) of each group in nats, for another of the same family; the sum is the KL of the step."""
        ...

    def detach(self) -> "Latent":
        """The same distribution, detached from the graph of gradients."""
        ...


class KL(NamedTuple):
    """KL(posterior || prior) of each latent group, and both entropies, in nats."""

    kl: Float[Tensor, "*batch S"]  # its sum over S is the step's KL
    posterior_entropy: Float[Tensor, "*batch S"]
    prior_entropy: Float[Tensor, "*batch S"]


class BalancedKL(NamedTuple):
    """The KL of each step as training optimises it, the raw KL of each group, and both entropies, in nats."""

    balanced: Float[Tensor, "*batch"]  # clamped and weighted
    kl: Float[Tensor, "*batch S"]
    posterior_entropy: Float[Tensor, "*batch S"]
    prior_entropy: Float[Tensor, "*batch S"]


@runtime_checkable
class BalancedLatent(Latent, Protocol):
    """A `Latent` that can be trained: one call gives its KL and everything else that an update reports."""

    def divergence(self, other: Any) -> KL:
        """KL(self || other) of each group, as `kl`, and both entropies."""
        ...

    def balanced_kl(self, other: Any, *, dyn: float, rep: float, free_nats: float) -> BalancedKL:
        """dyn max(KL( sg(self) || other ), free_nats) + rep max(KL( self || sg(other) ), free_nats) of each step."""
        ...


# What a recurrence remembers between rows: a tree (tuple, list, dict) of tensors with the same leading shape.
Carry = Any


class Trajectory(NamedTuple):
    """A filtered sequence, all [B, T, ...]: the states, and the posterior and prior of each z_t."""

    states: State
    posterior: BalancedLatent
    prior: BalancedLatent
    carry: Carry  # after the last row, [B, ...]: filtering and imagination go on from it


# States [*batch, ...] -> actions [*batch, A], as ActionSpec lays them out.
Act = Callable[[State], Tensor]


@runtime_checkable
class Dynamics(Protocol):
    """A recurrence with a latent z_t at every step, as the world model, imagination and evidence use it.

        h_t = f(carry, action that led to x_t)                  step
        z_t ~ p(z_t | h_t)                                      prior
        z_t ~ q(z_t | h_t, x_t)                                 posterior, which reads x_t through `project`
        carry = g(carry, h_t, z_t)                              advance

    The carry of an RSSM is (h_t, z_t); a transformer's would be its keys and values, a state-space model's its state.
    """

    @property
    def marginal_gradient(self) -> bool:
        """Whether q gets the likelihoods' gradients by sums over classes (`objectives.marginal`), not through z_t."""
        ...

    def initial(self, batch: int) -> Carry:
        """The carry before an episode's first row, [B, ...]."""
        ...

    def noise(self, batch: int, steps: int, generator: torch.Generator | None = None) -> Float[Tensor, "B T *noise"]:
        """The noise that `observe` and `imagine` turn into samples."""
        ...

    def step(
        self, carry: Carry, prev_action: Float[Tensor, "B A"], is_first: Bool[Tensor, " B"] | None = None
    ) -> tuple[Carry, Float[Tensor, "B D"]]:
        """The carry after the action, and h_t. Where `is_first`, it starts from the initial carry."""
        ...

    def advance(self, carry: Carry, state: State) -> Carry:
        """The carry after z_t."""
        ...

    def carry_of(self, state: State) -> Carry:
        """The carry after a row of this state, whatever came before it.

        Raises:
            NotImplementedError: if the recurrence remembers more than its newest state.
        """
        ...

    def project(self, embed: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch I"]:
        """The part of the posterior's input that depends on a row's embedding alone."""
        ...

    def posterior(self, deter: Float[Tensor, "*batch D"], projected: Float[Tensor, "*#batch I"]) -> BalancedLatent:
        """q(z_t | h_t, x_t); many h_t may share the projection of one row."""
        ...

    def prior(self, deter: Float[Tensor, "*batch D"]) -> BalancedLatent:
        """p(z_t | h_t)."""
        ...

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        prev_action: Float[Tensor, "B T A"],
        is_first: Bool[Tensor, "B T"],
        noise: Float[Tensor, "B T *noise"],
        carry: Carry | None = None,
    ) -> Trajectory:
        """Filter a sequence from `carry`, or the initial carry; restart where `is_first`."""
        ...

    def imagine(
        self, carry: Carry, state: State, act: Act, noise: Float[Tensor, "B H *noise"]
    ) -> tuple[State, Float[Tensor, "B H A"]]:
        """Roll the prior forward: -> the states [B, H, ...] after each of H actions, and the actions.

        `act` chooses the action at every state, beginning with `state`.
        """
        ...


@runtime_checkable
class ParticleSequence(Protocol):
    """What sequential Monte Carlo uses of a `LatentSequence`, with any proposal in the place of the posterior."""

    @property
    def valid(self) -> Bool[Tensor, "B T"]:
        """The rows that count; the others are padding behind the end of a shorter sequence."""
        ...

    def initial(self, samples: int) -> Carry:
        """The carry before the first row."""
        ...

    def step(self, carry: Carry, t: int) -> tuple[Carry, Float[Tensor, "N B D"], Latent]:
        """The carry after the action of row t, h_t, and the prior p(z_t | h_t). Does not sample, does not read x_t."""
        ...

    def advance(self, carry: Carry, state: State) -> Carry:
        """The carry after z_t."""
        ...

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Proposal:
        """What z_t is drawn from, given h_t and the rows."""
        ...

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x_t | h_t, z_t) by name, normalised; zero where there is no observation of that name."""
        ...


@runtime_checkable
class LatentSequence(ParticleSequence, Protocol):
    """A latent-variable model together with its data, B sequences of T rows.

        p(x_1:T, z_1:T) = prod_t p(z_t | h_t) p(x_t | h_t, z_t),    h_t = f(h_{t-1}, z_{t-1}, action of row t)
        q(z_1:T | x)    = prod_t q(z_t | h_t, x)

    The bound and the estimators of the evidence use nothing else of a model, so they are the same for a mixture
    (T = 1), a linear-Gaussian model, an HMM and an RSSM. The sequence holds the rows, and t is the index of one. States
    have N samples or particles in the first dimension: [N, B, ...]. Everything is in nats.

    The carry, which the model remembers between rows, is any tree of tensors with leading shape [N, B]. One step is

        carry, deter, prior = sequence.step(carry, t)              h_t and p(z_t | h_t)
        z = sequence.proposal(deter, t).sample(generator)          z_t ~ q(z_t | h_t, x)
        terms = sequence.likelihood(State(deter, z), t)            log p(x_t | h_t, z_t)
        carry = sequence.advance(carry, State(deter, z))
    """

    def proposal(self, deter: Float[Tensor, "N B D"], t: int) -> Latent:
        """q(z_t | h_t, x), the proposal for z_t given the rows."""
        ...
