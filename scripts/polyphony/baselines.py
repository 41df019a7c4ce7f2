"""Models of piano rolls whose evidence is exact: independent notes, and hidden Markov models by EM.

    p(z_1 = k) = initial_k,   p(z_t = j | z_{t-1} = i) = transition_ij,   p(x_t | z_t = k) = prod_n Bernoulli(note_kn)

The forward and backward recursions are normalised at every step and work on probabilities, so that a step is one matrix
product; `worldmodel.oracles.hmm` has the same model with actions, in logarithms, and the tests compare the two.
Source: Rabiner 1989.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scripts.polyphony.rolls import similar

Rolls = list[np.ndarray]
SMOOTHING = 0.01  # pseudo-count of a note that sounds, of one that does not, and of every transition
AT_ONCE = 2**23  # numbers of beliefs, steps times states, that rolls which are looked at together may have
PATIENCE = 3  # iterations of EM without a better validation score, after which it ends


def independent_notes(train: Rolls, rolls: Rolls) -> Float[Tensor, " n"]:
    """log p of each roll in nats, every note by itself with its frequency in `train`, counted from one half."""
    found = np.concatenate(train)
    share = torch.from_numpy((found.sum(0) + 0.5) / (len(found) + 1))
    return torch.stack([_log_mass(roll, share[None]).sum() for roll in rolls])


def _log_mass(roll: np.ndarray, share: Float[Tensor, "K 88"]) -> Float[Tensor, "T K"]:
    """log p(x_t | z_t = k) in nats, for probabilities of each note."""
    x = torch.from_numpy(roll.astype(np.float64))
    return x @ share.log().T + (1 - x) @ (1 - share).log().T


@dataclass(frozen=True)
class BernoulliHMM:
    """The parameters, float64."""

    initial: Float[Tensor, " K"]
    transition: Float[Tensor, "K K"]
    note: Float[Tensor, "K 88"]

    @classmethod
    def random(cls, train: Rolls, states: int, seed: int) -> "BernoulliHMM":
        """Where EM starts: each state near a step of the music that is drawn at random, and all transitions alike."""
        generator = torch.Generator().manual_seed(seed)
        found = torch.from_numpy(np.concatenate(train).astype(np.float64))
        chosen = found[torch.randperm(len(found), generator=generator)[:states]]
        note = 0.5 * chosen + 0.5 * (found.mean(0) + 1e-4) / (1 + 2e-4)
        spread = 1 + 0.1 * torch.rand(states, states, generator=generator, dtype=torch.float64)
        even = torch.full((states,), 1 / states, dtype=torch.float64)
        return cls(even, spread / spread.sum(1, keepdim=True), note)

    def log_evidence(self, rolls: Rolls) -> Float[Tensor, " n"]:
        """log p(x_1:T) of each roll in nats, by the forward algorithm."""
        found = torch.empty(len(rolls), dtype=torch.float64)
        for chosen in similar(rolls, AT_ONCE // len(self.initial)):
            mass, valid, peak = self._masses([rolls[k] for k in chosen])
            found[chosen] = self._forward(mass, valid)[1].add_(peak).mul_(valid).sum(1)
        return found

    def em_step(self, rolls: Rolls) -> "BernoulliHMM":
        """One iteration of EM, with pseudo-counts for what a state has hardly seen."""
        parts = [self._expected([rolls[k] for k in chosen]) for chosen in similar(rolls, AT_ONCE // len(self.initial))]
        first, pairs, sounding, weight = (torch.stack(counts).sum(0) for counts in zip(*parts, strict=True))
        first, pairs = first + SMOOTHING, pairs + SMOOTHING
        return BernoulliHMM(
            first / first.sum(),
            pairs / pairs.sum(1, keepdim=True),
            (sounding + SMOOTHING) / (weight[:, None] + 2 * SMOOTHING),
        )

    def _expected(
        self, rolls: Rolls
    ) -> tuple[Float[Tensor, " K"], Float[Tensor, "K K"], Float[Tensor, "K 88"], Float[Tensor, " K"]]:
        """How often some rolls are expected to begin in each state, to go from one to another, to sound each note in
        one, and to be in one."""
        mass, valid, _ = self._masses(rolls)
        beliefs, log_scale = self._forward(mass, valid)
        future = torch.ones_like(mass[:, 0])
        pairs = torch.zeros_like(self.transition)
        smoothed = torch.empty_like(mass)
        for t in range(mass.shape[1] - 1, -1, -1):
            smoothed[:, t] = beliefs[:, t] * future * valid[:, t, None]
            if t:
                ahead = mass[:, t] * future / log_scale[:, t, None].exp() * valid[:, t, None]
                pairs += beliefs[:, t - 1].T @ ahead
                future = torch.where(valid[:, t, None], ahead @ self.transition.T, 1.0)
        x = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(roll.astype(np.float64)) for roll in rolls], True)
        sounding, weight = torch.einsum("btk,btn->kn", smoothed, x), smoothed.sum((0, 1))
        return smoothed[:, 0].sum(0), pairs * self.transition, sounding, weight

    def _masses(self, rolls: Rolls) -> tuple[Float[Tensor, "n T K"], Bool[Tensor, "n T"], Float[Tensor, "n T"]]:
        """p(x_t | z_t) over its largest value of each step, the steps that are music, and the log of that value."""
        logs = [_log_mass(roll, self.note) for roll in rolls]
        padded = torch.nn.utils.rnn.pad_sequence(logs, True)
        valid = torch.arange(padded.shape[1]) < torch.tensor([len(roll) for roll in rolls])[:, None]
        peak = padded.amax(-1)
        return (padded - peak[..., None]).exp(), valid, peak

    def _forward(
        self, mass: Float[Tensor, "n T K"], valid: Bool[Tensor, "n T"]
    ) -> tuple[Float[Tensor, "n T K"], Float[Tensor, "n T"]]:
        """p(z_t | x_<=t), and log p(x_t | x_<t) less the peak of the masses; behind a roll's end, beliefs stay."""
        belief = self.initial.expand(len(mass), -1)
        beliefs, log_scale = [], []
        for t in range(mass.shape[1]):
            joint = (belief @ self.transition if t else belief) * mass[:, t]
            scale = joint.sum(-1, keepdim=True)
            belief = torch.where(valid[:, t, None], joint / scale, belief)
            beliefs.append(belief)
            log_scale.append(scale.log()[:, 0])
        return torch.stack(beliefs, 1), torch.stack(log_scale, 1)


def fit(train: Rolls, valid: Rolls, states: int, seed: int, iterations: int) -> tuple[BernoulliHMM, int]:
    """EM from a random start: the model of the iteration with the best validation evidence, and that iteration."""
    model = BernoulliHMM.random(train, states, seed)
    best, best_score, best_at = model, -np.inf, 0
    for iteration in range(1, iterations + 1):
        model = model.em_step(train)
        score = float(model.log_evidence(valid).sum())
        if score > best_score:
            best, best_score, best_at = model, score, iteration
        if iteration - best_at >= PATIENCE:
            break
    return best, best_at
