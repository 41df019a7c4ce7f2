"""A first row proposed by looking ahead: exact draws where the model is linear, unbiased whatever it finds."""

import pytest
import torch

from springs import Spring
from worldmodel.evidence import look_ahead
from worldmodel.evidence.look_ahead import LookAhead, Spread, _Block
from worldmodel.evidence.sharpened import Sharpened
from worldmodel.evidence.smc import Start, smc


def test_in_a_linear_model_the_points_are_draws_from_the_posterior_of_the_rows_ahead(generator, monkeypatch):
    world = Spring(3, 1, generator)
    smoothed = world.model.posterior(world.x[:, :2], world.action[:, :2])
    expected = smoothed.sample(20_000, generator)[:, 0, 0]
    mean, cov = expected.mean(0), expected.T.cov()
    points, roots, log_share = _Block(world.sequence, 2).spread(4000, generator)
    points = points[:, 0]
    assert ((points.mean(0) - mean).abs() < 4 * expected.std(0) / 4000**0.5 * 1.2).all()
    torch.testing.assert_close(points.T.cov(), cov, rtol=0.15, atol=0.002)
    torch.testing.assert_close((roots @ roots.mT)[0, 0], cov, rtol=0.1, atol=0.002)
    assert log_share.logsumexp(0).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("share", "prior_share", "ahead", "points"), [(0.9, 0.1, 2, 6), (1.0, 0.0, 3, 1), (0.3, 0.2, 1, 3)]
)
def test_the_estimate_is_unbiased_and_the_sandwich_holds(share, prior_share, ahead, points, generator):
    """E[p^] = p, and along an exact draw E[1 / p^] = 1 / p, with more particles at first; points may be few."""
    world = Spring(4, 3000, generator, noise=0.5)
    settings = {"generator": generator, "prior_share": prior_share, "first": Start(2, 20)}
    look = LookAhead(world.sequence, share=share, ahead=ahead, points=points, inflation=1.5, generator=generator)
    ratio = (smc(look, 6, **settings).log_evidence - world.truth()).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5 < 0.1
    path = world.model.posterior(world.x, world.action).sample(1, generator)[0]
    inverse = (world.truth() - smc(look, 6, path=path, **settings).log_evidence).exp()
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / len(inverse) ** 0.5 < 0.1


def test_it_helps_where_the_second_row_decides_what_the_first_leaves_open(generator):
    world, error = Spring(2, 300, generator, noise=1e-4), {}
    for name, sequence in {
        "one row": Sharpened(world.sequence),
        "two rows": LookAhead(world.sequence, generator=generator),
    }.items():
        off = smc(sequence, 32, generator=generator, first=Start(2, 32)).log_evidence - world.truth()
        error[name] = off.square().mean().item()
    assert error["two rows"] < error["one row"] / 3


def test_the_density_of_the_mixture_is_that_of_its_draws(generator):
    points = torch.tensor([[[0.0, 1.0]], [[2.0, -1.0]]]).double()
    roots = torch.tensor([[[[0.5, 0.0], [0.3, 0.4]]], [[[0.2, 0.0], [-0.3, 0.7]]]]).double()
    shares = torch.tensor([[0.3], [0.7]]).double().log()
    grid = torch.linspace(-8, 8, 400, dtype=torch.float64)
    at = torch.cartesian_prod(grid, grid)[:, None]
    mass = Spread(points, roots, shares, len(at)).log_prob(at)[:, 0, 0].exp() * (grid[1] - grid[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    mixture = Spread(points, roots, shares, 40_000)
    draws = mixture.rsample(mixture.noise(generator))[:, 0]
    moments = torch.cat([at[:, 0], at[:, 0].square(), at[:, 0].prod(-1, keepdim=True)], -1)
    found = torch.cat([draws, draws.square(), draws.prod(-1, keepdim=True)], -1)
    assert ((found.mean(0) - (mass[:, None] * moments).sum(0)).abs() < 4 * found.std(0) / 200).all()


def test_rows_that_do_not_count_are_not_looked_at(generator):
    world = Spring(3, 2, generator)
    valid = torch.tensor([[True, True, True], [True, False, False]])
    spoilt = world.x.clone()
    spoilt[1, 1:] = 50.0
    found = []
    for x in (world.x, spoilt):
        given = world.model.given(x, world.action, valid=valid, proposal=world.chain(0.0))
        found.append(_Block(given, 3).spread(8, torch.Generator().manual_seed(0))[0])
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0][:, 0], found[0][:, 1])


def test_later_rows_and_rows_beyond_those_asked_for_are_left_to_others(generator):
    world = Spring(4, 2, generator)
    look = LookAhead(world.sequence, rows=2, generator=generator)
    carry = look.initial(3)
    kinds = []
    for t in range(4):
        carry, deter, prior = look.step(carry, t)
        kinds.append(type(look.proposal(deter, t)).__name__)
        carry = look.advance(carry, look_ahead.State(deter, prior.sample(generator)))
    assert kinds[:2] == ["Mixture", "Mixture"] and kinds[2:] == [type(world.sequence.proposal(deter, 3)).__name__] * 2


@pytest.mark.parametrize("settings", [{"ahead": 0}, {"points": 0}, {"share": 2.0}], ids=str)
def test_numbers_out_of_range_are_refused(settings, generator):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LookAhead(Spring(1, 1, generator).sequence, **settings)


def test_numbers_that_are_not_finite_leave_the_prior(generator):
    """A row that nothing explains: the points are where the prior is, and nothing fails."""
    world = Spring(2, 2, generator)
    x = world.x.clone()
    x[1] = float("nan")
    points, roots, _ = _Block(world.model.given(x, world.action, proposal=world.chain(0.0)), 2).spread(5, generator)
    assert points.isfinite().all() and roots.isfinite().all()
