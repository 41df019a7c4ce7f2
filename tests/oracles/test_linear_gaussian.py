"""The Kalman filter and what is built on it against the dense joint Gaussian; the identity of the bound for any q."""

import dataclasses

import pytest
import torch

from latent_paths import gaussian_elbo, log_weights, sigma_points
from oracles.gaussian_worlds import (
    dense,
    dense_evidence,
    dense_posterior,
    gaussian_kl,
    normal,
    random_chain,
    random_model,
    random_rows,
)
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian
from worldmodel.types import LatentSequence

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, condition numbers of a few hundred
# The last is as wide as the batch is long: nothing may take one for the other.
SHAPES = [
    {"n": 3, "p": 2},
    {"n": 1, "p": 1, "actions": 0},
    {"n": 2, "p": 4, "actions": 1},
    {"n": 4, "p": 4, "actions": 4},
]


@pytest.fixture(params=SHAPES, ids=str)
def world(request, generator):
    model = random_model(generator, **request.param)
    return model, *random_rows(model, generator)


def test_the_evidence_is_that_of_the_joint_gaussian(world):
    model, x, action = world
    expected = torch.stack([dense_evidence(model, *rows) for rows in zip(x, action, strict=True)])
    torch.testing.assert_close(model.log_evidence(x, action).sum(1), expected, **EXACT)


def test_the_evidence_of_a_row_is_a_difference_of_evidences(world):
    model, x, action = world
    steps = model.log_evidence(x, action)
    for t in range(1, x.shape[1]):
        shorter = model.log_evidence(x[:, :t], action[:, :t]).sum(1)
        longer = torch.stack([dense_evidence(model, a[: t + 1], b[: t + 1]) for a, b in zip(x, action, strict=True)])
        torch.testing.assert_close(steps[:, t], longer - shorter, **EXACT)


def test_rows_that_were_not_observed_have_no_evidence(world):
    model, x, action = world
    steps, unseen = model.log_evidence(x, action), torch.isnan(x).all(-1)
    assert (steps[unseen] == 0).all() and (steps[~unseen] != 0).all()


def test_both_smoothers_are_the_conditioned_joint_gaussian(world):
    model, x, action = world
    rts, chain = model.smooth(x, action), model.posterior(x, action)
    joint, marginals = chain.joint(), chain.marginals()
    T, n = x.shape[1], len(model.m)
    for b in range(len(x)):
        mean, cov = dense_posterior(model, x[b], action[b])
        torch.testing.assert_close(joint.mean[b], mean, **EXACT)
        torch.testing.assert_close(joint.cov[b], cov, **EXACT)
        for smoother in (rts, marginals):
            torch.testing.assert_close(smoother.mean[b].flatten(), mean, **EXACT)
            blocks = torch.stack([cov[t * n : (t + 1) * n, t * n : (t + 1) * n] for t in range(T)])
            torch.testing.assert_close(smoother.cov[b], blocks, **EXACT)


def test_the_filter_is_the_smoother_of_a_sequence_cut_short(world):
    model, x, action = world
    predicted, filtered, _ = model.filter(x, action)
    for t in range(x.shape[1]):
        last = model.smooth(x[:, : t + 1], action[:, : t + 1])
        torch.testing.assert_close(filtered.mean[:, t], last.mean[:, -1], **EXACT)
        torch.testing.assert_close(filtered.cov[:, t], last.cov[:, -1], **EXACT)
    unseen = x.clone()
    unseen[:, -1] = torch.nan
    torch.testing.assert_close(predicted.mean[:, -1], model.filter(unseen, action).filtered.mean[:, -1], **EXACT)


def test_bound_plus_gap_is_the_evidence_for_any_q(world, generator):
    """The bound through the Protocol by cubature, the KL from dense matrices, the evidence from the filter."""
    model, x, action = world
    q = random_chain(generator, *x.shape[:2], len(model.m))
    bound = gaussian_elbo(model.given(x, action, proposal=q), q.joint())
    exact = [dense_posterior(model, *rows) for rows in zip(x, action, strict=True)]
    joint = q.joint()
    kl = torch.stack([gaussian_kl(joint.mean[b], joint.cov[b], *exact[b]) for b in range(len(x))])
    evidence = model.log_evidence(x, action).sum(1)
    assert (kl > 0.1).all()
    torch.testing.assert_close(bound.sum(1) + kl, evidence, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.elbo(q, x, action), bound, rtol=1e-9, atol=1e-9)


def test_the_exact_posterior_leaves_no_gap_on_any_path(world, generator):
    """log p(x, z) - log q(z) is the evidence itself, whatever z."""
    model, x, action = world
    sequence = model.given(x, action)
    assert isinstance(sequence, LatentSequence)
    z = normal(generator, 3, *x.shape[:2], len(model.m))
    evidence = model.log_evidence(x, action).sum(1)
    torch.testing.assert_close(log_weights(sequence, z).sum(-1), evidence.expand(3, -1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.elbo(model.posterior(x, action), x, action).sum(1), evidence, **EXACT)


def test_the_bound_is_the_mean_of_the_log_ratio_on_paths(world, generator):
    """The KL of a row in closed form is log q(z) - log p(z) in expectation."""
    model, x, action = world
    q = random_chain(generator, *x.shape[:2], len(model.m))
    sequence = model.given(x, action, proposal=q)
    ratio = log_weights(sequence, sigma_points(q.joint(), x.shape[1])).mean(0)
    torch.testing.assert_close(ratio, gaussian_elbo(sequence, q.joint()), rtol=1e-9, atol=1e-9)


def test_rows_behind_the_end_do_not_count(world, generator):
    model, x, action = world
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    valid[0, 3:] = valid[1, 4:] = False
    q = random_chain(generator, *x.shape[:2], len(model.m))
    bound = gaussian_elbo(model.given(x, action, valid=valid, proposal=q), q.joint())
    short = MarkovGaussian(q.F[:, :3], q.f[:, :3], q.V[:, :3])
    cut = gaussian_elbo(model.given(x[:, :3], action[:, :3], proposal=short), short.joint())
    torch.testing.assert_close(bound[0, :3], cut[0], **EXACT)
    assert (bound[~valid] == 0).all()
    exact = model.given(x, action, valid=valid)
    z = normal(generator, 2, *x.shape[:2], len(model.m))
    evidence = model.log_evidence(torch.where(valid[..., None], x, torch.nan), action).sum(1)
    torch.testing.assert_close(log_weights(exact, z).sum(-1), evidence.expand(2, -1), rtol=1e-9, atol=1e-9)


def test_posterior_samples_have_the_moments_of_the_posterior(generator):
    model = random_model(generator)
    x, action = random_rows(model, generator)
    chain, N = model.posterior(x, action), 20_000
    z = chain.sample(N, generator).flatten(2)  # [N, B, T n]
    joint = chain.joint()
    variance = joint.cov.diagonal(dim1=-2, dim2=-1)
    assert ((z.mean(0) - joint.mean).abs() < 4.5 * (variance / N).sqrt()).all()
    cov = torch.einsum("nbi,nbj->bij", z - joint.mean, z - joint.mean) / N
    error = ((variance[:, :, None] * variance[:, None] + joint.cov.square()) / N).sqrt()
    assert ((cov - joint.cov).abs() < 4.5 * error).all()


def test_simulated_rows_have_the_moments_of_the_model(generator):
    model, N = random_model(generator), 20_000
    action = normal(generator, 1, 4, 2)
    z, x = model.simulate(action.expand(N, -1, -1), generator)
    mean_z, cov_z, C, offset, R = dense(model, action[0])
    for drawn, mean, cov in ((z, mean_z, cov_z), (x, C @ mean_z + offset, C @ cov_z @ C.mT + R)):
        drawn = drawn.flatten(1)
        assert ((drawn.mean(0) - mean).abs() < 4.5 * (cov.diagonal() / N).sqrt()).all()
        error = ((cov.diagonal()[:, None] * cov.diagonal() + cov.square()) / N).sqrt()
        assert ((drawn.T.cov() - cov).abs() < 4.5 * error).all()


def test_a_singular_transition_noise_is_allowed(generator):
    """The last state copies the first of the step before: no noise of its own, no first covariance."""
    model = random_model(generator, n=2)
    A = torch.tensor([[0.8, 0.0], [1.0, 0.0]], dtype=torch.float64)
    Q, P = torch.diag(torch.tensor([0.5, 0.0]).double()), torch.diag(torch.tensor([1.0, 0.0]).double())
    model = dataclasses.replace(model, A=A, Q=Q, P=P)
    x, action = random_rows(model, generator)
    expected = torch.stack([dense_evidence(model, *rows) for rows in zip(x, action, strict=True)])
    torch.testing.assert_close(model.log_evidence(x, action).sum(1), expected, **EXACT)
    joint = model.posterior(x, action).joint()
    mean, cov = dense_posterior(model, x[0], action[0])
    torch.testing.assert_close(joint.mean[0], mean, **EXACT)
    torch.testing.assert_close(joint.cov[0], cov, **EXACT)


def test_the_bound_says_which_covariance_has_no_density(generator):
    model = random_model(generator, n=2)
    singular = torch.diag(torch.tensor([0.5, 0.0]).double())
    x, action = random_rows(model, generator)
    q = model.posterior(x, action)
    for name, fields in {"Q": {"Q": singular}, "P": {"P": singular}}.items():
        broken = dataclasses.replace(model, **fields)
        with pytest.raises(ValueError, match=rf"^{name}: expected a covariance of full rank 2, .* got one of rank 1"):
            broken.elbo(q, x, action)


def test_float32_rows_are_read_as_float64(world):
    model, x, action = world
    narrow = model.log_evidence(x.float(), action.float())
    torch.testing.assert_close(narrow, model.log_evidence(x.float().double(), action.float().double()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.zeros(2, 3).double()}, r"A: expected shape \[3, 3\], got \[2, 3\]"),
        ({"R": -torch.eye(2).double()}, "R: expected a positive definite matrix"),
        ({"Q": torch.ones(3, 3).double().triu()}, "Q: expected a symmetric matrix"),
        ({"m": torch.zeros(3)}, "m: expected float64, got torch.float32"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, message, generator, unannotated):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_model(generator), **change)


def test_rows_that_do_not_fit_are_refused(generator, unannotated):
    model = random_model(generator)
    x, action = random_rows(model, generator)
    with pytest.raises(ValueError, match=r"x: expected shape \[any, any, 2\], got \[4, 5, 1\]"):
        model.filter(x[..., :1], action)
    with pytest.raises(ValueError, match=r"action: expected shape \[4, 5, 2\], got \[4, 4, 2\]"):
        model.filter(x, action[:, 1:])
    with pytest.raises(ValueError, match="action: expected finite numbers"):
        model.filter(x, torch.full_like(action, torch.nan))
    with pytest.raises(ValueError, match="x: expected numbers, or NaN"):
        model.filter(x / 0, action)


def test_create_leaves_out_what_a_model_does_not_have(generator):
    full = random_model(generator, actions=0)
    parts = {name: getattr(full, name) for name in ("A", "C", "Q", "R", "m", "P")}
    assert LinearGaussian.create(**parts).B.shape == (3, 0)
    torch.testing.assert_close(LinearGaussian.create(**parts, B=parts["A"]).D, torch.zeros(2, 3).double())
