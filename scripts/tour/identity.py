"""log p(x) = ELBO + KL(q || p(z | x)) for an arbitrary q on six models, with the three terms computed independently."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.tour.chains import ring
from scripts.tour.page import GAP, RATE, TRUTH, Section, canvas, f64, label, nats, rounding
from worldmodel.data.random_batch import random_batch
from worldmodel.models.decoder import Decoder
from worldmodel.models.encoder import Encoder
from worldmodel.models.latents import CategoricalFamily
from worldmodel.models.rssm import RSSM
from worldmodel.models.world_model import WorldModel
from worldmodel.oracles.distributions import Gaussian
from worldmodel.oracles.factor_analysis import FactorAnalysis
from worldmodel.oracles.hierarchical import RandomEffects
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.markov_gaussian import MarkovGaussian
from worldmodel.oracles.mixture import GaussianMixture
from worldmodel.types import ActionSpec, EnvSpec, LatentSequence, ObservationSpec, State


class Parts(NamedTuple):
    """The terms of the identity for one data point or sequence, in nats."""

    evidence: float
    elbo: float
    rate: float  # the KL in the ELBO
    gap: float  # the KL to the posterior


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def some_gaussian(generator: torch.Generator, width: int) -> Gaussian:
    """An arbitrary q of one data point."""
    root = normal(generator, width, width)
    return Gaussian(normal(generator, 1, width), (root @ root.mT / width + 0.2 * torch.eye(width))[None])


def mixture(generator: torch.Generator) -> Parts:
    """q over components; the KLs as sums over them."""
    model = GaussianMixture(f64([0.2, 0.3, 0.5]), 2 * normal(generator, 3, 2), torch.eye(2).double().repeat(3, 1, 1))
    _, x = model.simulate(1, generator)
    q = normal(generator, 1, 3).softmax(-1)
    rate, gap = ((q * (q / p).log()).sum().item() for p in (model.weight, model.posterior(x)))
    return Parts(model.log_evidence(x).item(), model.elbo(q, x).item(), rate, gap)


def factors(generator: torch.Generator) -> Parts:
    """Factor analysis: q, prior and posterior are Gaussian."""
    model = FactorAnalysis(normal(generator, 5, 2), normal(generator, 5), torch.full((5,), 0.5).double())
    _, x = model.simulate(1, generator)
    q, prior = some_gaussian(generator, 2), Gaussian(torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    rate, gap = (q.kl(other).item() for other in (prior, model.posterior(x)))
    return Parts(model.log_evidence(x).item(), model.elbo(q, x).item(), rate, gap)


def effects(generator: torch.Generator) -> Parts:
    """Random effects: one latent for five observations."""
    model = RandomEffects(torch.zeros(1).double(), f64(2.0), f64(1.0))
    _, x = model.simulate(1, 5, generator)
    q, prior = some_gaussian(generator, 1), Gaussian(torch.zeros(1, 1).double(), 2 * torch.ones(1, 1, 1).double())
    rate, gap = (q.kl(other).item() for other in (prior, model.posterior(x)))
    return Parts(model.log_evidence(x).item(), model.elbo(q, x).item(), rate, gap)


def linear_gaussian(generator: torch.Generator) -> Parts:
    """A linear-Gaussian chain: the KLs between Gaussians over the whole of z_1:T."""
    two, T = torch.eye(2).double(), 6
    A = f64([[0.9, 0.3], [-0.3, 0.8]])
    model = LinearGaussian.create(A=A, C=f64([[1.0, 0.5]]), Q=0.2 * two, R=f64([[0.3]]), m=f64([0.0, 0.0]), P=two)
    none = torch.zeros(1, T, 0).double()
    _, x = model.simulate(none, generator)
    V = torch.stack([some_gaussian(generator, 2).cov[0] for _ in range(T)])[None]
    q = MarkovGaussian(0.4 * normal(generator, 1, T, 2, 2), 0.5 * normal(generator, 1, T, 2), V)
    prior = model.tilted(torch.zeros_like(V), torch.zeros_like(q.f), none)
    rate, gap = (q.joint().kl(other.joint()).item() for other in (prior, model.posterior(x)))
    return Parts(model.log_evidence(x).sum().item(), model.elbo(q, x).sum().item(), rate, gap)


def along(sequence: LatentSequence, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x | z), log p(z) and log q(z | x) of all K^T paths of one sequence, by the protocol alone, [K^T] each."""
    T = sequence.valid.shape[1]
    paths = torch.tensor(list(itertools.product(range(classes), repeat=T)))
    z = torch.nn.functional.one_hot(paths, classes).double()[:, None]  # [K^T, 1, T, K]
    carry, rows = sequence.initial(len(z)), []
    for t in range(T):
        carry, deter, prior = sequence.step(carry, t)
        state, q = State(deter, z[:, :, t]), sequence.proposal(deter, t)
        carry = sequence.advance(carry, state)
        seen = torch.stack(list(sequence.likelihood(state, t).values())).sum(0)
        rows.append((seen, prior.log_prob(state.stoch).sum(-1), q.log_prob(state.stoch).sum(-1)))
    seen, log_p, log_q = (torch.stack(terms).sum(0)[:, 0] for terms in zip(*rows, strict=True))
    return seen, log_p, log_q


def enumerated(sequence: LatentSequence, classes: int) -> Parts:
    """All terms by sums over all paths: p(x), the posterior, and both KLs."""
    seen, log_p, log_q = along(sequence, classes)
    evidence, q = (seen + log_p).logsumexp(0), log_q.exp()
    posterior = seen + log_p - evidence
    rate, gap = ((q * (log_q - log))[q > 0].sum() for log in (log_p, posterior))
    return Parts(evidence.item(), ((q * seen)[q > 0].sum() - rate).item(), rate.item(), gap.item())


def hmm(generator: torch.Generator) -> Parts:
    """A hidden Markov model, its evidence by the forward algorithm."""
    chain, emissions = ring()
    z = chain.simulate(torch.ones(1, 6, 1).double(), generator)
    log_emission = emissions.log_prob(emissions.sample(z, generator))["colour"]
    q = chain.tilted(normal(generator, 1, 6, 5))
    sequence = chain.given({"colour": log_emission}, proposal=q)
    exact = chain.log_evidence(log_emission).sum().item()
    return enumerated(sequence, 5)._replace(evidence=exact, elbo=chain.elbo(q, log_emission).sum().item())


def recurrent(generator: torch.Generator) -> Parts:
    """An RSSM with one latent of three classes, untrained: six rows, all 729 paths."""
    spec = EnvSpec({"obs": ObservationSpec("vector", (2,))}, ActionSpec("continuous", 1))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        encoder = Encoder(spec.observations, layers=1, units=16, depth=4)
        latent = CategoricalFamily(groups=1, classes=3, unimix=0.01)
        rssm = RSSM(embed=encoder.width, action=1, deter=8, hidden=16, latent=latent, cell="gru", blocks=1)
        decoder = Decoder(
            spec.observations, deter=8, stoch=3, layers=1, units=16, depth=4, vector="gaussian", reward="gaussian",
            std=None, resolution=0.01, skip=True,
        )  # fmt: skip
        model = WorldModel(spec, encoder, rssm, decoder, inputs="standardise", standardise_targets=True).double()
    return enumerated(model.given(random_batch(spec, 1, 6, generator)), 3)


MODELS = {
    "mixture": mixture,
    "factor analysis": factors,
    "random effects": effects,
    "hidden Markov": hmm,
    "linear-Gaussian": linear_gaussian,
    "RSSM, 729 paths": recurrent,
}


@torch.no_grad()
def identity(quick: bool, generator: torch.Generator) -> Section:
    """The two KLs of an arbitrary q, model by model, and the error of the identity."""
    parts = {name: model(generator) for name, model in MODELS.items()}
    figure, axis = canvas()
    for place, part in enumerate(parts.values()):
        for offset, value, color, name in (
            (-0.19, part.rate, RATE, "KL(q || p(z)), in the ELBO"),
            (0.19, part.gap, GAP, "KL(q || p(z | x)), the gap"),
        ):
            axis.bar(place + offset, value, 0.36, color=color, alpha=0.85, label=None if place else name)
            axis.text(place + offset, value, f"{value:.2g}", ha="center", va="bottom", fontsize=8.5, color=TRUTH)
    axis.set_xticks(range(len(parts)), list(parts))
    axis.grid(visible=False, axis="x")
    axis.set_yscale("log")
    label(axis, "Two KLs of one q, six models: neither says what the other is", "", "nats (log scale)")
    axis.legend(loc="upper left")
    numbers = {}
    for name, part in parts.items():
        numbers[f"{name}: log p(x)"] = nats(part.evidence)
        numbers[f"{name}: ELBO + gap"] = nats(part.elbo + part.gap)
    worst = f64([part.evidence - part.elbo - part.gap for part in parts.values()]).abs().max().item()
    return Section(figure, {**numbers, "largest difference": rounding(worst)})
