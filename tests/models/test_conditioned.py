"""The world model given episodes: the bound's two paths are one, and the exact evidence by enumeration of all paths."""

import itertools
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from worldmodel.data.batches import select, with_last_rows_marked
from worldmodel.evidence.iwae import iwae
from worldmodel.evidence.smc import smc
from worldmodel.models.conditioned import ConditionedWorldModel
from worldmodel.models.latents import CategoricalFamily
from worldmodel.models.simulation import simulate
from worldmodel.objectives.elbo import elbo, sequence_elbo
from worldmodel.types import LatentSequence, State
from worlds import CATEGORICAL, FULL, GAUSSIAN, MIXED_SPEC, VECTOR_SPEC, make_batch, make_model

TINY = CategoricalFamily(groups=1, classes=3, unimix=0.01)
STEPS = 6
REPETITIONS = 600

specs = pytest.mark.parametrize("spec", [VECTOR_SPEC, MIXED_SPEC], ids=["vector", "mixed"])
latents = pytest.mark.parametrize("latent", [GAUSSIAN, FULL, CATEGORICAL], ids=["gaussian", "full", "categorical"])


class OnNoise:
    """A conditioned model whose posteriors are sampled with noise that was drawn before."""

    def __init__(self, sequence, noise):
        self.sequence, self.noise = sequence, noise

    def __getattr__(self, name):
        return getattr(self.sequence, name)

    def proposal(self, deter, t):
        posterior = self.sequence.proposal(deter, t)
        posterior.sample = lambda generator: posterior.rsample(self.noise[:, :, t])
        return posterior


def episodes(spec=VECTOR_SPEC, batch=3, length=7, lengths=None, seed=0):
    """Whole episodes, with a terminal row at the end of the first; rows behind the end hold anything."""
    rows = make_batch(spec, batch, length, seed=seed, first=(), dtype=torch.float64)
    valid = torch.arange(length) < torch.tensor(lengths or [length] * batch)[:, None]
    rows.is_terminal[0, valid[0].sum() - 1] = True
    last = torch.arange(length) == valid.sum(1, keepdim=True) - 1
    return rows._replace(valid=valid, is_last=last)


def smoothing_model(spec=VECTOR_SPEC, latent=GAUSSIAN, **options):
    """A model whose posterior reads rewards and what follows a row."""
    model = make_model(spec, latent, smoothing=True, read_reward=True, **options)
    torch.nn.init.normal_(model.backward_network.nothing)
    return model


makers = pytest.mark.parametrize("maker", [make_model, smoothing_model], ids=["filtering", "smoothing"])


@makers
@specs
@latents
@torch.no_grad()
def test_the_batched_bound_and_the_loop_agree_on_the_same_noise(maker, spec, latent, generator):
    model, batch = maker(spec, latent).double(), episodes(spec, lengths=[7, 4, 1])
    noise = torch.stack([model.dynamics.noise(3, 7, generator) for _ in range(2)])
    loop = sequence_elbo(OnNoise(model.given(batch), noise), 2)
    for n in range(2):
        (_, posterior, prior, _), likelihoods = model(batch, noise[n])
        bound = elbo(
            likelihoods, model.targets(batch), posterior, prior, valid=batch.valid, observed=model.observed(batch)
        )
        for name, term in bound.log_likelihood.items():
            expected = torch.where(batch.valid, term, 0.0)
            torch.testing.assert_close(loop.log_likelihood[name][n], expected, rtol=1e-9, atol=1e-10)
        expected = torch.where(batch.valid[..., None], bound.kl_groups, 0.0)
        torch.testing.assert_close(loop.kl_groups[n], expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(
            bound.per_step()["elbo"], loop.elbo[n].sum() / batch.valid.sum(), rtol=1e-10, atol=1e-10
        )


@latents
@pytest.mark.parametrize("options", [{}, {"reward": "twohot", "vector": "symlog"}], ids=["gaussian", "dreamer"])
def test_every_kind_of_row_is_scored_in_single_precision_and_summed_in_double(latent, options, generator):
    model, batch = make_model(MIXED_SPEC, latent, **options), make_batch(MIXED_SPEC, first=())
    sequence = model.given(batch)
    assert isinstance(sequence, LatentSequence)
    estimate = smc(sequence, 5, generator=generator, prior_share=0.1)
    assert set(estimate.log_likelihood) == {*MIXED_SPEC.observations, "reward", "continue"}
    assert estimate.increment.dtype == torch.float64 and torch.isfinite(estimate.increment).all()
    assert sequence.step(sequence.initial(2), 0)[1].dtype == torch.float32
    assert not estimate.log_likelihood["reward"][:, 0].any() and estimate.log_likelihood["reward"][:, 1:].all()


@torch.no_grad()
def test_particles_decoded_a_few_at_a_time_are_the_same(generator):
    model, batch = make_model(MIXED_SPEC).double(), episodes(MIXED_SPEC)
    whole = model.given(batch)
    parts = ConditionedWorldModel(
        model.dynamics,
        model.decode,
        batch,
        model.embed(batch.obs),
        model.targets(batch),
        model.observed(batch),
        particles_at_once=2,
    )
    state = State(*(torch.randn(5, 3, n, generator=generator, dtype=torch.float64) for n in (8, 4)))
    for name, score in whole.likelihood(state, 3).items():
        torch.testing.assert_close(parts.likelihood(state, 3)[name], score, rtol=1e-10, atol=1e-10)


@makers
@torch.no_grad()
def test_padding_gives_each_episode_what_it_has_alone(maker):
    """On the same draws: one sequence, with and without rows behind its end, which may hold anything."""
    model, batch = maker(VECTOR_SPEC, CATEGORICAL).double(), episodes(batch=1, lengths=[4])
    batch = batch._replace(is_last=torch.zeros_like(batch.is_last))  # cut short there
    short = type(batch)({path: x[:, :4] for path, x in batch.obs.items()}, *(x[:, :4] for x in batch[1:]))
    for estimate in (smc, iwae):
        long, alone = (
            estimate(model.given(rows), 16, generator=torch.Generator().manual_seed(1)) for rows in (batch, short)
        )
        torch.testing.assert_close(long.log_evidence, alone.log_evidence, rtol=1e-12, atol=1e-12)


def test_what_has_no_evidence_is_refused():
    model, batch = make_model(), make_batch(first=())
    late, twice = batch.is_first.clone(), make_batch(first=((1, 3),))
    late[0, 0] = False
    holed = batch.valid.clone()
    holed[1, 2] = False
    for rows, name in ((batch._replace(is_first=late), "is_first"), (twice, "is_first")):
        with pytest.raises(ValueError, match=name):
            model.given(rows)
    with pytest.raises(ValueError, match="valid"):
        model.given(batch._replace(valid=holed))


def every_path():
    """All 729 latent paths [N, T, K], one-hot."""
    paths = torch.tensor(list(itertools.product(range(3), repeat=STEPS)))
    return torch.nn.functional.one_hot(paths, 3).double()


def enumerate_paths(sequence, paths):
    """log p(x, z), log q(z | x), and the sum over time of log p(x_t | .) - KL: [N, B] each.

    Latents behind a sequence's end are uniform.
    """
    carry = sequence.initial(len(paths))
    log_joint = log_q = inside = torch.zeros(len(paths), 1, dtype=torch.float64)
    for t in range(STEPS):
        carry, deter, prior = sequence.step(carry, t)
        posterior = sequence.proposal(deter, t)
        state = State(deter, paths[:, None, t].expand(*deter.shape[:2], -1))
        carry = sequence.advance(carry, state)
        score = sum(sequence.likelihood(state, t).values())
        valid = sequence.valid[:, t]
        log_joint = log_joint + torch.where(valid, score + prior.log_prob(state.stoch).sum(-1), -math.log(3))
        log_q = log_q + torch.where(valid, posterior.log_prob(state.stoch).sum(-1), -math.log(3))
        inside = inside + torch.where(valid, score - posterior.kl(prior).sum(-1), 0.0)
    return log_joint, log_q, inside


def tiny(kind, batch=1):
    """A model of 3-valued latents, and an episode that it might have written itself."""
    smooths = kind == "smoothing"
    model = (smoothing_model(latent=TINY) if smooths else make_model(latent=TINY, cell=kind, seed=1)).double()
    template = episodes(batch=1, length=STEPS)
    drawn = simulate(model, template, generator=torch.Generator().manual_seed(2)).batch
    rows = drawn._replace(valid=torch.ones(1, STEPS, dtype=torch.bool))
    expand = lambda x: x.expand(batch, *x.shape[1:])  # noqa: E731
    return model, type(rows)({k: expand(x) for k, x in rows.obs.items()}, *(expand(x) for x in rows[1:]))


kinds = pytest.mark.parametrize("kind", ["block_gru", "gru", "smoothing"])


@kinds
@torch.no_grad()
def test_evidence_is_bound_plus_gap_over_all_paths(kind):
    """log p(x) = ELBO + KL(q || exact posterior), with q, posterior and both sides enumerated."""
    model, batch = tiny(kind)
    log_joint, log_q, inside = (x[:, 0] for x in enumerate_paths(model.given(batch), every_path()))
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    log_evidence, q = log_joint.logsumexp(0), log_q.exp()
    bound = (q * inside).sum()
    kl = (q * (log_q - (log_joint - log_evidence))).sum()
    assert kl > 0.01
    assert abs(log_evidence - bound - kl) < 1e-12 * max(1.0, abs(log_evidence))


@kinds
@torch.no_grad()
def test_estimators_are_unbiased_on_the_models_own_cells(kind, generator):
    model, one = tiny(kind)
    log_evidence = enumerate_paths(model.given(one), every_path())[0][:, 0].logsumexp(0)
    many = model.given(tiny(kind, REPETITIONS)[1])
    estimates = [iwae(many, 32, generator=generator).log_evidence]
    for prior_share, threshold in ((0.0, 0.9), (0.1, 1.0), (1.0, 0.5)):
        estimate = smc(many, 32, generator=generator, prior_share=prior_share, threshold=threshold)
        estimates.append(estimate.log_evidence)
    for log_ratio in (estimate - log_evidence for estimate in estimates):
        assert log_ratio.var() < 0.7
        ratio = log_ratio.exp()
        assert abs(ratio.mean() - 1) < 3 * ratio.std() / REPETITIONS**0.5
    bound = sequence_elbo(many, generator=generator).elbo[0].sum(-1)
    assert bound.mean() < estimates[0].mean()


@torch.no_grad()
def test_along_simulated_latents_the_inverse_is_unbiased(generator):
    """E[p / p^] = 1 over episodes of the model's own: conditional SMC bounds the enumerated evidence from above."""
    model = tiny("gru")[0]
    drawn, path = simulate(model, episodes(batch=150, length=STEPS), generator=generator)
    sequence = model.given(drawn)
    log_evidence = enumerate_paths(sequence, every_path())[0].logsumexp(0)
    for settings in ({}, {"prior_share": 0.1, "threshold": 1.0}, {"threshold": 0.0}):
        log_ratio = log_evidence - smc(sequence, 32, generator=generator, path=path, **settings).log_evidence
        assert log_ratio.var() < 0.7
        ratio = log_ratio.exp()
        assert abs(ratio.mean() - 1) < 3 * ratio.std() / 150**0.5


@makers
@torch.no_grad()
def test_rows_after_a_context_are_explained_as_in_the_whole_episode(maker, generator):
    """From the state that the first rows left, on the same noise, the bound's terms are those of the whole."""
    model, batch = maker().double(), episodes(lengths=[7, 5, 6])
    noise = model.dynamics.noise(3, 7, generator)[None]
    whole = model.given(batch)
    terms = sequence_elbo(OnNoise(whole, noise), 1)
    head = with_last_rows_marked(select(batch, rows=slice(3)))
    if maker is smoothing_model:  # the whole sees later rows in its first states, which a context must not
        with pytest.raises(ValueError, match="is_first"):
            model.given(select(batch, rows=slice(3, 7)))
        return
    carry = model.observe(head, noise[0, :, :3]).carry
    rest = model.given(select(batch, rows=slice(3, 7)), carry)
    for n, tree in ((1, rest.initial(1)), (4, rest.initial(4))):
        assert all(len(x) == n for x in tree_leaves(tree))
    later = sequence_elbo(OnNoise(rest, noise[:, :, 3:]), 1)
    torch.testing.assert_close(later.elbo, terms.elbo[..., 3:])
    with pytest.raises(ValueError, match="without a reset"):
        model.given(batch, carry)
