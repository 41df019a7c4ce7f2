"""Proposals by Fisher scoring: exact where the model is linear, and unbiased whatever they are."""

import itertools

import pytest
import torch
from torch.func import jacrev

from springs import Spring
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.sharpened import Mixture, Sharpened
from worldmodel.evidence.smc import smc
from worldmodel.models.latents import DiagonalGaussian
from worldmodel.oracles.distributions import Gaussian
from worldmodel.types import State
from worlds import CATEGORICAL, FULL, VECTOR_SPEC, make_batch, make_model


def stepped(sequence, particles, t):
    """h_t after rows that nothing was learned from."""
    carry = sequence.initial(particles)
    for row in range(t + 1):
        carry, deter, prior = sequence.step(carry, row)
        if row < t:
            carry = sequence.advance(carry, State(deter, prior.sample(torch.Generator().manual_seed(row))))
    return deter


def test_in_a_linear_model_it_is_the_locally_optimal_proposal(generator):
    world = Spring(4, 3, generator)
    best = world.chain(1.0)
    for steps in (1, 3):
        sharp = Sharpened(world.sequence, share=1.0, steps=steps, inflation=1.0)
        for t in (0, 3):
            deter = stepped(sharp, 5, t)
            found, expected = sharp.proposal(deter, t).first, best(deter, t)
            torch.testing.assert_close(found.mean, expected.mean.expand_as(found.mean))
            torch.testing.assert_close(found.cov, expected.cov.expand_as(found.cov))


def test_with_it_smc_is_far_closer_than_with_a_blind_proposal(generator):
    world, error = Spring(20, 200, generator), {}
    for name, sequence in {"blind": world.sequence, "sharp": Sharpened(world.sequence)}.items():
        off = smc(sequence, 16, generator=generator).log_evidence - world.truth()
        error[name] = off.square().mean().item()
    assert error["sharp"] < error["blind"] / 4


@pytest.mark.parametrize(
    ("share", "prior_share", "draws"),
    [(0.9, 0.0, 1500), (0.5, 0.2, 1500), (1.0, 0.0, 1500), pytest.param(0.9, 0.0, 8000, marks=pytest.mark.slow)],
)
def test_the_estimate_is_unbiased_and_the_sandwich_holds(share, prior_share, draws, generator):
    """E[p^] = p, and along an exact draw E[1 / p^] = 1 / p, for a proposal that is far too narrow as well."""
    world = Spring(3, draws, generator, noise=0.5)
    sharp = Sharpened(world.sequence, share=share, inflation=1.5)
    ratio = (smc(sharp, 8, generator=generator, prior_share=prior_share).log_evidence - world.truth()).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5 < 0.1
    path = world.model.posterior(world.x, world.action).sample(1, generator)[0]
    upper = smc(sharp, 8, generator=generator, prior_share=prior_share, path=path).log_evidence
    inverse = (world.truth() - upper).exp()
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / len(inverse) ** 0.5 < 0.1
    assert abs(sandwich(sharp, path, 64, generator=generator, prior_share=prior_share).width.mean) < 0.05


def test_the_density_of_a_mixture_is_that_of_its_draws(generator):
    first = Gaussian(torch.tensor([1.0, 0.0]).double(), torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double())
    second = DiagonalGaussian(torch.tensor([-2.0, 1.0, 0.0, 0.5]).double(), min_std=0.1)
    mixture = Mixture(0.7, first, second)
    grid = torch.linspace(-9, 9, 400, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    mass = mixture.log_prob(points)[:, 0].exp() * (grid[1] - grid[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    many = Mixture(
        0.7, Gaussian(first.mean.expand(40_000, 2), first.cov), DiagonalGaussian(second.raw.expand(40_000, 4), 0.1)
    )
    draws = many.sample(generator)
    expected = (mass[:, None] * points).sum(0)
    assert ((draws.mean(0) - expected).abs() < 4 * draws.std(0) / 200).all()


def test_the_errors_of_a_world_model_are_of_its_gaussian_numbers_and_move_with_the_means(generator):
    model, batch = make_model(VECTOR_SPEC).double(), make_batch(VECTOR_SPEC, batch=2, length=3, first=())
    batch = batch._replace(is_first=torch.tensor([[True, False, False]] * 2))
    given = model.given(batch)
    deter, stoch = model.decoder.widths
    state = State(*(torch.randn(4, 2, width, generator=generator, dtype=torch.float64) for width in (deter, stoch)))
    error = given.error(state, 1)
    decoded = model.decode(state)
    assert error.shape == (4, 2, 4)  # three numbers and the reward
    expected = (batch.obs["obs"][:, 1].double() - decoded["obs"].mean) / decoded["obs"].std
    torch.testing.assert_close(error[..., :3], expected)
    assert given.error(state, 0)[..., 3].eq(0).all()  # no reward leads to a first row

    def mean(z):
        return model.decode(State(state.deter[0, 0], z))["obs"].mean

    leaf = state.stoch.clone().requires_grad_()
    got = torch.autograd.grad(given.error(State(state.deter, leaf), 1)[0, 0, 0], leaf)[0][0, 0]
    torch.testing.assert_close(got, -jacrev(mean)(state.stoch[0, 0])[0] / decoded["obs"].std[0, 0, 0])


def test_more_steps_never_fall_where_means_are_curved(generator):
    model = make_model(VECTOR_SPEC).double()
    batch = make_batch(VECTOR_SPEC, batch=2, length=3, first=())
    given = model.given(batch._replace(is_first=torch.tensor([[True, False, False]] * 2)))
    deter = stepped(given, 6, 1)
    prior = model.dynamics.prior(deter)

    def height(z):
        return sum(given.likelihood(State(deter, z), 1).values()) + prior.log_prob(z).sum(-1)

    heights = [height(prior.mean)]
    for steps in (1, 2, 8):
        sharp = Sharpened(given, steps=steps)
        stepped(sharp, 6, 1)
        heights.append(height(sharp.proposal(deter, 1).first.mean))
    assert (heights[1] > heights[0] + 1e-3).all()
    assert all((later >= before - 1e-9).all() for before, later in itertools.pairwise(heights))


def test_a_full_covariance_is_taken_as_it_is(generator):
    """With no row to look at, what is found is the prior."""
    model, batch = make_model(VECTOR_SPEC, FULL).double(), make_batch(VECTOR_SPEC, batch=2, length=3, first=())
    given = model.given(batch._replace(is_first=torch.tensor([[True, False, False]] * 2)))
    given.error = lambda state, t: state.stoch[..., :1] * 0
    given.likelihood = lambda state, t: {"obs": state.stoch.sum(-1) * 0}
    sharp = Sharpened(given, inflation=1.0)
    deter = stepped(sharp, 6, 1)
    prior, found = model.dynamics.prior(deter), sharp.proposal(deter, 1).first
    torch.testing.assert_close(found.mean, prior.mean)
    torch.testing.assert_close(found.cov, prior.scale_tril @ prior.scale_tril.mT)


def test_latents_that_are_no_gaussian_are_refused():
    batch = make_batch(VECTOR_SPEC, batch=2, length=3, first=())
    is_first = torch.tensor([[True, False, False]] * 2)
    given = make_model(VECTOR_SPEC, latent=CATEGORICAL).given(batch._replace(is_first=is_first))
    with pytest.raises(ValueError, match="expected Gaussian latents, got OneHotCategorical"):
        smc(Sharpened(given), 3)


@pytest.mark.parametrize("settings", [{"share": 1.5}, {"steps": 0}, {"inflation": 0.5}], ids=str)
def test_numbers_out_of_range_are_refused(settings, generator):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sharpened(Spring(1, 1, generator).sequence, **settings)
