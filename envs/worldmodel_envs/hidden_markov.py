"""A hidden Markov world whose exact evidence is known: a walk on a ring that shows its colours through noise.

    s_1 uniform on the ring;   s_t = s_{t-1} + move of the action, or of a uniformly drawn action with probability slip
    x_t = colour of s_t, or a uniformly drawn other colour with probability noise
    r_t = 1 at the goal (s = 0) and 0 elsewhere, plus Gaussian noise
    the episode terminates on arriving at the goal with probability `termination`

Neighbouring states share a colour, so the state is never seen and has to be inferred from what came
before. From `HiddenMarkov.law` alone, the forward algorithm computes the log evidence of any recorded episode.

    gymnasium.make("worldmodel/HiddenMarkov-v0", states=8, colours=4)
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodel_envs.known_law import KnownLaw, require, require_positive

MOVES = (-1, 0, 1)  # of the actions, in states along the ring


class HiddenMarkov(KnownLaw[np.int64, int | np.integer]):
    """The walk. An episode goes on until it terminates at the goal; time limits are Gymnasium's.

    Its `law`, for S states, A actions and X colours, has the kind "hidden_markov" and

        initial      [S]        p(s_1)
        transition   [A, S, S]  p(s_t | s_{t-1}, a): action, from, to
        emission     [S, X]     p(x_t | s_t)
        reward_mean  [S]        of the Gaussian r_t at s_t; the first row of an episode has no reward
        reward_std   [S]
        termination  [S]        p(the episode ends on arriving at s_t); never on the first row
    """

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
        require(states >= 3, "states", "at least 3, so that the three moves differ", states)
        require(2 <= colours <= states, "colours", f"2 to states = {states}", colours)
        for name, value in (("slip", slip), ("noise", noise), ("termination", termination)):
            require(0 <= value <= 1, name, "a probability", value)
        require_positive(reward_std=reward_std)
        self.observation_space = spaces.Discrete(colours)
        self.action_space = spaces.Discrete(len(MOVES))
        ring = np.eye(states)
        moved = np.stack([np.roll(ring, move, axis=1) for move in MOVES])  # [A, S, S]
        colour = np.eye(colours)[np.arange(states) * colours // states]  # [S, X]
        self._law = {
            "kind": "hidden_markov",
            "initial": np.full(states, 1 / states),
            "transition": (1 - slip) * moved + slip * moved.mean(0),
            "emission": (1 - noise) * colour + noise * (1 - colour) / (colours - 1),
            "reward_mean": ring[0],
            "reward_std": np.full(states, float(reward_std)),
            "termination": termination * ring[0],
        }
        self._state = 0
        self._start, self._move, self._show = (
            _cumulative(self._law[name]) for name in ("initial", "transition", "emission")
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Begin at a state drawn uniformly from the ring."""
        super().reset(seed=seed)
        self._state = self._draw(self._start)
        return self._observe(), {}

    def step(self, action: int | np.integer) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move one state back, not at all, or one state on (unless the move slips), and show the new state's colour."""
        self._state = self._draw(self._move[action, self._state])
        reward = self.np_random.normal(self._law["reward_mean"][self._state], self._law["reward_std"][self._state])
        terminated = bool(self.np_random.random() < self._law["termination"][self._state])
        return self._observe(), float(reward), terminated, False, {}

    def _observe(self) -> np.int64:
        return np.int64(self._draw(self._show[self._state]))

    def _draw(self, cumulative: np.ndarray) -> int:
        return int(cumulative.searchsorted(self.np_random.random(), side="right"))


def _cumulative(probabilities: np.ndarray) -> np.ndarray:
    total = probabilities.cumsum(-1)
    return total / total[..., -1:]  # the last is then exactly one, which no uniform draw reaches
