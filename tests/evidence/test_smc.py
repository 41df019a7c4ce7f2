"""SMC against the forward algorithm: unbiased whatever the proposal and the resampling, from below and from above."""

import math

import pytest
import torch

from springs import Spring
from tiny_hmm import TinyHMM, colours
from worldmodel.evidence.smc import Start, _ancestors, smc
from worldmodel.models.latents import DiagonalGaussian
from worldmodel.objectives.elbo import sequence_elbo

REPETITIONS = 4000
settings = pytest.mark.parametrize(
    ("prior_share", "threshold"),
    [(0.0, 0.7), (1.0, 0.7), (0.1, 0.7), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.1, 0.0)],
    ids=["guided", "bootstrap", "mixture", "guided always", "bootstrap always", "guided never", "mixture never"],
)


def repeated(length=6, **options):
    """One sequence many times, so that every one is a repetition of the same experiment."""
    return TinyHMM(colours(1, length, seed=3).expand(REPETITIONS, -1), dull=0.1, **options)


def require_mean_one(log_ratio):
    """E[exp(log_ratio)] = 1 within three standard errors; of a variance at which the mean is there to be seen."""
    assert log_ratio.var() < 0.7
    ratio = log_ratio.exp()
    assert (ratio.mean() - 1).abs() < 3 * ratio.std() / len(ratio) ** 0.5, (ratio.mean(), ratio.std())


@settings
def test_the_estimate_of_the_evidence_is_unbiased(prior_share, threshold, generator):
    model = repeated()
    estimate = smc(model, 8, generator=generator, prior_share=prior_share, threshold=threshold)
    require_mean_one(estimate.log_evidence - model.log_evidence())
    assert estimate.resampled.any() == (threshold > 0)


@settings
def test_along_an_exact_draw_the_inverse_is_unbiased(prior_share, threshold, generator):
    """E[p / p^] = 1 over draws of (z, x) from the model: conditional SMC is an upper bound."""
    template = TinyHMM(colours(REPETITIONS, 6), dull=0.1)
    x, path = template.simulate(generator)
    model = TinyHMM(x, dull=0.1)
    estimate = smc(model, 8, generator=generator, prior_share=prior_share, threshold=threshold, path=path)
    require_mean_one(model.log_evidence() - estimate.log_evidence)
    below = smc(model, 8, generator=generator, prior_share=prior_share, threshold=threshold)
    difference = estimate.log_evidence - below.log_evidence
    assert difference.mean() > 3 * difference.std() / REPETITIONS**0.5


@pytest.mark.parametrize("prior_share", [0.0, 1.0])
def test_the_bound_rises_with_the_particles_toward_the_truth(prior_share, generator):
    model = repeated()
    truth, means, errors = model.log_evidence()[0], [], []
    for particles in (1, 4, 16):
        log_evidence = smc(model, particles, generator=generator, prior_share=prior_share).log_evidence
        means.append(log_evidence.mean())
        errors.append(log_evidence.std() / REPETITIONS**0.5)
    for i in range(2):
        assert means[i + 1] - means[i] > 3 * math.hypot(errors[i], errors[i + 1])
    assert -0.1 < means[-1] - truth < 3 * errors[-1]


def test_one_particle_is_the_elbo(generator):
    model = repeated()
    particle = smc(model, 1, generator=generator).log_evidence
    bound = sequence_elbo(model, generator=generator).elbo[0].sum(-1)
    error = math.hypot(particle.std(), bound.std()) / REPETITIONS**0.5
    assert abs(particle.mean() - bound.mean()) < 3 * error
    assert model.log_evidence()[0] - bound.mean() > 10 * error


def test_increments_and_terms_are_those_of_the_exact_filter(generator):
    """With 10,000 particles every row's increment, log-likelihood and information are the forward algorithm's."""
    model = TinyHMM(colours(2, 8))
    estimate = smc(model, 10_000, generator=generator, prior_share=0.1)
    increment, filtered = model.forward()
    torch.testing.assert_close(estimate.increment, increment, rtol=0, atol=0.05)
    exact = (filtered * model.emission[:, model.x].permute(1, 2, 0)).sum(-1)
    torch.testing.assert_close(estimate.log_likelihood["colour"], exact, rtol=0, atol=0.05)
    torch.testing.assert_close(estimate.information, exact - increment, rtol=0, atol=0.1)
    assert (estimate.ess > 1000).all() and (estimate.ess <= 10_000 * (1 + 1e-9)).all()


def test_the_exact_one_step_posterior_of_an_iid_model_needs_one_particle(generator):
    """Where z_t is drawn from p(z_t | x_t) and nothing is carried, every weight is the evidence."""
    model = TinyHMM(colours(3, 5), distortion=0.0)
    model.transition = model.start.expand(3, 3)
    log_evidence = smc(model, 1, generator=generator).log_evidence
    torch.testing.assert_close(log_evidence, model.log_evidence(), rtol=1e-12, atol=1e-12)


def test_a_thousand_rows(generator):
    model = TinyHMM(colours(3, 1000), dull=0.1)
    estimate = smc(model, 64, generator=generator, prior_share=0.1)
    truth = model.log_evidence()
    assert (estimate.log_evidence - truth).abs().max() < 0.02 * 1000
    assert estimate.increment.dtype == torch.float64 and torch.isfinite(estimate.increment).all()
    assert estimate.resampled.any(1).all() and not estimate.resampled[:, -1].any()


def test_padding_changes_nothing_and_may_hold_anything(generator):
    """What a row behind the end holds changes nothing on the same draws; in the mean a sequence is as it is alone."""
    x = colours(3, 9)
    valid = torch.arange(9) < torch.tensor([9, 5, 2])[:, None]

    class Haunted(TinyHMM):
        def likelihood(self, state, t):
            return {"colour": torch.where(self.valid[:, t], super().likelihood(state, t)["colour"], math.nan)}

    padded = smc(Haunted(x, valid), 16, generator=generator)
    assert not padded.increment[~valid].any() and not padded.ess[~valid].any()
    other = smc(TinyHMM(torch.where(valid, x, 0), valid), 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(padded.increment, other.increment, rtol=0, atol=0)
    many = TinyHMM(x.repeat(1000, 1), valid.repeat(1000, 1))
    means = smc(many, 16, generator=generator).log_evidence.unflatten(0, (1000, 3))
    alone = smc(TinyHMM(x[1:2, :5].expand(1000, -1)), 16, generator=generator).log_evidence
    error = math.hypot(means[:, 1].std(), alone.std()) / 1000**0.5
    assert abs(means[:, 1].mean() - alone.mean()) < 3 * error


def test_an_impossible_row_has_no_evidence_and_does_not_spread(generator):
    model = TinyHMM(torch.tensor([[0, 1, 2], [0, 3, 2]]))
    model.emission[:, 3] = -math.inf
    estimate = smc(model, 8, generator=generator, prior_share=1.0)
    assert estimate.log_evidence[1] == -math.inf and torch.isfinite(estimate.increment[:, [0, 2]]).all()
    assert torch.isfinite(estimate.log_evidence[0])


def test_ancestors_are_drawn_in_proportion_to_their_weights(generator):
    N, B = 5, 20_000
    weight = torch.tensor([0.05, 0.5, 0.0, 0.25, 0.2], dtype=torch.float64)[:, None].expand(N, B)
    drawn = _ancestors(weight, N, generator, keep_first=False)
    counts = torch.stack([(drawn == i).double().sum(0) for i in range(N)])
    expected = weight[:, 0] * len(drawn)
    error = counts.std(1) / B**0.5
    assert ((counts.mean(1) - expected).abs() <= 3.5 * error).all()
    assert ((counts - expected[:, None]).abs() < 1).all()  # systematic: the floor or the ceiling of the mean


@pytest.mark.parametrize("first", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("count", [2, 5, 7])
def test_ancestors_of_a_kept_particle_are_those_of_a_rotation_that_begins_with_it(first, count, generator):
    """Against systematic resampling, rotated at random, of which only those are kept that begin with particle 0."""
    N, B = 5, 60_000
    weight = torch.tensor([first, 0.95 - first, 0.0, 0.03, 0.02], dtype=torch.float64)[:, None].expand(N, B)
    kept = _ancestors(weight, count, generator, keep_first=True)
    assert not kept[0].any()
    plain = _ancestors(weight, count, generator, keep_first=False)
    turn = torch.randint(count, (B,), generator=generator)
    rotated = plain.gather(0, (torch.arange(count)[:, None] + turn) % count)
    expected = rotated[:, rotated[0] == 0]
    for i in range(N):
        found, law = (drawn == i for drawn in (kept, expected))
        for a, b in ((found.double(), law.double()), (found.sum(0)[None] == 2, law.sum(0)[None] == 2)):
            difference = a.double().mean(1) - b.double().mean(1)
            error = (a.double().var(1) / a.shape[1] + b.double().var(1) / b.shape[1]).sqrt()
            assert (difference.abs() <= 4.5 * error + 1e-12).all()


def test_only_the_sequences_that_need_it_are_resampled(generator):
    """One sequence's colours say nothing: its weights stay equal, while its neighbour is resampled."""
    model = TinyHMM(colours(2, 10))
    emission = model.emission.clone()

    class HalfBlind(TinyHMM):
        def likelihood(self, state, t):
            score = super().likelihood(state, t)["colour"]
            return {"colour": torch.where(torch.tensor([False, True]), score, math.log(0.25))}

    blind = HalfBlind(model.x)
    assert torch.equal(blind.emission, emission)
    estimate = smc(blind, 32, generator=generator, prior_share=1.0)
    assert not estimate.resampled[0].any() and estimate.resampled[1].any()
    torch.testing.assert_close(estimate.increment[0], torch.full((10,), math.log(0.25), dtype=torch.float64))
    torch.testing.assert_close(estimate.ess[0], torch.full((10,), 32.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "arguments",
    [
        {"particles": 0},
        {"prior_share": -0.1},
        {"prior_share": 1.5},
        {"threshold": 2.0},
        {"unseen": (-1,)},
        {"unseen": (2,)},
        {"path": torch.zeros(1, 3, 3)},
    ],
)
def test_what_cannot_be_is_refused(arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=name):
        smc(TinyHMM(colours(1, 2)), **{"particles": 4, **arguments})


def test_rows_unseen_make_a_prediction_several_steps_ahead(generator):
    """log p(x_4 | x_0, x_1), by the forward algorithm that moves on without looking at x_2 and x_3."""
    model = repeated()
    filtered = model.forward()[1][0, 1]
    ahead = torch.linalg.matrix_power(model.transition.exp(), 3)
    expected = (filtered @ ahead @ model.emission.exp())[model.x[0, 4]].log()
    estimate = smc(model, 64, generator=generator, unseen=(2, 3))
    got = estimate.increment[:, 4].exp()
    assert (estimate.increment[:, 2:4] == 0).all() and (estimate.log_likelihood["colour"][:, 2:4] == 0).all()
    error = got.std() / REPETITIONS**0.5
    assert (got.mean() - expected.exp()).abs() < 4 * error + expected.exp() / 64  # a ratio: biased by O(1 / N)
    assert (expected - model.forward()[0][0, 4]).abs() > 0.1  # another question than the next step's


class Remembering:
    """A `LatentSequence` whose h_t is the mean of all z before it: it carries every z, as a transformer would.

    p(z_t | h_t) = N(h_t, 1), q(z_t | h_t, x_t) = N((h_t + x_t) / 2, 1/2), x_t ~ N(z_t, 1): q is the exact one-step
    posterior, and the evidence is a Gaussian's in closed form.
    """

    def __init__(self, x):
        self.x, self.valid = x, torch.ones(x.shape[:2], dtype=torch.bool)

    def initial(self, samples):
        return {"count": torch.zeros(samples, len(self.x)), "past": (self.x.new_zeros(samples, *self.x.shape),)}

    def step(self, carry, t):
        (past,) = carry["past"]
        deter = past.sum(2) / carry["count"].clamp(min=1)[..., None]
        return {**carry, "count": carry["count"] + 1}, deter, self._gaussian(deter, 1.0)

    def advance(self, carry, state):
        (past,) = carry["past"]
        t = int(carry["count"][0, 0]) - 1
        past = past.clone()
        past[:, :, t] = state.stoch
        return {**carry, "past": (past,)}

    def proposal(self, deter, t):
        return self._gaussian((deter + self.x[:, t]) / 2, 0.5**0.5)

    def likelihood(self, state, t):
        return {"x": torch.distributions.Normal(state.stoch, 1.0).log_prob(self.x[:, t]).sum(-1)}

    def _gaussian(self, mean, std):
        raw = torch.full_like(mean, std - 1e-6).expm1().log()
        return DiagonalGaussian(torch.cat([mean, raw], -1), 1e-6)

    def log_evidence(self):
        """x = L e + n with z_t = mean(z_<t) + e_t: a joint Gaussian."""
        T = self.x.shape[1]
        weights = torch.zeros(T, T, dtype=torch.float64)
        for t in range(T):
            weights[t, t] = 1
            if t:
                weights[t] += weights[:t].mean(0)
        covariance = weights @ weights.T + torch.eye(T, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(covariance.new_zeros(T), covariance).log_prob(self.x[..., 0])


def test_what_a_sequence_carries_may_be_any_tree(generator):
    """Particles are resampled with all that they carry: the estimate of a model with a long memory is unbiased."""
    x = torch.randn(1, 6, 1, generator=generator, dtype=torch.float64)
    model = Remembering(x.expand(400, -1, -1).clone())
    found = smc(model, 8, generator=generator, threshold=1.0)
    assert found.resampled.any()
    ratio = (found.log_evidence - model.log_evidence()).exp()
    assert abs(ratio.mean() - 1) < 3 * ratio.std() / 20
    assert ratio.std() < 0.7
    bound = sequence_elbo(model, 4, generator=generator).elbo.sum(-1).mean(0)
    assert bound.mean() < model.log_evidence().mean()


def test_more_particles_at_first_are_unbiased_and_none_is_lost_before_their_last_row(generator):
    """E[p^] = p and E[1 / p^] = 1 / p along an exact path, with 24 particles on two rows, of which 3 go on."""
    world = Spring(5, 3000, generator, noise=0.5)
    settings = {"generator": generator, "threshold": 1.0, "first": Start(2, 24)}
    run = smc(world.sequence, 3, **settings)
    ratio = (run.log_evidence - world.truth()).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5 < 0.1
    assert not run.resampled[:, 0].any() and run.resampled[:, 2].any()
    assert run.ess[:, 1].max() > 3 >= run.ess[:, 2].max() - 1e-9
    path = world.model.posterior(world.x, world.action).sample(1, generator)[0]
    inverse = (world.truth() - smc(world.sequence, 3, path=path, **settings).log_evidence).exp()
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / len(inverse) ** 0.5 < 0.1


def test_more_particles_at_first_are_closer_there(generator):
    world, error = Spring(2, 400, generator, noise=0.05), {}
    for name, first in {"few": None, "more": Start(2, 64)}.items():
        off = smc(world.sequence, 4, generator=generator, first=first).log_evidence - world.truth()
        error[name] = off.square().mean().item()
    assert error["more"] < error["few"] / 3
    with pytest.raises(ValueError, match="start_particles: expected at least 1, got 0"):
        smc(world.sequence, 4, first=Start(2, 0))
