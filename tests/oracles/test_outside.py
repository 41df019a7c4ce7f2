"""The same evidence from statsmodels, scikit-learn and hmmlearn, to 1e-9 relative. They are in the `test` extra."""

import numpy as np
import torch
from hmmlearn.hmm import CategoricalHMM
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

from oracles.gaussian_worlds import covariance, normal, random_model, random_rows
from worldmodel.oracles.emissions import Emissions
from worldmodel.oracles.factor_analysis import FactorAnalysis, probabilistic_pca
from worldmodel.oracles.hmm import HiddenMarkov
from worldmodel.oracles.mixture import GaussianMixture

AGREE = {"rtol": 1e-9, "atol": 1e-11}


def statsmodels_smoother(model, x, action):
    """The same model in statsmodels, whose input at t moves z_t to z_{t+1}, for one sequence."""
    n, p = len(model.m), len(model.d)
    smoother = KalmanSmoother(k_endog=p, k_states=n, k_posdef=n)
    smoother.tolerance = 0  # or the covariances stop being updated once they have nearly settled
    smoother.loglikelihood_burn = 0
    smoother.bind(x.numpy().copy())
    later = torch.cat([action[1:], torch.zeros_like(action[:1])])
    smoother["transition"], smoother["design"] = model.A.numpy(), model.C.numpy()
    smoother["state_intercept"] = (later @ model.B.mT).mT.numpy()
    smoother["obs_intercept"] = (action @ model.D.mT + model.d).mT.numpy()
    smoother["selection"], smoother["state_cov"] = np.eye(n), model.Q.numpy()
    smoother["obs_cov"] = model.R.numpy()
    smoother.initialize_known(model.m.numpy(), model.P.numpy())
    return smoother.smooth()


def test_statsmodels_has_the_same_evidence_and_smoother(generator):
    model = random_model(generator, n=4, p=3)
    x, action = random_rows(model, generator, T=100)
    steps, smoothed = model.log_evidence(x, action), model.smooth(x, action)
    for b in range(len(x)):
        theirs = statsmodels_smoother(model, x[b], action[b])
        torch.testing.assert_close(steps[b], torch.from_numpy(theirs.llf_obs), **AGREE)
        torch.testing.assert_close(smoothed.mean[b], torch.from_numpy(theirs.smoothed_state.T.copy()), **AGREE)
        cov = torch.from_numpy(theirs.smoothed_state_cov.transpose(2, 0, 1).copy())
        torch.testing.assert_close(smoothed.cov[b], cov, **AGREE)


def test_hmmlearn_has_the_same_evidence_and_posterior(generator):
    K, V = 4, 5
    probabilities = lambda *shape: (2 * normal(generator, *shape)).softmax(-1)  # noqa: E731 (one line says it)
    hmm, emissions = HiddenMarkov(probabilities(K), probabilities(1, K, K)), Emissions({"x": probabilities(K, V)})
    x = emissions.sample(hmm.simulate(torch.ones(1, 200, 1), generator), generator)
    theirs = CategoricalHMM(n_components=K, n_features=V)
    theirs.startprob_, theirs.transmat_ = hmm.initial.numpy(), hmm.transition[0].numpy()
    theirs.emissionprob_ = emissions.probs["x"].numpy()
    evidence, posterior = theirs.score_samples(x["x"][0, :, None].numpy())
    log_emission = emissions.log_prob(x)["x"]
    torch.testing.assert_close(float(hmm.log_evidence(log_emission).sum()), evidence, **AGREE)
    torch.testing.assert_close(hmm.smooth(log_emission)[0], torch.from_numpy(posterior), **AGREE)


def test_sklearn_has_the_same_mixture(generator):
    cov = torch.stack([covariance(generator, 3) for _ in range(4)])
    model = GaussianMixture(normal(generator, 4).softmax(-1), 2 * normal(generator, 4, 3), cov)
    x = model.simulate(200, generator)[1]
    theirs = SklearnGaussianMixture(4)
    theirs.weights_, theirs.means_, theirs.covariances_ = model.weight.numpy(), model.mean.numpy(), cov.numpy()
    theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(cov.numpy())).transpose(0, 2, 1)
    torch.testing.assert_close(model.log_evidence(x), torch.from_numpy(theirs.score_samples(x.numpy())), **AGREE)
    torch.testing.assert_close(model.posterior(x), torch.from_numpy(theirs.predict_proba(x.numpy())), **AGREE)


def test_sklearn_has_the_same_factor_analysis(generator):
    model = FactorAnalysis(normal(generator, 5, 2), normal(generator, 5), 0.1 + normal(generator, 5).square())
    x = model.simulate(200, generator)[1]
    theirs = SklearnFactorAnalysis(2)
    theirs.components_, theirs.mean_, theirs.noise_variance_ = (
        model.W.mT.numpy(),
        model.mean.numpy(),
        model.noise.numpy(),
    )
    torch.testing.assert_close(model.log_evidence(x), torch.from_numpy(theirs.score_samples(x.numpy())), **AGREE)
    torch.testing.assert_close(model.posterior(x).mean, torch.from_numpy(theirs.transform(x.numpy())), **AGREE)


def test_sklearn_fits_the_same_probabilistic_pca(generator):
    """It divides the data's covariance by B - 1 where the maximum of the evidence divides by B."""
    x = normal(generator, 200, 5) @ normal(generator, 5, 5)
    ours, theirs = probabilistic_pca(x, 2), PCA(2, svd_solver="full").fit(x.numpy())
    shrunk = torch.from_numpy(theirs.get_covariance()) * (199 / 200)
    torch.testing.assert_close(ours.marginal(1).cov, shrunk, **AGREE)
