"""The forward algorithm and what is built on it against all K^T paths; the identity of the bound for any q."""

import pytest
import torch

from latent_paths import all_paths, discrete_elbo_and_gap, enumerated, log_weights
from worldmodel.oracles.emissions import Emissions
from worldmodel.oracles.hmm import HiddenMarkov
from worldmodel.oracles.markov_categorical import MarkovCategorical
from worldmodel.types import LatentSequence

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64; sums of 3^5 terms
K, T, B = 3, 5, 4


def probabilities(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64).pow(2).softmax(-1)


def sparse(probs):
    """The same with impossible classes: a left-to-right chain for every action."""
    kept = probs.triu()
    return kept / kept.sum(-1, keepdim=True)


@pytest.fixture(params=["dense", "sparse"])
def world(request, generator):
    """A chain with two actions, two named observations with gaps, and their log-emissions."""
    transition = probabilities(generator, 2, K, K)
    hmm = HiddenMarkov(probabilities(generator, K), sparse(transition) if request.param == "sparse" else transition)
    emissions = Emissions({"colour": probabilities(generator, K, 4), "reward": probabilities(generator, K, 2)})
    action = torch.nn.functional.one_hot(torch.randint(2, (B, T), generator=generator), 2).double()
    action[:, 0] = 0.0
    x = emissions.sample(hmm.simulate(action, generator), generator)
    x["reward"][:, 0] = x["colour"][1, 2] = -1
    return hmm, emissions.log_prob(x), action


def arbitrary(generator):
    probs = probabilities(generator, B, T, K, K)
    probs[:, 0] = probs[:, 0, :1]
    return MarkovCategorical(probs.log())


def path_log_prob(hmm, log_emissions, action):
    """log p(x, z) of every path [K^T, B], one multiplication after another."""
    paths, table = all_paths(K, 1, T)[:, 0].argmax(-1), sum(log_emissions.values())
    log_p = torch.zeros(len(paths), B, dtype=torch.float64)
    for n, path in enumerate(paths):
        for b in range(B):
            log_p[n, b] = hmm.initial[path[0]].log() + sum(table[b, t, path[t]] for t in range(T))
            for t in range(1, T):
                log_p[n, b] += hmm.transition[action[b, t].argmax(), path[t - 1], path[t]].log()
    return paths, log_p


def total(log_emissions):
    return sum(log_emissions.values())


def test_evidence_and_posterior_are_those_of_all_paths(world):
    hmm, log_emissions, action = world
    paths, log_p = path_log_prob(hmm, log_emissions, action)
    evidence = log_p.logsumexp(0)
    torch.testing.assert_close(hmm.log_evidence(total(log_emissions), action).sum(1), evidence, **EXACT)
    weight = (log_p - evidence).exp()  # [paths, B]
    marginals = torch.einsum("nb,ntk->btk", weight, torch.nn.functional.one_hot(paths, K).double())
    chain = hmm.posterior(total(log_emissions), action)
    torch.testing.assert_close(hmm.smooth(total(log_emissions), action), marginals, **EXACT)
    torch.testing.assert_close(chain.marginals(), marginals, **EXACT)
    log_q = chain.log_prob(all_paths(K, B, T))
    torch.testing.assert_close(log_q.exp(), weight, **EXACT)
    torch.testing.assert_close(chain.entropy().sum(1), torch.special.entr(weight).sum(0), **EXACT)


def test_the_evidence_of_a_row_is_a_difference_of_evidences(world):
    hmm, log_emissions, action = world
    steps = hmm.log_evidence(total(log_emissions), action)
    for t in range(1, T + 1):
        short = {name: table.clone() for name, table in log_emissions.items()}
        for table in short.values():
            table[:, t:] = 0.0
        torch.testing.assert_close(path_log_prob(hmm, short, action)[1].logsumexp(0), steps[:, :t].sum(1), **EXACT)


def test_bound_plus_gap_is_the_evidence_for_any_q(world, generator):
    hmm, log_emissions, action = world
    q = arbitrary(generator)
    if (hmm.transition == 0).any():  # a q that visits what the model excludes has no bound
        q = hmm.tilted(probabilities(generator, B, T, K).log(), action)
    bound, gap, paths = discrete_elbo_and_gap(hmm.given(log_emissions, action, proposal=q), K)
    evidence = hmm.log_evidence(total(log_emissions), action).sum(1)
    assert (gap > 1e-3).all()
    torch.testing.assert_close(bound + gap, evidence, **EXACT)
    torch.testing.assert_close(paths, evidence, **EXACT)
    torch.testing.assert_close(hmm.elbo(q, total(log_emissions), action).sum(1), bound, **EXACT)


def test_the_gap_is_the_kl_to_the_chain_that_is_the_posterior(world, generator):
    """As above, with the KL from the exact posterior's own path probabilities."""
    hmm, log_emissions, action = world
    q, exact = hmm.tilted(probabilities(generator, B, T, K).log(), action), hmm.posterior(total(log_emissions), action)
    z = all_paths(K, B, T)
    log_q, log_r = q.log_prob(z), exact.log_prob(z)
    kl = torch.where(log_q.exp() > 0, log_q.exp() * torch.where(log_q.exp() > 0, log_q - log_r, 0.0), 0.0).sum(0)
    evidence = hmm.log_evidence(total(log_emissions), action).sum(1)
    torch.testing.assert_close(hmm.elbo(q, total(log_emissions), action).sum(1) + kl, evidence, **EXACT)


def test_the_exact_posterior_leaves_no_gap_on_any_path(world):
    hmm, log_emissions, action = world
    sequence = hmm.given(log_emissions, action)
    assert isinstance(sequence, LatentSequence)
    evidence = hmm.log_evidence(total(log_emissions), action).sum(1)
    _, log_p, log_q = enumerated(sequence, K)
    possible = torch.isfinite(log_p)
    assert (log_q[~possible] == -torch.inf).all()
    torch.testing.assert_close((log_p - log_q)[possible], evidence.expand_as(log_p)[possible], **EXACT)


def test_rows_behind_the_end_do_not_count(world, generator):
    hmm, log_emissions, action = world
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[0, 3:] = False
    padded = torch.where(valid[..., None], action, 0.0)
    sequence = hmm.given(log_emissions, padded, valid=valid)
    short = {name: table[:, :3] for name, table in log_emissions.items()}
    z = sequence.q.sample(1, generator)
    weights = log_weights(sequence, z)
    torch.testing.assert_close(weights[:, 0].sum(-1), hmm.log_evidence(total(short), action[:, :3])[:1].sum(1), **EXACT)
    assert (weights[:, ~valid] == 0).all()


def test_posterior_samples_have_the_probabilities_of_the_posterior(world, generator):
    hmm, log_emissions, action = world
    N, chain = 20_000, hmm.posterior(total(log_emissions), action)
    pairs = chain.pairs()[:, 1:]
    z = chain.sample(N, generator)
    assert (z.sum(-1) == 1).all()
    frequency = torch.einsum("nbti,nbtj->btij", z[:, :, :-1], z[:, :, 1:]) / N
    error = (pairs * (1 - pairs) / N).sqrt()
    assert ((frequency - pairs).abs() <= 4.5 * error).all()  # exactly zero where a pair is impossible


def test_emissions_are_drawn_with_their_probabilities(generator):
    emissions = Emissions({"colour": probabilities(generator, K, 4)})
    states = torch.eye(K, dtype=torch.float64).expand(20_000, K, K)
    drawn = emissions.sample(states, generator)["colour"]
    frequency = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
    probs = emissions.probs["colour"]
    assert ((frequency - probs).abs() < 4.5 * (probs * (1 - probs) / 20_000).sqrt()).all()


def test_em_is_coordinate_ascent_on_the_bound(generator):
    """The E-step closes the gap, the M-step never lowers the bound, so the evidence never falls."""
    truth = HiddenMarkov(probabilities(generator, K), probabilities(generator, 2, K, K))
    emissions = Emissions({"colour": sharp(generator, K, 4), "reward": sharp(generator, K, 2)})
    action = torch.nn.functional.one_hot(torch.randint(2, (30, 12), generator=generator), 2).double()
    x = emissions.sample(truth.simulate(action, generator), generator)
    x["reward"][:, 0] = -1
    hmm = HiddenMarkov(probabilities(generator, K), probabilities(generator, 2, K, K))
    emissions = Emissions({"colour": probabilities(generator, K, 4), "reward": probabilities(generator, K, 2)})
    evidence = [hmm.log_evidence(total(emissions.log_prob(x)), action).sum()]
    for _ in range(20):
        log_emission = total(emissions.log_prob(x))
        q = hmm.posterior(log_emission, action)
        closed = hmm.elbo(q, log_emission, action).sum()
        torch.testing.assert_close(closed, evidence[-1], rtol=1e-11, atol=1e-9)
        hmm, emissions = hmm.m_step(q, action), emissions.m_step(q.marginals(), x)
        log_emission = total(emissions.log_prob(x))
        raised = hmm.elbo(q, log_emission, action).sum()
        evidence.append(hmm.log_evidence(log_emission, action).sum())
        assert closed < raised < evidence[-1]
    assert evidence[-1] - evidence[0] > 10


def sharp(generator, *shape):
    return (3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def test_the_m_step_is_a_maximum_of_the_bound(generator):
    """No small change of a parameter, along its simplex, raises the bound under the same q."""
    hmm = HiddenMarkov(probabilities(generator, K), probabilities(generator, 1, K, K))
    log_emission = probabilities(generator, B, T, K).log()
    q = hmm.posterior(log_emission)
    best = hmm.m_step(q)
    top = best.elbo(q, log_emission).sum()
    for _ in range(20):
        mixed = best.transition + 0.01 * (probabilities(generator, 1, K, K) - best.transition)
        first = best.initial + 0.01 * (probabilities(generator, K) - best.initial)
        assert HiddenMarkov(first, mixed).elbo(q, log_emission).sum() < top


def test_what_cannot_happen_has_no_evidence(generator):
    """A chain that cannot return to its first state, and a row that only the first state explains."""
    hmm = HiddenMarkov(torch.tensor([0.0, 1.0]).double(), torch.eye(2).double()[None])
    log_emission = probabilities(generator, 1, 4, 2).log()
    log_emission[0, 1, 1] = -torch.inf
    evidence = hmm.log_evidence(log_emission)[0]
    assert evidence[1] == -torch.inf
    torch.testing.assert_close(evidence[[0, 2, 3]], log_emission[0, [0, 2, 3], 1])


def test_what_does_not_fit_is_refused(generator, unannotated):
    half = torch.full((3, 3), 0.5).double()
    with pytest.raises(ValueError, match="transition: expected probabilities that sum to one"):
        HiddenMarkov(half[0, :2], half[None, :2, :2] * 0.7)
    with pytest.raises(ValueError, match=r"transition: expected shape \[any, 2, 2\], got \[2, 2\]"):
        HiddenMarkov(half[0, :2], half[:2, :2])
    hmm = HiddenMarkov(half[0, :2], half[None, :2, :2].expand(2, -1, -1))
    with pytest.raises(ValueError, match="action: expected one-hot vectors of 2 actions, got None"):
        hmm.log_evidence(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="action: expected a one-hot vector on every row after the first"):
        hmm.log_evidence(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="log_emission: expected numbers or -inf, got NaN or"):
        hmm.log_evidence(torch.full((1, 3, 2), torch.nan), torch.ones(1, 3, 2))
    emissions = Emissions({"colour": half[:2, :2]})
    with pytest.raises(ValueError, match="log_probs: expected the same row K times at the first step"):
        MarkovCategorical(torch.eye(2).double().log()[None, None])
    with pytest.raises(ValueError, match=r"x.colour: expected values from 0 to 1, or -1, got 0 to 2"):
        emissions.log_prob({"colour": torch.tensor([[0, 2]])})
    with pytest.raises(ValueError, match=r"x: expected the names \['colour'\], got \['color'\]"):
        emissions.log_prob({"color": torch.tensor([[0, 2]])})
