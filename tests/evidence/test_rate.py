"""The parts of the rate against closed forms: one Gaussian row, an autoencoder, and later rows of a Kalman model."""

import math

import pytest
import torch

from latent_paths import along as path_terms
from oracles.gaussian_worlds import normal, random_model, random_rows
from worldmodel.evidence.estimate import per_step
from worldmodel.evidence.rate import Rate, first_row, join_rates, misfit, posterior_path, rate_along_path
from worldmodel.models.latents import GaussianFamily
from worldmodel.models.vae import VAE
from worldmodel.oracles.distributions import Gaussian
from worlds import make_batch, make_model


class OneRow:
    """x ~ N(0, s^2), q(z | x) = N(a x, v), p(z) = N(m, w): information and misfit in closed form."""

    def __init__(self, x, a, v, m, w):
        self.x, self.a, self.v, self.m, self.w = x, a, v, m, w

    @property
    def valid(self):
        return torch.ones(len(self.x), 1, dtype=torch.bool)

    def initial(self, samples):
        return self.x.new_zeros(samples, len(self.x), 0)

    def step(self, carry, t):
        mean = self.x.new_full((*carry.shape[:2], 1), self.m)
        return carry, carry, Gaussian(mean, self.x.new_tensor([[self.w]]))

    def advance(self, carry, state):
        return carry

    def proposal(self, deter, t):
        return Gaussian((self.a * self.x).expand(len(deter), -1, -1), self.x.new_tensor([[self.v]]))

    def likelihood(self, state, t):
        raise AssertionError("the rate has no reconstruction in it")


def normal_kl(m, v, n, w):
    return 0.5 * (math.log(w / v) + (v + (m - n) ** 2) / w - 1)


def near(estimate, truth, sigmas=3.5):
    return abs(estimate.mean - truth) < sigmas * estimate.error


@pytest.mark.parametrize("prior", [(0.7, 0.5), (0.0, 0.81 * 4 + 0.3)], ids=["wrong prior", "best prior"])
def test_one_gaussian_row(prior, generator):
    """I = log(1 + a^2 s^2 / v) / 2 and KL(N(0, a^2 s^2 + v) || p), which is zero where p is the aggregate."""
    a, s, v = 0.9, 2.0, 0.3
    rate = first_row(OneRow(s * normal(generator, 1500, 1), a, v, *prior), samples=4, generator=generator)
    information, aggregate = 0.5 * math.log(1 + a**2 * s**2 / v), a**2 * s**2 + v
    found, wrong = rate.parts(), normal_kl(0.0, aggregate, *prior)
    assert wrong == 0 if prior[0] == 0 else wrong > 1
    assert near(found["rate"], information + wrong)
    for side in ("low", "high"):
        assert near(found[f"information_{side}"], information)
        assert near(found[f"misfit_{side}"], wrong)
    assert found["misfit_low"].mean < found["misfit_high"].mean and not rate.saturated


def test_the_parts_sum_to_the_rate_and_few_alternatives_bracket_the_truth(generator):
    """M = 7: both sides are far off, on the sides that they promise, and information from below is below log 8."""
    a, s, v = 3.0, 2.0, 0.01
    rate = first_row(OneRow(s * normal(generator, 8, 1), a, v, 0.0, 36.01), samples=2000, generator=generator)
    low, high = rate.information
    torch.testing.assert_close(low + rate.misfit.high, rate.rate, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high + rate.misfit.low, rate.rate, rtol=1e-12, atol=1e-12)
    information = 0.5 * math.log(1 + a**2 * s**2 / v)
    assert 1 < low.mean() < math.log(8) + 0.1 < information < high.mean()
    assert rate.saturated and rate.alternatives == 7


def test_the_error_falls_with_the_alternatives(generator):
    widths = []
    for B in (10, 50, 250):
        repeats = [first_row(OneRow(2 * normal(generator, B, 1), 0.9, 0.3, 0.0, 3.54)) for _ in range(1000 // B)]
        found = join_rates(repeats).parts()
        widths.append(found["information_high"].mean - found["information_low"].mean)
    assert widths[0] > 3 * widths[1] > 9 * widths[2] > 0


def test_an_autoencoder_against_quadrature(generator):
    """One latent of a VAE: q_bar over these very observations on a grid of z, which all of them are drawn from."""
    torch.manual_seed(0)
    model = VAE(2, latents=1, hidden=8).double()
    x = 2 * normal(generator, 400, 2)
    rate = first_row(model.given(x), samples=32, generator=generator)
    with torch.no_grad():
        q, z = model.posterior(x), torch.linspace(-12, 12, 6001, dtype=torch.float64)[:, None, None]
        aggregate = q.log_prob(z.expand(-1, 400, -1)).sum(-1).logsumexp(1) - math.log(400)
        prior = model.prior(1).log_prob(z).sum(-1)[:, 0]
        wrong = ((aggregate - prior) * aggregate.exp()).sum().item() * 24 / 6000
    found = rate.parts()
    torch.testing.assert_close(found["rate"].mean, q.kl(model.prior(400)).sum(-1).mean().item())
    assert near(found["misfit_high"], wrong)  # the empirical aggregate holds the row itself


def test_later_rows_of_a_kalman_model(generator):
    """q = p(z_t | z_{t-1}, x_t): linear in x_t, so that the aggregate over x_t given the past is a Gaussian.

    With x_t ~ N(f_t, S_t) given x_<t, z_t = G x_t + .. has I = log det(V + G S G') / det V / 2.
    """
    model = random_model(generator, n=2)
    x, action = random_rows(model, generator, B=60, T=3, missing=False)
    law = model.forecast(x, action)

    here = model.local(x, action)
    q = model.tilted(here.J, here.j, action)
    sequence = model.given(x, action, proposal=q)
    many, acts = Gaussian(law.mean.repeat(200, 1, 1), law.cov.repeat(200, 1, 1, 1)), action.repeat(200, 1, 1)
    drawn = many.sample(generator)
    here = model.local(drawn, acts)
    others = model.given(drawn, acts, proposal=model.tilted(here.J, here.j, acts))
    states = posterior_path(sequence, generator=generator)
    rate = rate_along_path(sequence, others, states.stoch)
    gain = torch.linalg.solve(model.R, model.C @ q.V).mT  # dE[z_t] / dx_t
    centre = torch.stack([q(states.deter[None, :, t], t).mean[0] for t in range(3)], 1)
    spread = gain @ law.cov @ gain.mT
    aggregate = Gaussian(centre + (gain @ (law.mean - x)[..., None])[..., 0], q.V + spread)
    prior = [sequence.step(states.deter[None, :, t], t)[2] for t in range(3)]
    wrong = torch.stack([Gaussian(aggregate.mean[:, t], aggregate.cov[:, t]).kl(prior[t])[0] for t in range(3)], 1)
    information = 0.5 * (torch.logdet(q.V + spread) - torch.logdet(q.V))
    steps = torch.full((60,), 3)
    for mine, truth in ((rate.misfit.low, wrong[..., 0]), (rate.misfit.high, wrong[..., 0])):
        error = per_step((mine - truth).sum(1), steps)
        assert abs(error.mean) < 3.5 * error.error + 0.02, error  # 0.02: the bias at M = 200
    assert near(rate.parts()["information_low"], information.mean().item()) and information.mean() > 0.3


def test_first_row_is_the_rate_along_a_path_with_the_other_sequences(generator):
    """The two functions are one: the others' first rows, handed over as alternatives one by one."""
    model, batch = make_model(latent=GaussianFamily(2, 0.3)).double(), make_batch(batch=5, first=())
    sequence = model.given(batch)
    path = posterior_path(sequence, generator=torch.Generator().manual_seed(3)).stoch
    z = path[:, 0]
    pairwise = first_row(sequence, samples=1, generator=torch.Generator().manual_seed(3))
    for b in range(5):
        one = model.given(select(batch, [b]))
        others = model.given(select(batch, [o for o in range(5) if o != b]))
        apart = rate_along_path(one, others, path[[b]])
        torch.testing.assert_close(apart.misfit.low[0, 0], pairwise.misfit.low[b, 0])
        torch.testing.assert_close(apart.misfit.high[0, 0], pairwise.misfit.high[b, 0])
    assert z.shape == (5, 2)


def select(batch, rows):
    return type(batch)({path: x[rows] for path, x in batch.obs.items()}, *(x[rows] for x in batch[1:]))


def test_an_h_that_differs_by_rounding_is_the_same_and_another_is_refused(generator):
    """Equal rows of a matrix product need not be equal to the last bit."""

    class Rounded(OneRow):
        def __init__(self, change, *args):
            super().__init__(*args)
            self.change = change

        def step(self, carry, t):
            deter = torch.full((*carry.shape[:2], 1), 0.3, dtype=torch.float64)
            deter[:, -1] += self.change
            return carry, deter, super().step(carry, t)[2]

    x = normal(generator, 5, 1)
    rounded = first_row(Rounded(1e-7, x, 0.9, 0.3, 0.0, 1.0), generator=torch.Generator().manual_seed(0))
    exact = first_row(Rounded(0.0, x, 0.9, 0.3, 0.0, 1.0), generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded.misfit.low, exact.misfit.low)
    with pytest.raises(ValueError, match="expected the same h_1"):
        first_row(Rounded(0.1, x, 0.9, 0.3, 0.0, 1.0), generator=generator)


def test_alternatives_that_are_the_row_itself_hold_no_information(generator):
    model, batch = make_model().double(), make_batch(first=())
    sequence = model.given(batch)
    states = posterior_path(sequence, generator=generator)
    rate = rate_along_path(sequence, model.given(select(batch, [0, 1, 2] * 2)), states.stoch)
    log_p, log_q = path_terms(sequence, states.stoch[None])
    assert torch.isfinite(log_p - log_q).all()
    own = misfit(log_q, log_q[None].expand(2, -1, -1, -1), torch.zeros_like(log_q))
    torch.testing.assert_close(own.low, own.high)
    torch.testing.assert_close(rate.misfit.low, rate.misfit.high)


def test_padding_counts_nothing_joining_keeps_it_and_mistakes_are_refused(generator):
    model, batch = make_model().double(), make_batch(first=())
    valid = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    sequence = model.given(batch._replace(valid=valid))
    states = posterior_path(sequence, generator=generator)
    rate = rate_along_path(sequence, sequence, states.stoch)
    assert not rate.rate[~valid].any() and not rate.misfit.low[~valid].any()
    both = join_rates([first_row(sequence), rate])
    assert isinstance(both, Rate) and both.valid.sum() == 3 + 12
    assert both.as_json()["steps"] == 15
    with pytest.raises(ValueError, match="at least two sequences"):
        first_row(model.given(select(batch, [0])))
    with pytest.raises(ValueError, match="alternatives: expected a multiple of the 3 sequences, got 2"):
        rate_along_path(sequence, model.given(select(batch, [0, 1])), states.stoch)
