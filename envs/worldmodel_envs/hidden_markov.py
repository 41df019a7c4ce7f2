"""A hidden Markov world whose exact evidence is known: a walk on a ring that shows its colours through noise.

    s_1 uniform on the ring;   s_t = s_{t-1} + move of the action, or of a uniformly drawn action with probability slip
    x_t = colour of s_t, or a uniformly drawn other colour with probability noise
    r_t = 1 at the goal (s = 0) and 0 elsewhere, plus Gaussian noise
    the episode terminates on arriving at the goal with probability `termination`

Neighbouring states share a colour, so the state is never seen: what is left of it has to be inferred from what came
before. `HiddenMarkov.law` holds the process in plain arrays; the forward algorithm over them is the log evidence of any
recorded episode, and needs nothing else from here.

    gymnasium.make("worldmodel/HiddenMarkov-v0", states=8, colours=4)
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

MOVES = (-1, 0, 1)  # of the actions, in states along the ring


class HiddenMarkov(gymnasium.Env[np.int64, int | np.integer]):
    """The walk. An episode goes on until it terminates at the goal; time limits are Gymnasium's."""

    def __init__(
        self,
        states: int = 8,
        colours: int = 4,
        *,
        slip: float = 0.15,
        noise: float = 0.1,
        reward_std: float = 0.5,
        termination: float = 0.0,
    ) -> None:
        """Args:
        states: on the ring.
        colours: that they show; state s has colour s * colours // states.
        slip: probability that a step goes as a uniformly drawn action would.
        noise: probability that another colour than the state's is shown.
        reward_std: standard deviation of the reward's noise.
        termination: probability that an arrival at the goal ends the episode; zero never does.
        Raises:
            ValueError: if a number is out of range.
        """
        _require(states >= 3, "states", "at least 3, so that the three moves differ", states)
        _require(2 <= colours <= states, "colours", f"2 to states = {states}", colours)
        for name, value in (("slip", slip), ("noise", noise), ("termination", termination)):
            _require(0 <= value <= 1, name, "a probability", value)
        _require(reward_std > 0, "reward_std", "a number greater than zero", reward_std)
        self.observation_space = spaces.Discrete(colours)
        self.action_space = spaces.Discrete(len(MOVES))
        ring = np.eye(states)
        moved = np.stack([np.roll(ring, move, axis=1) for move in MOVES])  # [A, S, S]
        colour = np.eye(colours)[np.arange(states) * colours // states]  # [S, X]
        self._initial = np.full(states, 1 / states)
        self._transition = (1 - slip) * moved + slip * moved.mean(0)
        self._emission = (1 - noise) * colour + noise * (1 - colour) / (colours - 1)
        self._reward_mean = ring[0]
        self._reward_std = np.full(states, float(reward_std))
        self._termination = termination * ring[0]
        self._state = 0
        self._start, self._move, self._show = (
            _cumulative(p) for p in (self._initial, self._transition, self._emission)
        )

    @property
    def law(self) -> dict[str, Any]:
        """The process, for S states, A actions and X colours: `kind`, and float64 arrays.

        initial      [S]        p(s_1)
        transition   [A, S, S]  p(s_t | s_{t-1}, a): action, from, to
        emission     [S, X]     p(x_t | s_t)
        reward_mean  [S]        of the Gaussian r_t at s_t; the first row of an episode has no reward
        reward_std   [S]
        termination  [S]        p(the episode ends on arriving at s_t); never on the first row
        """
        return {
            "kind": "hidden_markov",
            "initial": self._initial.copy(),
            "transition": self._transition.copy(),
            "emission": self._emission.copy(),
            "reward_mean": self._reward_mean.copy(),
            "reward_std": self._reward_std.copy(),
            "termination": self._termination.copy(),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Begin somewhere on the ring."""
        super().reset(seed=seed)
        self._state = self._draw(self._start)
        return self._observe(), {}

    def step(self, action: int | np.integer) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move, and see where to."""
        self._state = self._draw(self._move[action, self._state])
        reward = self.np_random.normal(self._reward_mean[self._state], self._reward_std[self._state])
        terminated = bool(self.np_random.random() < self._termination[self._state])
        return self._observe(), float(reward), terminated, False, {}

    def _observe(self) -> np.int64:
        return np.int64(self._draw(self._show[self._state]))

    def _draw(self, cumulative: np.ndarray) -> int:
        return int(cumulative.searchsorted(self.np_random.random(), side="right"))


def _cumulative(probabilities: np.ndarray) -> np.ndarray:
    total = probabilities.cumsum(-1)
    return total / total[..., -1:]  # so that rounding leaves nothing above the last


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
