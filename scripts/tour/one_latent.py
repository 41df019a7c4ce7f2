"""The evidence, the two KLs and coordinate ascent, on models of one latent number where everything can be drawn."""

import itertools

import torch
from torch import Tensor

from scripts.tour.page import BOUND, FAINT, GAP, IWAE, RATE, SMC, TRUTH, Section, canvas, f64, label, nats, rounding
from worldmodel.evidence.iwae import iwae
from worldmodel.oracles.distributions import Gaussian
from worldmodel.oracles.factor_analysis import FactorAnalysis
from worldmodel.oracles.mixture import GaussianMixture

SEEN = 1.8  # the one observation of the first two sections


def one_factor() -> FactorAnalysis:
    """z ~ N(0, 1), x = z + N(0, 1/2)."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return FactorAnalysis(W=one, mean=torch.zeros_like(one[0]), noise=0.5 * one[0])


def many_factors(width: int = 10) -> tuple[FactorAnalysis, Tensor]:
    """The same in ten dimensions, and an observation of the same kind, [1, D]."""
    eye = torch.eye(width, dtype=torch.float64)
    signs = f64([1.0, -1.0]).repeat(width // 2)
    return FactorAnalysis(W=eye, mean=torch.zeros_like(eye[0]), noise=0.1 * torch.ones_like(eye[0])), 1.2 * signs[None]


def evidence(quick: bool, generator: torch.Generator) -> Section:
    """log p(x) as an area, and what averaging over the prior makes of it."""
    model, x = one_factor(), f64([[SEEN]])
    z = torch.linspace(-3, 4, 400, dtype=torch.float64)
    prior = Gaussian(torch.zeros(400, 1).double(), torch.eye(1).double()).log_prob(z[:, None])[:, 0].exp()
    seen = Gaussian(z[:, None], 0.5 * torch.eye(1).double()).log_prob(x.expand(400, 1))[:, 0].exp()
    figure, (left, right) = canvas(1, 2)
    left.plot(z, prior, color=FAINT, label="prior p(z)")
    left.plot(z, seen, color=RATE, ls="--", label=f"likelihood p(x = {SEEN} | z)")
    left.fill_between(z, prior * seen, color=BOUND, alpha=0.35, lw=0, label="joint p(x, z); its area is p(x)")
    label(left, "The evidence is an area", "z", "density")
    left.set_ylim(0, 0.92)
    left.legend(loc="upper left")

    wide, y = many_factors()
    truth = wide.log_evidence(y).item()
    blind = Gaussian(torch.zeros_like(y), torch.eye(y.shape[1], dtype=torch.float64)[None])
    counts = [4**k for k in range(1, 6 if quick else 8)]
    copies = y.expand(64, -1)
    runs = [iwae(_given(wide, copies, blind), n, generator=generator).log_evidence for n in counts]
    low, middle, high = torch.stack(runs).quantile(f64([0.05, 0.5, 0.95]), 1)
    right.axhline(truth, color=TRUTH, ls="--", label="log p(x), exact")
    right.plot(counts, middle, "o-", ms=3, color=IWAE, label="log mean p(x | zᵢ), zᵢ from the prior")
    right.fill_between(counts, low, high, color=IWAE, alpha=0.2, lw=0)
    exact = iwae(wide.given(copies), 4, generator=generator).log_evidence
    right.plot(4, exact[0], "*", ms=11, color=SMC, label="zᵢ from the posterior, weighed")
    right.set_xscale("log")
    label(right, "Ten latents: the prior is a poor guess", "samples (64 repetitions, 5 to 95 %)", "nats")
    right.legend(loc="lower right")
    return Section(
        figure,
        {
            f"log p(x = {SEEN}), one latent": nats(model.log_evidence(x).item()),
            "the blue area, summed on the grid": nats(torch.trapezoid(prior * seen, z).log().item()),
            "ten latents: log p(x)": nats(truth, 2),
            f"from the prior, {counts[2]} samples, median": nats(middle[2].item(), 2),
            "from the posterior, 4 samples: error": rounding((exact - truth).abs().max().item()),
        },
    )


def _given(model: FactorAnalysis, x: Tensor, q: Gaussian):
    return model.given(x, proposal=Gaussian(q.mean.expand(len(x), -1), q.cov.expand(len(x), -1, -1)))


def counted(model: FactorAnalysis, x: Tensor, times: Tensor) -> Gaussian:
    """q(z) proportional to p(z) p(x | z)^times, for one latent: the prior at 0, the posterior at 1. times is [B]."""
    precision = 1 + times * model.W.square().sum() / model.noise
    mean = times * model.W[0, 0] * (x[:, 0] - model.mean) / model.noise / precision
    return Gaussian(mean[:, None], (1 / precision)[:, None, None])


def two_kls(quick: bool, generator: torch.Generator) -> Section:
    """A path of q from the prior through the posterior and beyond: one KL grows, the other touches zero."""
    model, times = one_factor(), torch.linspace(0, 3, 301, dtype=torch.float64)
    x = torch.full((len(times), 1), SEEN, dtype=torch.float64)
    q, posterior, prior = counted(model, x, times), model.posterior(x), counted(model, x, 0 * times)
    truth, bound = model.log_evidence(x), model.elbo(q, x)
    rate, gap = q.kl(prior)[:, 0], q.kl(posterior)[:, 0]
    figure, (left, right) = canvas(1, 2)
    z = torch.linspace(-2.8, 3.4, 300, dtype=torch.float64)
    some = {"prior p(z)": (0, FAINT, "-"), "q(z)": (30, BOUND, "-"), "posterior p(z | x)": (100, TRUTH, "--")}
    for name, (index, color, style) in some.items():
        density = Gaussian(q.mean[index].expand(300, 1), q.cov[index]).log_prob(z[:, None])[:, 0].exp()
        left.plot(z, density, color=color, ls=style, label=name)
        left.fill_between(z, density, color=color, alpha=0.08, lw=0)
    label(left, "q stands between two distributions", "z", "density")
    left.set_ylim(0, 0.98)
    left.legend(loc="upper left")
    right.axhline(truth[0], color=TRUTH, ls="--", label="log p(x)")
    right.plot(times, bound, color=BOUND, label="ELBO")
    right.fill_between(times, bound, truth, color=GAP, alpha=0.22, lw=0)
    right.plot(times, rate, color=RATE, label="KL(q || p(z)), in the ELBO")
    right.plot(times, gap, color=GAP, label="KL(q || p(z | x)), the gap")
    right.set_ylim(-5.2, 2.6)
    label(right, "One grows, the other touches zero", "how many times q counts the observation", "nats")
    right.legend(loc="lower right", ncols=2, columnspacing=1.0, handlelength=1.4)
    numbers = {"log p(x)": nats(truth[0].item())}
    for name, i in {"the q drawn": 30, "q = the posterior": 100}.items():
        numbers[f"{name}: E log p(x \\| z)"] = nats((bound + rate)[i].item())
        numbers[f"{name}: KL(q \\|\\| p(z)), the KL in the ELBO"] = nats(rate[i].item())
        numbers[f"{name}: ELBO"] = nats(bound[i].item())
        numbers[f"{name}: KL(q \\|\\| p(z \\| x)), the gap"] = nats(abs(gap[i].item()))
    numbers["log p(x) − ELBO − gap, largest over the path"] = rounding((truth - bound - gap).abs().max().item())
    return Section(figure, numbers)


def at(theta: float) -> GaussianMixture:
    """Two equal components of unit variance at -theta and theta."""
    where = f64([[-theta], [theta]])
    return GaussianMixture(f64([0.5, 0.5]), where, torch.ones(2, 1, 1).double())


def ascent(x: Tensor, start: float, rounds: int) -> list[tuple[float, float]]:
    """(phi, theta) after every half of an EM step: E makes phi = theta, M maximises over theta under q_phi."""
    points = [(start, start)]
    for _ in range(rounds):
        q = at(points[-1][1]).posterior(x)
        theta = (x[:, 0] * (q[:, 1] - q[:, 0])).mean().item()
        points += [(points[-1][1], theta), (theta, theta)]
    return points


def coordinate_ascent(quick: bool, generator: torch.Generator) -> Section:
    """The bound as a landscape over q and the model, and EM as steps along its two axes."""
    _, x = at(1.6).simulate(300, generator)
    axis = torch.linspace(0.05, 2.4, 30 if quick else 60).tolist()
    posteriors = [at(phi).posterior(x) for phi in axis]
    landscape = torch.stack([torch.stack([at(theta).elbo(q, x).mean() for q in posteriors]) for theta in axis])
    points = ascent(x, 0.3, 12)
    bound = [at(theta).elbo(at(phi).posterior(x), x).mean().item() for phi, theta in points]
    truth = [at(theta).log_evidence(x).mean().item() for _, theta in points]
    figure, (left, right) = canvas(1, 2, height=3.5)
    best = landscape.max().item()
    levels = torch.linspace(best - 1.2, best, 13)
    filled = left.contourf(axis, axis, landscape, levels=levels, cmap="Blues", extend="min")
    figure.colorbar(filled, ax=left, label="ELBO, nats per point", format="%.1f")
    left.plot(axis, axis, color=TRUTH, ls="--", lw=1, label="q is the posterior: gap 0")
    left.plot(*zip(*points, strict=True), "o-", color=RATE, ms=3, label="EM")
    label(left, "EM climbs one axis at a time", "φ: q is the posterior of the model at φ", "θ: the model")
    left.legend(loc="lower right")
    left.grid(visible=False)
    shown = range(9)
    right.plot([i / 2 for i in shown], truth[:9], "o--", ms=3, color=TRUTH, label="log p(x)")
    right.plot([i / 2 for i in shown], bound[:9], "o-", ms=3, color=BOUND, label="ELBO")
    right.fill_between([i / 2 for i in shown], bound[:9], truth[:9], color=GAP, alpha=0.22, lw=0, label="gap")
    label(right, "M opens a gap, E closes it", "EM steps (M-step, then E-step)", "nats per point")
    right.legend(loc="lower right")
    gaps = [t - b for t, b in zip(truth, bound, strict=True)]
    return Section(
        figure,
        {
            "evidence per point at the start": nats(truth[0]),
            f"after {len(points) // 2} steps": nats(truth[-1]),
            "largest gap after an M-step": nats(max(gaps[1::2])),
            "largest gap after an E-step": rounding(max(gaps[::2])),
            "the ELBO ever fell": "no" if min(b - a for a, b in itertools.pairwise(bound)) > -1e-12 else "yes",
        },
    )
