"""The two kinds of Markov chain against their joint distributions over whole paths."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from latent_paths import all_paths
from oracles.gaussian_worlds import normal, random_chain
from worldmodel.oracles.markov_categorical import MarkovCategorical, chain_of
from worldmodel.oracles.markov_gaussian import MarkovGaussian

B, T, n = 3, 4, 2


def test_a_gaussian_chain_is_its_joint_gaussian(generator):
    chain = random_chain(generator, B, T, n)
    joint = MultivariateNormal(chain.joint().mean, chain.joint().cov)
    z = normal(generator, 5, B, T, n)
    torch.testing.assert_close(chain.log_prob(z), joint.log_prob(z.flatten(2)))
    torch.testing.assert_close(chain.entropy().sum(1), joint.entropy())
    marginals = chain.marginals()
    torch.testing.assert_close(marginals.mean.flatten(1), joint.mean)
    for t in range(T):
        block = slice(t * n, (t + 1) * n)
        torch.testing.assert_close(marginals.cov[:, t], joint.covariance_matrix[:, block, block])


def test_the_first_step_of_a_gaussian_chain_reads_nothing(generator):
    chain = random_chain(generator, B, T, n)
    before = normal(generator, 5, B, n)
    torch.testing.assert_close(chain(before, 0).mean, chain.f[:, 0].expand(5, B, n), rtol=0, atol=0)
    other = MarkovGaussian(chain.F.clone().index_fill_(1, torch.tensor([0]), 7.0), chain.f, chain.V)
    torch.testing.assert_close(other.joint().cov, chain.joint().cov, rtol=0, atol=0)


@pytest.fixture
def categorical(generator):
    probs = normal(generator, B, T, 3, 3).softmax(-1)
    probs[:, 0] = probs[:, 0, :1]
    probs[:, 1:, 0] = torch.tensor([0.0, 0.5, 0.5]).double()  # some paths are impossible
    return MarkovCategorical(probs.log())


def test_a_categorical_chain_is_its_table_of_paths(categorical):
    z = all_paths(3, B, T)
    table = categorical.log_prob(z).exp()  # [3^T, B]
    torch.testing.assert_close(table.sum(0), torch.ones(B).double())
    torch.testing.assert_close(categorical.entropy().sum(1), torch.special.entr(table).sum(0))
    torch.testing.assert_close(categorical.marginals(), torch.einsum("nb,nbtk->btk", table, z))
    pairs = torch.einsum("nb,nbti,nbtj->btij", table, z[:, :, :-1], z[:, :, 1:])
    torch.testing.assert_close(categorical.pairs()[:, 1:], pairs)


def test_a_chain_of_one_step_is_its_probabilities(generator):
    probs = normal(generator, B, 3).softmax(-1)
    torch.testing.assert_close(chain_of(probs).marginals()[:, 0], probs)
    torch.testing.assert_close(chain_of(probs).entropy()[:, 0], torch.special.entr(probs).sum(-1))
