"""The estimators against exact evidence: a linear-Gaussian model and a hidden Markov model, both with actions."""

import pytest
import torch

from worldmodel.evidence.iwae import iwae
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.smc import smc
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.oracles.hmm import HiddenMarkov
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian

REPETITIONS = 1000
PARTICLES = 64


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def pendulum():
    """Position and speed of a damped spring that actions push; the position is seen with noise."""
    return LinearGaussian.create(
        A=f64([[1.0, 0.3], [-0.3, 0.9]]),
        B=f64([[0.0], [0.3]]),
        C=f64([[1.0, 0.0]]),
        Q=f64([[0.02, 0.0], [0.0, 0.1]]),
        R=f64([[0.1]]),
        m=f64([0.0, 0.0]),
        P=f64([[0.5, 0.0], [0.0, 0.5]]),
    )


class Gaussians:
    """Copies of one simulated sequence; q is what row t alone makes of the prior, the greedy filter, and broader."""

    def __init__(self, length, copies, generator, *, distinct=False):
        self.model = pendulum()
        action = torch.randn(copies if distinct else 1, length, 1, generator=generator, dtype=torch.float64)
        path, x = self.model.simulate(action, generator)
        self.path, self.x, self.action = (y.expand(copies, -1, -1) for y in (path, x, action))
        greedy = self.model.tilted(*self.model.local(self.x, self.action), self.action)
        self.sequence = self.given(MarkovGaussian(greedy.F, greedy.f, 1.3 * greedy.V))

    def given(self, proposal):
        return self.model.given(self.x, self.action, proposal=proposal)

    def truth(self):
        return self.model.log_evidence(self.x, self.action)

    def bound(self):
        return self.model.elbo(self.sequence.q, self.x, self.action).sum(1)


class Chain:
    """Copies of one sequence of a chain with two actions, seen through noisy numbers; q is greedy and flattened."""

    def __init__(self, length, copies, generator, *, distinct=False):
        transition = f64(
            [[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], [[0, 0.9, 0.1], [0.1, 0, 0.9], [1, 0, 0]]]
        )
        self.model = HiddenMarkov(f64([0.5, 0.3, 0.2]), transition)
        choice = torch.randint(2, (copies if distinct else 1, length), generator=generator)
        action = torch.nn.functional.one_hot(choice, 2).double()
        path = self.model.simulate(action, generator)
        x = path @ f64([-1.0, 0.0, 1.5]) + 0.7 * torch.randn(path.shape[:2], generator=generator, dtype=torch.float64)
        self.path, self.action = path.expand(copies, -1, -1), action.expand(copies, -1, -1)
        means = torch.distributions.Normal(f64([-1.0, 0.0, 1.5]), 0.7)
        self.log_emission = means.log_prob(x[..., None]).expand(copies, -1, -1)
        self.sequence = self.given(self.model.tilted(0.3 * self.log_emission, self.action))

    def given(self, proposal):
        return self.model.given({"x": self.log_emission}, self.action, proposal=proposal)

    def truth(self):
        return self.model.log_evidence(self.log_emission, self.action)

    def bound(self):
        return self.model.elbo(self.sequence.q, self.log_emission, self.action).sum(1)


worlds = pytest.mark.parametrize("world", [Gaussians, Chain], ids=["linear-Gaussian", "HMM"])
settings = pytest.mark.parametrize(
    ("prior_share", "threshold"),
    [(0.0, 0.5), (1.0, 0.5), (0.1, 0.5), (0.1, 1.0), (0.0, 0.0)],
    ids=["guided", "bootstrap", "mixture", "mixture always", "guided never"],
)


def require_mean_one(log_ratio):
    """E[exp(log_ratio)] = 1 within three standard errors, of a variance at which the mean is there to be seen."""
    assert log_ratio.var() < 0.7
    ratio = log_ratio.exp()
    assert abs(ratio.mean() - 1) < 3 * ratio.std() / len(ratio) ** 0.5, (ratio.mean(), ratio.std())


@worlds
@settings
def test_the_estimate_is_unbiased(world, prior_share, threshold, generator):
    copies = world(8, REPETITIONS, generator)
    estimate = smc(copies.sequence, PARTICLES, generator=generator, prior_share=prior_share, threshold=threshold)
    require_mean_one(estimate.log_evidence - copies.truth().sum(1))


@worlds
def test_the_inverse_along_the_simulated_path_is_unbiased_and_the_truth_is_between(world, generator):
    episodes = world(8, REPETITIONS, generator, distinct=True)
    truth = episodes.truth().sum(1)
    bounds = sandwich(episodes.sequence, episodes.path, PARTICLES, generator=generator)
    require_mean_one(truth - bounds.upper[0])
    require_mean_one(bounds.lower[0] - truth)
    rough = sandwich(episodes.sequence, episodes.path, 8, generator=generator)
    for gap in (truth - rough.lower[0], rough.upper[0] - truth):
        assert gap.mean() > 3 * gap.std() / REPETITIONS**0.5


@worlds
def test_the_sampled_bound_is_the_exact_one_and_the_others_lie_above_it(world, generator):
    copies = world(8, REPETITIONS, generator)
    sampled = sequence_elbo(copies.sequence, generator=generator).elbo[0].sum(1)
    error = sampled.std() / REPETITIONS**0.5
    assert abs(sampled.mean() - copies.bound()[0]) < 3 * error
    weighted = iwae(copies.sequence, PARTICLES, generator=generator).log_evidence
    require_mean_one(weighted - copies.truth().sum(1))
    assert copies.bound()[0] < weighted.mean() - 3 * error < copies.truth()[0].sum()


@worlds
def test_under_the_exact_posterior_every_path_weighs_the_evidence(world, generator):
    few = world(8, 3, generator)
    estimate = iwae(few.given(None), 4, generator=generator)
    torch.testing.assert_close(estimate.log_evidence, few.truth().sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimate.ess, torch.full((3,), 4.0, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_variance_of_smc_grows_linearly_and_importance_weighting_falls_away(generator):
    """Four times the rows: four times the variance of SMC; the error of importance weighting leaves it far behind."""
    episodes = Gaussians(80, 300, generator, distinct=True)
    truth = episodes.truth().cumsum(1)
    filtered = smc(episodes.sequence, 128, generator=generator).so_far - truth
    weighted = smc(episodes.sequence, 128, generator=generator, threshold=0.0).so_far - truth
    assert 2.5 < filtered[:, 79].var() / filtered[:, 19].var() < 6
    assert weighted[:, 79].mean() < 10 * weighted[:, 19].mean() < 0
    assert weighted[:, 79].mean() < 30 * filtered[:, 79].mean() < 0
