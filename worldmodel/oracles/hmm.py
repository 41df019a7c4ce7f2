"""The hidden Markov model with actions, in float64: exact evidence, posterior, samples and EM.

    p(z_1 = k) = initial_k
    p(z_t = j | z_{t-1} = i, a_t) = transition[a_t, i, j]
    p(x_t | z_t = k) = exp(log_emission[t, k])

a_t is the action that led to x_t (`prev_action[t]` of a batch), one-hot; on the first row it is not read. The model is
given the numbers log p(x_t | z_t = k), by name, so observations may be of any kind; `Emissions` computes these numbers
for categorical observations. They are zero where nothing was observed.

| letter | meaning | letter | meaning | letter | meaning           | letter | meaning |
| B      | batch   | T      | time    | K      | states            | N      | samples |
| A      | actions |        |         | V      | values of a name  |        |         |

Sources: Rabiner 1989; Baum, Petrie, Soules and Weiss 1970.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.oracles.checks import as_rows, expect_probabilities, expect_shape
from worldmodel.oracles.distributions import OneHot, expectation
from worldmodel.oracles.markov_categorical import MarkovCategorical, one_hot_rows, select
from worldmodel.types import Latent, State


@dataclass(frozen=True)
class HiddenMarkov:
    """The parameters of the chain, float64.

    Raises:
        ValueError: if a shape disagrees, or probabilities do not sum to one.
    """

    initial: Float[Tensor, " K"]
    transition: Float[Tensor, "A K K"]  # a matrix for each action, whose rows sum to one; A = 1 without actions

    def __post_init__(self) -> None:
        K = self.initial.numel()
        expect_shape("initial", self.initial, K)
        expect_shape("transition", self.transition, None, K, K)
        expect_probabilities("initial", self.initial)
        expect_probabilities("transition", self.transition)

    def log_transition(self, size: Sequence[int], action: Float[Tensor, "B T A"] | None) -> Float[Tensor, "B T K K"]:
        """log p(z_t = j | z_{t-1} = i, a_t) of every row; on the first, log p(z_1 = j) for every i. size is [B, T]."""
        index = self.actions(size, action)
        first = self.initial.expand(size[0], 1, len(self.initial), -1)
        return torch.cat([first, self.transition[index[:, 1:]]], 1).log()

    def actions(self, size: Sequence[int], action: Float[Tensor, "B T A"] | None) -> Int[Tensor, "B T"]:
        """The index of every row's action; zero in a model without actions.

        Raises:
            ValueError: if a row after the first is not one-hot, or no actions are given to a model with several.
        """
        A = len(self.transition)
        if action is None and A > 1:
            raise ValueError(f"action: expected one-hot vectors of {A} actions, got None")
        if action is None:
            return torch.zeros(*size, dtype=torch.long, device=self.initial.device)
        action = as_rows("action", action, *size, A)
        later = action[:, 1:]
        if not bool((((later == 0) | (later == 1)).all(-1) & (later.sum(-1) == 1)).all()):
            raise ValueError("action: expected a one-hot vector on every row after the first, got other numbers")
        return action.argmax(-1)

    def forward(
        self, log_emission: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]]:
        """log p(z_t = k | x_<=t) and log p(x_t | x_<t) in nats, by the forward algorithm, normalised at every row.

        predict:  p(z_t = j | x_<t) = sum_i p(z_{t-1} = i | x_<t) p(z_t = j | z_{t-1} = i, a_t)
        update:   p(x_t | x_<t) = sum_j p(z_t = j | x_<t) p(x_t | z_t = j)

        An impossible row has the log evidence -inf; the beliefs after it are as if it had not been observed.
        """
        log_emission = self.emission(log_emission)
        log_transition = self.log_transition(log_emission.shape[:2], action)
        belief = self.initial.log().expand(len(log_emission), -1)
        beliefs, log_evidence = [], []
        for t in range(log_emission.shape[1]):
            predicted = (belief[..., None] + log_transition[:, t]).logsumexp(-2) if t else belief
            joint = predicted + log_emission[:, t]
            log_evidence.append(joint.logsumexp(-1))
            impossible = torch.isneginf(log_evidence[-1])[..., None]
            belief = torch.where(impossible, predicted, joint - log_evidence[-1][..., None])
            beliefs.append(belief)
        return torch.stack(beliefs, 1), torch.stack(log_evidence, 1)

    def log_evidence(
        self, log_emission: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B T"]:
        """log p(x_t | x_<t) of every row in nats; the sum over t is log p(x_1:T || a_1:T)."""
        return self.forward(log_emission, action)[1]

    def backward(
        self, log_emission: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B T K"]:
        """log p(x_t+1:T | z_t = k), zero at the last row.

        p(x_t:T | z_{t-1} = i) = sum_j p(z_t = j | z_{t-1} = i, a_t) p(x_t | z_t = j) p(x_t+1:T | z_t = j)
        """
        log_emission = self.emission(log_emission)
        log_transition = self.log_transition(log_emission.shape[:2], action)
        future = [torch.zeros_like(log_emission[:, 0])]
        for t in range(log_emission.shape[1] - 1, 0, -1):
            future.append((log_transition[:, t] + (log_emission[:, t] + future[-1])[:, None]).logsumexp(-1))
        return torch.stack(future[::-1], 1)

    def smooth(
        self, log_emission: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B T K"]:
        """p(z_t = k | x_1:T) by the forward-backward algorithm."""
        return (self.forward(log_emission, action)[0] + self.backward(log_emission, action)).softmax(-1)

    def posterior(
        self, log_emission: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> MarkovCategorical:
        """p(z_1:T | x_1:T) exactly, as the chain p(z_t | z_{t-1}, x_t:T): sample it, or take its marginals."""
        return self.tilted(self.emission(log_emission) + self.backward(log_emission, action), action)

    def tilted(
        self, log_tilt: Float[Tensor, "B T K"], action: Float[Tensor, "B T A"] | None = None
    ) -> MarkovCategorical:
        """The chain q(z_t = j | z_{t-1} = i) proportional to p(z_t = j | z_{t-1} = i) exp(log_tilt[t, j]).

        If the tilt excludes every state that i can go to, i keeps its row of p: no possible path passes through it.
        """
        log_transition = self.log_transition(log_tilt.shape[:2], action)
        tilted = log_transition + log_tilt[:, :, None]
        dead = torch.isneginf(tilted).all(-1, keepdim=True)
        return MarkovCategorical(torch.where(dead, log_transition, tilted).log_softmax(-1))

    @torch.no_grad()
    def simulate(
        self, action: Float[Tensor, "B T A"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B T K"]:
        """States z_1:T as one-hot vectors, drawn under these actions (pass ones [B, T, 1] where there are none)."""
        return MarkovCategorical(self.log_transition(action.shape[:2], action)).sample(1, generator)[0]

    def elbo(
        self,
        q: MarkovCategorical,
        log_emission: Float[Tensor, "B T K"],
        action: Float[Tensor, "B T A"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """The bound of every row under q, exactly.

        E_q[ log p(x_t | z_t) ] - E_q[ KL(q(z_t | z_{t-1}) || p(z_t | z_{t-1})) ]
        """
        log_emission = self.emission(log_emission)
        log_p = self.log_transition(log_emission.shape[:2], action) + log_emission[:, :, None]
        return expectation(q.pairs().flatten(-2), (log_p - q.log_probs).flatten(-2))[..., 0]

    def m_step(self, q: MarkovCategorical, action: Float[Tensor, "B T A"] | None = None) -> "HiddenMarkov":
        """The M-step of EM: the chain that maximises the bound under q, normalised expected counts (Baum and Welch).

        A state that is never left under an action keeps its transition probabilities.
        """
        index, pairs = self.actions(q.log_probs.shape[:2], action), q.pairs()
        chosen = one_hot_rows(index, len(self.transition))
        counts = torch.einsum("bta,btij->aij", chosen[:, 1:], pairs[:, 1:])
        left = counts.sum(-1, keepdim=True)
        transition = torch.where(left > 0, counts / left.clamp(min=torch.finfo(left.dtype).tiny), self.transition)
        return HiddenMarkov(pairs[:, 0].sum(-2).mean(0), transition / transition.sum(-1, keepdim=True))

    def emission(self, log_emission: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
        """Log-emissions in float64, after a check.

        Raises:
            ValueError: if their number of states differs, or they are NaN or +inf.
        """
        log_emission = as_rows("log_emission", log_emission, None, None, len(self.initial))
        if bool((torch.isnan(log_emission) | torch.isposinf(log_emission)).any()):
            raise ValueError("log_emission: expected numbers or -inf, got NaN or +inf")
        return log_emission

    def given(
        self,
        log_emissions: Mapping[str, Float[Tensor, "B T K"]],
        action: Float[Tensor, "B T A"] | None = None,
        *,
        valid: Bool[Tensor, "B T"] | None = None,
        proposal: Callable[[Tensor, int], Latent] | None = None,
    ) -> "HiddenMarkovSequence":
        """The model together with its data, as a `worldmodel.types.LatentSequence`.

        Args:
            log_emissions: log p(x_t | z_t = k) by name, independent given the state; zero where nothing was observed.
            action: a_t as one-hot vectors, the action that led to row t.
            valid: the rows that count, by default all. The others are treated as unobserved.
            proposal: q(z_t | z_{t-1}, x) as a function of the one-hot z_{t-1} [N, B, K] and t, such as a
                `MarkovCategorical`; the exact posterior by default.
        """
        if not log_emissions:
            raise ValueError("log_emissions: expected at least one name, got none")
        named = {name: self.emission(table) for name, table in log_emissions.items()}
        batch, steps = next(iter(named.values())).shape[:2]
        if valid is None:
            valid = torch.ones(batch, steps, dtype=torch.bool, device=self.initial.device)
        if valid.shape != (batch, steps):
            raise ValueError(f"valid: expected shape {[batch, steps]}, got {list(valid.shape)}")
        named = {name: torch.where(valid[..., None], table, 0.0) for name, table in named.items()}
        if valid.shape[1] > 1 and action is not None:  # any action will do for a row of padding
            action = torch.where(valid[..., None], action, one_hot_rows(valid.long() * 0, action.shape[-1]))
        if proposal is None:
            proposal = self.posterior(torch.stack(list(named.values())).sum(0), action)
        return HiddenMarkovSequence(self.log_transition(valid.shape, action), named, valid, proposal)


@dataclass(frozen=True)
class HiddenMarkovSequence:
    """The `LatentSequence` that `given` makes. Its carry and its h_t are both z_{t-1}, unread on the first row."""

    log_transition: Float[Tensor, "B T K K"]
    log_emissions: Mapping[str, Float[Tensor, "B T K"]]
    valid: Bool[Tensor, "B T"]
    q: Callable[[Tensor, int], Latent]

    def initial(self, samples: int) -> Float[Tensor, "N B K"]:
        """Zeros, which the first step does not read: it starts from p(z_1)."""
        return self.log_transition.new_zeros(samples, len(self.valid), self.log_transition.shape[-1])

    def step(self, carry: Float[Tensor, "N B K"], t: int) -> tuple[Tensor, Float[Tensor, "N B K"], OneHot]:
        """The carry z_{t-1}, h_t = z_{t-1}, and the prior p(z_t | z_{t-1}, a_t)."""
        return carry, carry, OneHot(select(self.log_transition[:, t], carry.argmax(-1)))

    def advance(self, carry: Float[Tensor, "N B K"], state: State) -> Float[Tensor, "N B K"]:
        """The carry z_t."""
        return state.stoch

    def proposal(self, deter: Float[Tensor, "N B K"], t: int) -> Latent:
        """q(z_t | z_{t-1}, x)."""
        return self.q(deter, t)

    def likelihood(self, state: State, t: int) -> dict[str, Float[Tensor, "N B"]]:
        """log p(x_t | z_t) by name."""
        index = state.stoch.argmax(-1)  # [N, B]
        batch = torch.arange(len(self.valid), device=index.device)
        return {name: table[:, t][batch, index] for name, table in self.log_emissions.items()}
