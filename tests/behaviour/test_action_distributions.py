"""Actions of every kind: log-probability and entropy against torch.distributions, draws against what they claim."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from worldmodel.behaviour.action_distributions import ActionFamily
from worldmodel.types import ActionSpec

DISCRETE = ActionFamily(ActionSpec("categorical", 3, (3,)))
GROUPS = ActionFamily(ActionSpec("categorical", 9, (2, 3, 4)))
BINARY = ActionFamily(ActionSpec("binary", 3))
CONTINUOUS = ActionFamily(ActionSpec("continuous", 2))
FAMILIES = [DISCRETE, GROUPS, BINARY, CONTINUOUS]
NAMES = ["discrete", "groups", "binary", "continuous"]


def raw_output(family, generator, *lead):
    return torch.randn(*lead, family.parameters, generator=generator, dtype=torch.float64)


def one_row(family, generator, count):
    """One random distribution `count` times, and a draw of each."""
    p = family.distribution(raw_output(family, generator, 1).expand(count, -1))
    return p, p.sample(generator)


def every_action(spec):
    if spec.kind == "binary":
        return torch.tensor(list(itertools.product([0.0, 1.0], repeat=spec.width)), dtype=torch.float64)
    groups = [torch.eye(k, dtype=torch.float64) for k in spec.classes]
    return torch.stack([torch.cat(rows) for rows in itertools.product(*groups)])


def mixed(logits):
    return Categorical(probs=0.99 * logits.softmax(-1) + 0.01 / logits.shape[-1])


@pytest.mark.parametrize("family", [DISCRETE, GROUPS], ids=["discrete", "groups"])
def test_log_prob_and_entropy_of_groups_are_torchs_summed(family, generator):
    raw = raw_output(family, generator, 5, 4)
    p, action = family.distribution(raw), family.distribution(raw).sample(generator)
    parts = list(zip(raw.split(family.spec.classes, -1), action.split(family.spec.classes, -1), strict=True))
    torch.testing.assert_close(p.log_prob(action), sum(mixed(part).log_prob(a.argmax(-1)) for part, a in parts))
    torch.testing.assert_close(p.entropy(), sum(mixed(part).entropy() for part, _ in parts))


def test_log_prob_and_entropy_of_bits_are_torchs_summed(generator):
    raw = raw_output(BINARY, generator, 5, 4)
    p, action = BINARY.distribution(raw), BINARY.distribution(raw).sample(generator)
    expected = Bernoulli(probs=0.99 * raw.sigmoid() + 0.005)
    torch.testing.assert_close(p.log_prob(action), expected.log_prob(action).sum(-1))
    torch.testing.assert_close(p.entropy(), expected.entropy().sum(-1))


def test_log_prob_of_a_clipped_normal_is_torchs_inside_and_its_tails_on_the_bounds(generator):
    raw = raw_output(CONTINUOUS, generator, 6)
    p = CONTINUOUS.distribution(raw)
    normal = Normal(raw[:, :2].tanh(), 0.1 + 0.9 * torch.sigmoid(raw[:, 2:] + 2))
    bound = torch.ones(6, 2, dtype=torch.float64)
    inside = normal.log_prob(0.3 * bound)
    below, above = normal.cdf(-bound).log(), (1 - normal.cdf(bound)).log()
    torch.testing.assert_close(p.log_prob(0.3 * bound), inside.sum(-1))
    torch.testing.assert_close(p.log_prob(-bound), below.sum(-1))
    torch.testing.assert_close(p.log_prob(bound), above.sum(-1))
    one_of_each = torch.tensor([0.3, 1.0], dtype=torch.float64).expand(6, 2)
    torch.testing.assert_close(p.log_prob(one_of_each), inside[:, 0] + above[:, 1])


def test_entropy_of_a_clipped_normal_is_its_integral(generator):
    raw = raw_output(CONTINUOUS, generator, 7)
    p, normal = CONTINUOUS.distribution(raw), Normal(raw[:, :2].tanh(), 0.1 + 0.9 * torch.sigmoid(raw[:, 2:] + 2))
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None, None]
    log_density = normal.log_prob(grid)
    inside = -torch.trapezoid(log_density.exp() * log_density, grid, dim=0)
    masses = torch.stack([normal.cdf(torch.tensor(-1.0)), 1 - normal.cdf(torch.tensor(1.0))])
    torch.testing.assert_close(p.entropy(), (inside - (masses * masses.log()).sum(0)).sum(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [DISCRETE, GROUPS, BINARY], ids=NAMES[:3])
def test_all_actions_together_have_probability_one_and_come_as_often_as_they_claim(family, generator):
    p, drawn = one_row(family, generator, 50_000)
    actions = every_action(family.spec)
    probs = family.distribution(p.logits[:1].expand(len(actions), -1)).log_prob(actions).exp()
    assert probs.sum().item() == pytest.approx(1.0)
    often = (drawn[:, None] == actions).all(-1).double().mean(0)
    assert ((often - probs) / (probs * (1 - probs) / len(drawn)).sqrt()).abs().max() < 4


def test_a_clipped_normal_comes_where_it_claims(generator):
    p, drawn = one_row(CONTINUOUS, generator, 50_000)
    assert drawn.abs().max() == 1
    normal = Normal(p.mean[0], p.std[0])
    for value, probability in [(-1.0, normal.cdf(-torch.ones(2))), (1.0, 1 - normal.cdf(torch.ones(2)))]:
        error = ((drawn == value).double().mean(0) - probability) / (probability * (1 - probability) / 50_000).sqrt()
        assert error.abs().max() < 4
    inside = drawn[(drawn[:, 0].abs() < 1), 0]
    below = (normal.cdf(torch.zeros(2)) - normal.cdf(-torch.ones(2)))[0] / (
        normal.cdf(torch.ones(2)) - normal.cdf(-torch.ones(2))
    )[0]
    error = ((inside < 0).double().mean() - below) / (below * (1 - below) / len(inside)).sqrt()
    assert error.abs() < 4


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_the_score_has_mean_zero_and_entropy_is_minus_the_mean_log_prob(family, generator):
    raw = raw_output(family, generator, 1).requires_grad_()
    p = family.distribution(raw.expand(50_000, -1))
    log_prob = p.log_prob(p.sample(generator))
    error = (log_prob.mean() + p.entropy()[0]) / (log_prob.std() / len(log_prob) ** 0.5)
    assert error.abs() < 4
    (score,) = torch.autograd.grad(log_prob.mean(), raw)
    torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=0.05)  # 5 standard errors of a score of 2


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_the_generator_decides_the_draw_and_its_noise_is_that_of_rsample(family, generator):
    p = family.distribution(raw_output(family, generator, 3, 4))
    state = generator.get_state()
    first = p.sample(generator)
    generator.set_state(state)
    assert torch.equal(p.rsample(p.noise(generator)), first)
    assert not torch.equal(p.sample(generator), first) and first.shape == (3, 4, family.spec.width)


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_the_mode_is_the_likeliest_action(family, generator):
    p = family.distribution(raw_output(family, generator, 40))
    others = family.distribution(torch.zeros(40, family.parameters, dtype=torch.float64)).sample(generator)
    inside = others.abs().amax(-1) < 1 if family is CONTINUOUS else torch.ones(40, dtype=torch.bool)
    assert (p.log_prob(p.mode) >= p.log_prob(others))[inside].all()
    assert inside.any() and p.mode.abs().max() <= 1


def test_the_gradient_of_a_continuous_draw_is_exact(generator):
    raw, noise = raw_output(CONTINUOUS, generator, 8).requires_grad_(), torch.randn(8, 2, generator=generator).double()
    assert torch.autograd.gradcheck(lambda r: CONTINUOUS.distribution(r).rsample(noise).square(), (raw,))


@pytest.mark.parametrize("family", [GROUPS, BINARY], ids=["groups", "binary"])
def test_the_gradient_of_a_discrete_draw_is_that_of_the_probabilities(family, generator):
    raw = raw_output(family, generator, 4).requires_grad_()
    weight = torch.randn(4, family.spec.width, generator=generator, dtype=torch.float64)
    p = family.distribution(raw)
    (got,) = torch.autograd.grad((p.rsample(p.noise(generator)) * weight).sum(), raw)
    if family is BINARY:
        probs = 0.99 * raw.sigmoid() + 0.005
    else:
        probs = torch.cat([mixed(part).probs for part in raw.split(family.spec.classes, -1)], -1)
    (expected,) = torch.autograd.grad((probs * weight).sum(), raw)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_extreme_outputs_have_finite_log_probs_entropies_and_gradients(family, generator):
    raw = (1e4 * raw_output(family, generator, 50)).float().requires_grad_()
    p = family.distribution(raw)
    total = p.entropy().sum() + p.log_prob(p.sample(generator)).sum()
    (gradient,) = torch.autograd.grad(total, raw)
    assert total.isfinite() and gradient.isfinite().all()


def test_continuous_means_and_stds_keep_their_bounds():
    p = CONTINUOUS.distribution(torch.tensor([[1e3, -1e3, 1e3, -1e3], [0.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(p.mean[0], torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(p.std[0], torch.tensor([1.0, 0.1]))
    assert p.std[1, 0].item() == pytest.approx(0.1 + 0.9 / (1 + 2.718281828**-2))


@pytest.mark.parametrize("wrong", [{"unimix": 1.0}, {"min_std": 0.0}, {"min_std": 1.0, "max_std": 0.5}])
def test_an_impossible_family_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        ActionFamily(ActionSpec("binary", 2), **wrong)
