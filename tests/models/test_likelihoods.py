"""Every likelihood integrates or sums to one, agrees with torch.distributions, and samples what it scores."""

import dataclasses
import math

import mpmath as mp
import pytest
import torch
from scipy import integrate
from torch.distributions import Bernoulli, Categorical, Normal

from worldmodel.behaviour.critic import two_hot
from worldmodel.models import likelihoods as lk
from worldmodel.types import Likelihood

RANDOM = torch.Generator().manual_seed(0)


def scalar(values):
    return torch.tensor([values], dtype=torch.float64)


def densities():
    """One-dimensional densities by name, with the points where their slope jumps."""
    normal = lk.Normal(scalar(0.7), scalar(0.4))
    bins = lk.symexp(torch.linspace(-2, 2, 5, dtype=torch.float64))
    logits = torch.randn(5, generator=RANDOM, dtype=torch.float64)
    return {
        "normal": (normal, ()),
        "affine": (lk.Affine(normal, scalar(-3.0), scalar(2.5)), ()),
        "symlog": (lk.SymlogNormal(normal), (0.0,)),
        "two-hot": (lk.TwoHot(logits, bins), tuple(bins.tolist())),
    }


def density(distribution, x):
    return distribution.log_prob(scalar(x)).exp().item()


@pytest.mark.parametrize("name", densities())
def test_densities_integrate_to_one(name):
    distribution, kinks = densities()[name]
    low, high = (kinks[0], kinks[-1]) if name == "two-hot" else (-40.0, 60.0)
    points = kinks[1:-1] if name == "two-hot" else (*kinks, distribution.mean.item())
    total, _ = integrate.quad(lambda x: density(distribution, x), low, high, points=points, limit=200)
    assert total == pytest.approx(1, abs=1e-8)


def test_every_likelihood_says_what_it_is_the_measure_of_and_that_it_is_exact():
    found = {name: one for name, one in vars(lk).items() if hasattr(one, "log_prob")}
    measures = {name: one.measure for name, one in found.items()}
    assert {name for name, measure in measures.items() if measure == "density"} == {
        *("Normal", "Affine", "SymlogNormal", "TwoHot")
    }
    assert {name for name, measure in measures.items() if measure == "mixed"} == {"Atoms"}
    assert set(measures.values()) == {"density", "mass", "mixed"}
    assert all(one.exact for one in found.values())
    assert all(isinstance(distribution, Likelihood) for distribution, _ in densities().values())


@pytest.mark.parametrize("name", ["normal", "affine", "two-hot"])
def test_the_mean_is_the_integral_of_x(name):
    distribution, kinks = densities()[name]
    low, high = (kinks[0], kinks[-1]) if name == "two-hot" else (-40.0, 60.0)
    points = kinks[1:-1] or (distribution.mean.item(),)
    mean, _ = integrate.quad(lambda x: x * density(distribution, x), low, high, points=points, limit=200)
    assert distribution.mean.item() == pytest.approx(mean, abs=1e-7)


def many(distribution, count):
    """The same density with a batch of `count`."""
    if isinstance(distribution, lk.Normal):
        return lk.Normal(distribution.mean.expand(count, 1), distribution.std.expand(count, 1))
    if isinstance(distribution, lk.TwoHot):
        return lk.TwoHot(distribution.logits.expand(count, 5), distribution.bins)
    return dataclasses.replace(distribution, base=many(distribution.base, count))


@pytest.mark.parametrize("name", densities())
def test_samples_of_a_density_fall_where_it_says(name):
    distribution, kinks = densities()[name]
    count = 20_000
    wide = many(distribution, count)
    draws = wide.sample(torch.Generator().manual_seed(1)).squeeze(-1)
    for threshold in draws.quantile(draws.new_tensor([0.1, 0.35, 0.6, 0.9])).tolist():
        low = kinks[0] if name == "two-hot" else -40.0
        points = [k for k in kinks if low < k < threshold] or None
        below, _ = integrate.quad(lambda x: density(distribution, x), low, threshold, points=points, limit=200)
        seen = (draws <= threshold).double().mean().item()
        assert abs(seen - below) < 4 * (below * (1 - below) / count) ** 0.5


def two_hot_nll(logits, bins, x):
    return -lk.TwoHot(logits.expand(len(x), -1), bins).log_prob(x[:, None])


def test_two_hot_gradient_is_expected_shares_minus_shares():
    """That of an exponential family; DreamerV3's cross-entropy has the same shares, and the softmax for their mean."""
    distribution, kinks = densities()["two-hot"]
    bins, logits = torch.tensor(kinks, dtype=torch.float64), distribution.logits.clone().requires_grad_()
    x = torch.tensor([0.7, -3.0], dtype=torch.float64)
    (got,) = torch.autograd.grad(two_hot_nll(logits, bins, x).sum(), logits)

    def share(i, at):
        return two_hot(torch.tensor(at, dtype=torch.float64), bins)[i].item()

    for i in range(5):
        expected, _ = integrate.quad(
            lambda at, i=i: share(i, at) * density(distribution, at), kinks[0], kinks[-1], points=kinks[1:-1]
        )
        assert got[i].item() == pytest.approx(2 * expected - sum(share(i, at) for at in x.tolist()), abs=1e-7)


@pytest.mark.parametrize(
    "targets", [[1.0], [100.0], [-8.0], [0.0], [-0.3], [-200.0, 500.0, 500.0], [0.0, 10.0], [1.0, 1.3, -40.0]]
)
def test_the_best_two_hot_density_has_the_mean_of_its_data(targets):
    """Over DreamerV3's bins; an actor learns from this mean."""
    bins, x = lk.symexp_bins(255).double(), torch.tensor(targets, dtype=torch.float64)
    logits = torch.zeros(255, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = two_hot_nll(logits, bins, x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(lk.TwoHot(logits, bins).mean[0], x.mean(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("slope", [0.0, 1e-9, 1e-3, 9.99e-3, 1.001e-2, 1.0, -1.0, 700.0, -700.0])
def test_two_hot_is_finite_and_smooth_in_the_slope_between_bins(slope):
    """Value and gradient of one interval, against its integral by substitution."""
    logits = torch.tensor([0.0, slope], dtype=torch.float64, requires_grad=True)
    nll = two_hot_nll(logits, torch.tensor([2.0, 5.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64))
    exact = mpmath_interval(slope)
    assert nll.item() == pytest.approx(exact["nll"], rel=1e-9, abs=1e-9)
    assert torch.autograd.grad(nll.sum(), logits)[0][1].item() == pytest.approx(exact["gradient"], abs=1e-8)
    assert lk.TwoHot(logits, torch.tensor([2.0, 5.0]).double()).mean.item() == pytest.approx(exact["mean"], abs=1e-8)


def mpmath_interval(slope):
    """On [2, 5] at x = 3, with fifty digits."""
    mp.mp.dps = 50
    d = mp.mpf(slope)
    mass = mp.expm1(d) / d if d else mp.mpf(1)
    share = 1 / (1 - mp.exp(-d)) - 1 / d if d else mp.mpf(0.5)
    nll = mp.log(mass) + mp.log(3) - d / 3
    return {"nll": float(nll), "gradient": float(share - mp.mpf(1) / 3), "mean": float(2 + 3 * share)}


def test_normal_is_torchs():
    mean, std, x = (torch.randn(4, 3, generator=RANDOM, dtype=torch.float64) for _ in range(3))
    expected = Normal(mean, std.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(lk.Normal(mean, std.exp()).log_prob(x), expected)


@pytest.mark.parametrize(("location", "scale"), [(100.3, 0.25), (100.3, 40.0), (-30.0, 3.0), (300.0, 5.0), (0.0, 1e3)])
def test_the_256_levels_sum_to_one(location, scale):
    shape = (256, 1, 1, 1)
    levels = torch.arange(256, dtype=torch.uint8).reshape(shape)
    p = lk.DiscretisedLogistic(*(torch.full(shape, v, dtype=torch.float64) for v in (location, scale)))
    assert p.log_prob(levels).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_level_has_the_mass_of_its_interval():
    location, scale = torch.tensor(10.2, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    p = lk.DiscretisedLogistic(location.reshape(1, 1, 1, 1), scale.reshape(1, 1, 1, 1))
    mass = ((12.5 - location) / scale).sigmoid() - ((11.5 - location) / scale).sigmoid()
    got = p.log_prob(torch.full((1, 1, 1, 1), 12, dtype=torch.uint8))
    torch.testing.assert_close(got, mass.log().reshape(1))


def test_pixels_far_from_the_location_keep_a_finite_log_mass_and_gradient():
    location = torch.zeros(1, 1, 1, 1, requires_grad=True)
    p = lk.DiscretisedLogistic(location, torch.full((1, 1, 1, 1), 0.25))
    value = p.log_prob(torch.full((1, 1, 1, 1), 254, dtype=torch.uint8))
    value.sum().backward()
    assert value.item() == pytest.approx(-(253.5 / 0.25), rel=1e-2)
    assert location.grad.item() == pytest.approx(1 / 0.25, rel=1e-3)


def test_image_samples_come_as_often_as_their_levels_say():
    shape = (20_000, 1, 1, 1)
    p = lk.DiscretisedLogistic(torch.full(shape, 1.2), torch.full(shape, 1.5))
    draws = p.sample(torch.Generator().manual_seed(2)).flatten()
    for level in (0, 1, 2, 5):
        mass = p.log_prob(torch.full(shape, level, dtype=torch.uint8))[0].exp().item()
        seen = (draws == level).double().mean().item()
        assert abs(seen - mass) < 4 * (mass * (1 - mass) / len(draws)) ** 0.5


def test_categoricals_and_bernoullis_are_torchs():
    logits = torch.randn(4, 7, generator=RANDOM, dtype=torch.float64)
    x = torch.tensor([[0, 3], [2, 1], [1, 0], [2, 2]], dtype=torch.int32)
    first, second = Categorical(logits=logits[:, :3]), Categorical(logits=logits[:, 3:])
    got = lk.Categoricals(logits, (3, 4))
    torch.testing.assert_close(got.log_prob(x), first.log_prob(x[:, 0]) + second.log_prob(x[:, 1]))
    torch.testing.assert_close(got.mean, torch.cat([first.probs, second.probs], -1))
    bits = torch.randint(0, 2, (4, 7), generator=RANDOM, dtype=torch.uint8)
    expected = Bernoulli(logits=logits).log_prob(bits.double()).sum(-1)
    torch.testing.assert_close(lk.Bernoullis(logits).log_prob(bits), expected)


def test_discrete_samples_come_as_often_as_they_claim():
    logits = torch.tensor([0.5, -1.0, 0.2, 1.0, 0.0]).expand(20_000, 5)
    draws = lk.Categoricals(logits, (2, 3)).sample(torch.Generator().manual_seed(3))
    for column, part in zip(draws.unbind(-1), logits[0].split((2, 3)), strict=True):
        probs = part.softmax(-1)
        seen = torch.bincount(column.long(), minlength=len(probs)) / len(column)
        assert ((seen - probs).abs() < 4 * (probs * (1 - probs) / len(column)).sqrt()).all()
    bits = lk.Bernoullis(logits).sample(torch.Generator().manual_seed(4)).float().mean(0)
    probs = logits[0].sigmoid()
    assert ((bits - probs).abs() < 4 * (probs * (1 - probs) / len(logits)).sqrt()).all()


def test_two_hot_of_uniform_logits_over_dreamers_bins_has_mean_zero():
    p = lk.TwoHot(torch.zeros(1, 255), lk.symexp_bins(255))
    assert abs(p.mean.item()) < 1e-3  # bins reach 5e8, so float32 sums would be off by tens


def test_symexp_bins_need_a_middle():
    with pytest.raises(ValueError, match="odd"):
        lk.symexp_bins(254)


def integers(low, high, locations, scales, dtype=torch.float64, count=None):
    """A mixture with weights 0.7, 0.2 and 0.1 over one whole number, as many times as asked for."""
    count = high - low + 1 if count is None else count
    weight = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    parts = [torch.as_tensor(x, dtype=torch.float64).expand(count, 1, 3).to(dtype) for x in (weight, locations, scales)]
    bounds = [torch.tensor([x], dtype=torch.float64) for x in (low, high)]
    return lk.IntegerMixture(*parts, *bounds, torch.int64)


MIXTURES = {
    "inside": (0, 255, [100.3, 30.0, 180.0], [0.05, 7.0, 40.0]),
    "sharp": (-3, 4, [0.4, 1.49, -2.5], [0.05, 0.05, 0.05]),
    "wide": (0, 9, [4.0, 3.0, 5.0], [1e3, 50.0, 8.0]),
    "below": (2, 40, [-30.0, 1.0, 1.8], [3.0, 0.3, 1.0]),
    "above": (0, 10, [300.0, 10.4, 11.0], [5.0, 0.05, 0.5]),
    "a bit": (0, 1, [0.3, 0.9, 0.5], [0.05, 1.0, 0.2]),
    "near one": (-50, 50, [0.25, 20.6, -49.0], [0.7, 1.0, 1.5]),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_masses_of_whole_numbers_sum_to_one_and_their_mean_is_the_sum_of_them(name):
    low, high, *_ = MIXTURES[name]
    values = torch.arange(low, high + 1)
    p = integers(*MIXTURES[name])
    mass = p.log_prob(values[:, None]).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.mean[0].item() == pytest.approx((mass * values).sum().item(), abs=1e-3)


def test_a_whole_number_has_the_mass_of_its_interval():
    p = integers(0, 255, [10.2, 12.0, 200.0], [1.7, 0.4, 3.0], count=1)
    mass = ((12.5 - p.location) / p.scale).sigmoid() - ((11.5 - p.location) / p.scale).sigmoid()
    expected = (p.log_weight.exp() * mass).sum(-1).log().reshape(1)
    torch.testing.assert_close(p.log_prob(torch.tensor([[12]])), expected)


def test_the_only_value_is_certain_and_its_mean():
    p = integers(7, 7, [3.0, 100.0, 7.0], [0.1, 2.0, 0.05])
    assert p.log_prob(torch.tensor([[7]])).item() == pytest.approx(0, abs=1e-12)
    assert p.mean.item() == 7
    assert p.sample(torch.Generator().manual_seed(0)).tolist() == [[7]]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-(2**53), 2**53)], ids=["bytes", "any"])
def test_no_whole_number_is_impossible_and_gradients_are_finite_in_single_precision(low, high):
    for value in (low, low + 1, 0, 100, 255, high - 1, high):
        location = torch.tensor([[[0.0, 100.0, 5.0]]], requires_grad=True)
        raw_scale = torch.tensor([[[0.05, 1.0, 1e6]]], requires_grad=True)
        logits = torch.zeros(1, 1, 3, requires_grad=True)
        bounds = [torch.tensor([x], dtype=torch.float64) for x in (low, high)]
        p = lk.IntegerMixture(logits.log_softmax(-1), location, raw_scale, *bounds, torch.int64)
        log_mass = p.log_prob(torch.tensor([[value]]))
        log_mass.sum().backward()
        assert torch.isfinite(log_mass).all() and log_mass.item() <= 0
        for x in (location, raw_scale, logits):
            assert torch.isfinite(x.grad).all(), value
        assert p.mean.isfinite().all() and low <= p.mean.item() <= high


def test_far_in_the_tails_the_log_mass_is_exact_in_single_precision():
    """There a difference of sigmoids is zero, while log-masses fall off by 1 / scale a step."""
    p = integers(-1000, 1000, [0.0] * 3, [0.25] * 3, dtype=torch.float32, count=3)
    far = p.log_prob(torch.tensor([[500], [501], [-501]]))
    assert far[0].item() == pytest.approx(-499.5 / 0.25 + math.log1p(-math.exp(-4)), rel=1e-6)
    assert (far[0] - far[1]).item() == pytest.approx(4, rel=1e-3) and far[1].item() == far[2].item()


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_of_whole_numbers_are_as_frequent_as_their_masses(name):
    count = 20_000
    low, high, *_ = MIXTURES[name]
    p = integers(*MIXTURES[name], count=count)
    drawn = p.sample(torch.Generator().manual_seed(2)).squeeze(-1)
    assert drawn.dtype == torch.int64 and low <= drawn.min() and drawn.max() <= high
    mass = integers(*MIXTURES[name]).log_prob(torch.arange(low, high + 1)[:, None]).exp()
    seen = torch.bincount(drawn - low, minlength=high - low + 1) / count
    assert ((seen - mass).abs() < 4.5 * (mass * (1 - mass) / count).sqrt() + 1e-4).all()


def test_samples_of_the_widest_range_stay_in_it():
    p = integers(-(2**53), 2**53, [1e18, -1e18, 0.0], [1e9, 1e9, 1e9], dtype=torch.float32, count=1000)
    drawn = p.sample(torch.Generator().manual_seed(0))
    assert drawn.max().item() == 2**53 and drawn.min().item() == -(2**53)


ATOMS = lk.Atoms(
    torch.tensor([[0.3, -1.0, 2.0, -math.inf]], dtype=torch.float64),
    torch.tensor([-1.0, 0.0, 0.5, 0.0], dtype=torch.float64),
    torch.tensor(-0.2, dtype=torch.float64),
    torch.tensor(1.5, dtype=torch.float64),
    0.05,
)


def test_atoms_and_the_density_elsewhere_are_one_together():
    values = ATOMS.atoms[:3]
    mass = dataclasses.replace(ATOMS, logits=ATOMS.logits.expand(3, 4)).log_prob(values[:, None]).exp()
    torch.testing.assert_close(mass, 0.95 * ATOMS.logits[0, :3].softmax(-1))
    one = dataclasses.replace(ATOMS, logits=ATOMS.logits[0])
    whole, _ = integrate.quad(lambda x: density(one, x), -80, 80, points=values.tolist(), limit=400)
    assert mass.sum().item() + whole == pytest.approx(1, abs=1e-8)
    first, _ = integrate.quad(lambda x: x * density(one, x), -80, 80, points=values.tolist(), limit=400)
    assert ATOMS.mean.item() == pytest.approx((mass * values).sum().item() + first, abs=1e-7)


def test_a_value_that_is_no_atom_keeps_some_density_however_far():
    logits = torch.tensor([[30.0, -40.0, -math.inf]], requires_grad=True)
    p = lk.Atoms(logits, torch.tensor([0.0, 1.0, 0.0]), torch.tensor(0.5), torch.tensor(1.0), 1e-4)
    for x in (0.0, 1.0, 0.5, -7.0, 1e6):
        (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor([[x]])).sum(), logits)
        assert torch.isfinite(p.log_prob(torch.tensor([[x]]))).all() and torch.isfinite(gradient).all()
    assert p.log_prob(torch.tensor([[7.5]])).item() == pytest.approx(-7 + math.log(1e-4), abs=1e-2)


def test_atoms_are_drawn_as_often_as_they_weigh_and_sometimes_something_else():
    count = 40_000
    drawn = dataclasses.replace(ATOMS, logits=ATOMS.logits.expand(count, 4)).sample(torch.Generator().manual_seed(0))
    assert drawn.shape == (count, 1)
    shares = [(drawn == value).double().mean().item() for value in (-1.0, 0.0, 0.5)]
    expected = 0.95 * ATOMS.logits[0, :3].softmax(-1)
    for share, p in zip([*shares, 1 - sum(shares)], [*expected.tolist(), 0.05], strict=True):
        assert abs(share - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_bits_that_were_expanded_have_the_mass_of_copies():
    g = torch.Generator().manual_seed(0)
    logits, x = torch.randn(4, 1, 5, generator=g).double() * 9, torch.rand(3, 5, generator=g) < 0.5
    for one, other in ((logits.expand(4, 3, 5), x.expand(4, 3, 5)), (logits[:1, 0].expand(3, 5), x[:1].expand(3, 5))):
        found = lk.Bernoullis(one).log_prob(other)
        chosen = torch.where(other, one.sigmoid(), 1 - one.sigmoid())
        torch.testing.assert_close(found, chosen.log().sum(-1), rtol=1e-9, atol=1e-9)
