"""A hidden Markov model small enough to be exact in a few lines, as the `LatentSequence` that the estimators see."""

import torch

from worldmodel.models.latents import OneHotCategorical


class TinyHMM:
    """K hidden states, colours x [B, T]; h_t is z_{t-1} as a one-hot vector, zeros before the first row.

    q(z_t | h_t, x_t) is the exact one-step posterior p(z_t | z_{t-1}, x_t) flattened by `distortion`: 0 leaves it, 1
    makes it uniform. `dull` is the share of uniform noise in the colours.
    """

    def __init__(self, x, valid=None, *, states=3, colours=4, distortion=0.6, dull=0.0, seed=0):
        g = torch.Generator().manual_seed(seed)
        table = lambda *shape: (1.5 * torch.randn(*shape, generator=g, dtype=torch.float64)).log_softmax(-1)  # noqa: E731
        self.start, self.transition, emission = table(states), table(states, states), table(states, colours)
        self.emission = ((1 - dull) * emission.exp() + dull / colours).log()
        self.x, self.distortion = x, distortion
        self.valid = torch.ones(x.shape, dtype=torch.bool) if valid is None else valid

    def initial(self, samples):
        return torch.zeros(samples, len(self.x), len(self.start), dtype=torch.float64)

    def step(self, carry, t):
        return carry, carry, OneHotCategorical(self._prior(carry)[..., None, :], 0.0)

    def advance(self, carry, state):
        return state.stoch

    def proposal(self, deter, t):
        logits = self._prior(deter) + self.emission[:, self.x[:, t]].T
        return OneHotCategorical((1 - self.distortion) * logits.log_softmax(-1)[..., None, :], 0.0)

    def likelihood(self, state, t):
        return {"colour": self.emission[state.stoch.argmax(-1), self.x[:, t]]}

    def _prior(self, previous):
        return torch.where(previous.sum(-1, keepdim=True) > 0, previous @ self.transition, self.start)

    def forward(self):
        """log p(x_t | x_<t) [B, T], by the forward algorithm, and the filtered probabilities [B, T, K]."""
        predicted, increments, filtered = self.start.expand(len(self.x), -1), [], []
        for t in range(self.x.shape[1]):
            joint = predicted + self.emission[:, self.x[:, t]].T
            increments.append(joint.logsumexp(-1))
            filtered.append((joint - increments[-1][:, None]).exp())
            predicted = (filtered[-1] @ self.transition.exp()).log()
        return torch.stack(increments, 1), torch.stack(filtered, 1)

    def log_evidence(self):
        """log p(x_1:T) [B], over the rows that count."""
        return torch.where(self.valid, self.forward()[0], 0.0).sum(1)

    def simulate(self, generator):
        """Colours [B, T] and the path [B, T, K] behind them, in the shape of x."""
        carry, x, path = self.initial(1), [], []
        for t in range(self.x.shape[1]):
            _, _, prior = self.step(carry, t)
            carry = prior.sample(generator)
            path.append(carry[0])
            x.append(torch.multinomial((path[-1] @ self.emission.exp()), 1, generator=generator)[:, 0])
        return torch.stack(x, 1), torch.stack(path, 1)


def colours(batch, length, seed=0, count=4):
    return torch.randint(0, count, (batch, length), generator=torch.Generator().manual_seed(seed))
