"""Models of one row: a mixture, factor analysis with probabilistic PCA, and a variational autoencoder."""

import itertools
import math

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from scripts.tour.page import BOUND, FAINT, GAP, RATE, TRUTH, Section, canvas, f64, label, nats, rounding
from worldmodel.data.batches import single_rows
from worldmodel.evidence.iwae import iwae
from worldmodel.models.vae import VAE
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.oracles.factor_analysis import FactorAnalysis, probabilistic_pca
from worldmodel.oracles.mixture import GaussianMixture
from worldmodel.types import State

CLUSTERS = (BOUND, RATE, "#5b9a5b")


def mixture(quick: bool, generator: torch.Generator) -> Section:
    """EM of three components in the plane."""
    cov = f64([[[0.5, 0.3], [0.3, 0.4]], [[0.3, -0.1], [-0.1, 0.6]], [[0.8, 0.0], [0.0, 0.15]]])
    where = f64([[-1.6, 0.2], [1.2, 1.2], [1.0, -1.6]])
    maker = GaussianMixture(f64([0.3, 0.3, 0.4]), where, cov)
    _, x = maker.simulate(400, generator)
    circles = 1.5 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    start = f64([[-0.5, -0.3], [0.4, 0.3], [0.0, -0.8]])
    models, bounds, truths = [GaussianMixture(f64([1 / 3] * 3), start, circles)], [], []
    q = torch.full((len(x), 3), 1 / 3, dtype=torch.float64)
    for _ in range(40):
        truths += [models[-1].log_evidence(x).mean()]
        bounds += [models[-1].elbo(q, x).mean()]  # before the E-step, and after it
        q = models[-1].posterior(x)
        truths, bounds = [*truths, truths[-1]], [*bounds, models[-1].elbo(q, x).mean()]
        models.append(models[-1].m_step(q, x))
    figure, (left, right) = canvas(1, 2, height=3.4)
    colours = f64([to_rgb(color) for color in CLUSTERS])
    left.scatter(*x.T, c=(models[-1].posterior(x) @ colours).clamp(0, 1).numpy(), s=6, alpha=0.7, lw=0)
    for k in range(3):
        draw_ellipse(left, models[0].mean[k], models[0].cov[k], color=FAINT, ls=":", lw=1.2)
        draw_ellipse(left, models[-1].mean[k], models[-1].cov[k], color=CLUSTERS[k])
    label(left, "Coloured by p(z | x); dotted: the start", "x₁", "x₂")
    left.set_aspect("equal", adjustable="datalim")
    steps = [i / 2 for i in range(len(bounds))]
    draw_steps(right, steps[: 2 * 12], bounds, truths)
    right.axhline(maker.log_evidence(x).mean(), color=FAINT, lw=1, label="the model that made the data")
    label(right, "The bound climbs in half-steps", "EM steps (E-step at each half)", "nats per point")
    right.legend(loc="lower right")
    closed = (torch.stack(truths) - torch.stack(bounds))[1::2]
    return Section(
        figure,
        {
            "evidence per point at the start": nats(truths[0].item()),
            "after 40 EM steps": nats(truths[-1].item()),
            "of the model that made the data": nats(maker.log_evidence(x).mean().item()),
            "largest gap after an E-step": rounding(closed.max().item()),
            "the evidence ever fell": "no" if torch.stack(truths).diff().min() > -1e-12 else "yes",
        },
    )


def draw_ellipse(axis: Axes, mean: Tensor, cov: Tensor, **style) -> None:
    """The two-sigma ellipse of a Gaussian in the plane."""
    turn = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)
    circle = torch.stack([turn.cos(), turn.sin()])
    axis.plot(*(mean[:, None] + 2 * torch.linalg.cholesky(cov) @ circle), **style)


def draw_steps(axis: Axes, steps: list[float], bounds: list[Tensor], truths: list[Tensor]) -> None:
    """Evidence and bound over half-steps of EM, the gap between them shaded."""
    truth, bound = torch.stack(truths[: len(steps)]), torch.stack(bounds[: len(steps)])
    axis.plot(steps, truth, "--", color=TRUTH, label="log p(x)")
    axis.plot(steps, bound, "o-", ms=2.5, color=BOUND, label="ELBO")
    axis.fill_between(steps, bound, truth, color=GAP, alpha=0.22, lw=0, label="gap")


def factor_analysis(quick: bool, generator: torch.Generator) -> Section:
    """EM of probabilistic PCA to its closed-form maximum, and of factor analysis, which has more freedom, beyond it."""
    noise = f64([0.1, 0.2, 0.4, 0.7, 1.0, 1.5])
    W = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    maker = FactorAnalysis(W, torch.zeros_like(noise), noise)
    _, x = maker.simulate(500, generator)
    rounds = 60
    start = FactorAnalysis(0.3 * W.flip(0), x.mean(0), x.var(0).mean().repeat(6))
    curves, gaps, last = {}, [], {}
    for name, isotropic in (("probabilistic PCA", True), ("factor analysis", False)):
        model, curve = start, []
        for _ in range(rounds):
            q = model.posterior(x)
            curve.append(model.log_evidence(x).mean().item())
            gaps.append((model.log_evidence(x) - model.elbo(q, x)).abs().max().item())
            model = model.m_step(q, x, isotropic=isotropic)
        curves[name], last[name] = curve, model
    peak = probabilistic_pca(x, 2).log_evidence(x).mean().item()
    figure, (left, right) = canvas(1, 2)
    left.axhline(peak, color=TRUTH, ls="--", label="PCA's maximum, from eigenvalues")
    for (name, curve), color in zip(curves.items(), (RATE, BOUND), strict=True):
        left.plot(curve, color=color, label=f"EM: {name}")
    low = min(curves["probabilistic PCA"][1:])
    left.set_ylim(low - 0.05, max(curves["factor analysis"]) + 0.08)
    label(left, "EM reaches the closed form", "EM steps", "log p(x), nats per point")
    left.legend(loc="lower right")
    place = torch.arange(6)
    for offset, (name, values, color) in enumerate(
        [
            ("truth", noise, TRUTH),
            ("factor analysis", last["factor analysis"].noise, BOUND),
            ("probabilistic PCA", last["probabilistic PCA"].noise, RATE),
        ]
    ):
        right.bar((place + 0.27 * (offset - 1)).numpy(), values.numpy(), 0.25, color=color, alpha=0.85, label=name)
    right.set_xticks(place.tolist(), [f"x{i}" for i in "₁₂₃₄₅₆"])
    label(right, "PCA has one noise, factor analysis six", "entry of x", "noise variance, units of x²")
    right.legend(loc="upper left")
    fall = min(min(b - a for a, b in itertools.pairwise(c)) for c in curves.values())
    return Section(
        figure,
        {
            "probabilistic PCA, closed form": nats(peak),
            f"probabilistic PCA, {rounds} EM steps": nats(curves["probabilistic PCA"][-1]),
            f"factor analysis, {rounds} EM steps": nats(curves["factor analysis"][-1]),
            "the model that made the data": nats(maker.log_evidence(x).mean().item()),
            "largest gap after an E-step": rounding(max(gaps)),
            "the evidence ever fell": "no" if fall > -1e-12 else "yes",
        },
    )


def horseshoe(count: int, generator: torch.Generator) -> Tensor:
    """Noisy points on half a circle, [B, 2]."""
    turn = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return torch.stack([turn.cos(), turn.sin()], -1) + 0.15 * noise


@torch.no_grad()
def quadrature(model: VAE, x: Tensor, points: int = 801) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) [B] by a sum over a grid of the one latent; that grid [G], and log p(x, z) on it [G, B]."""
    z = torch.linspace(-7, 7, points, dtype=torch.float64)
    sequence = model.given(x)
    cells = z[:, None, None].expand(-1, len(x), 1)
    _, _, prior = sequence.step(sequence.initial(points), 0)
    joint = sequence.likelihood(State(cells[..., :0], cells), 0)["x"] + prior.log_prob(cells).sum(-1)
    return joint.logsumexp(0) + (z[1] - z[0]).log(), z, joint


def train_vae(x: Tensor, heldout: Tensor, updates: int, generator: torch.Generator) -> tuple[VAE, list]:
    """A VAE of one latent by gradient steps on the bound; rows of (update, evidence, ELBO) on held-out points."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = VAE(2, latents=1, hidden=48, layers=2).double()
    optimizer, rows = torch.optim.Adam(model.parameters(), 4e-3), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, 1e-4)
    for update in range(updates + 1):
        if update % (updates // 20) == 0:
            bound = sequence_elbo(model.given(heldout), 32, generator=generator).elbo.mean().item()
            rows.append((update, quadrature(model, heldout)[0].mean().item(), bound))
        some = single_rows(x[torch.randint(len(x), (128,), generator=generator)])
        bound = sampled_bound(model, some, generator)
        optimizer.zero_grad()
        (-bound.per_step()["elbo"]).backward()
        optimizer.step()
        schedule.step()
    return model, rows


def vae(quick: bool, generator: torch.Generator) -> Section:
    """The bound of a VAE beside its exact evidence, which one latent allows, over training."""
    x, heldout = horseshoe(2000, generator), horseshoe(20 if quick else 200, generator)
    model, rows = train_vae(x, heldout, 100 if quick else 800, generator)
    update, truth, bound = (torch.tensor(column) for column in zip(*rows, strict=True))
    evidence, z, joint = quadrature(model, heldout)
    by_point = evidence - sequence_elbo(model.given(heldout), 1000, generator=generator).elbo.mean((0, 2))
    worst = int(by_point.argmax())
    figure, (left, middle, right) = canvas(1, 3, width_ratios=[1, 1, 1.25])
    left.scatter(*heldout.T, s=5, color=FAINT, alpha=0.6, lw=0)
    with torch.no_grad():
        curve = model.likelihood(torch.linspace(-2.5, 2.5, 300, dtype=torch.float64)[:, None]).mean
        q = model.posterior(heldout[worst])
    left.plot(*curve.T, color=RATE)
    left.plot(*heldout[worst], "*", ms=11, color=GAP)
    left.set_aspect("equal", adjustable="datalim")
    label(left, "E p(x | z), −2.5 < z < 2.5", "x₁", "x₂")
    middle.plot(z, (joint - evidence)[:, worst].exp(), color=TRUTH, ls="--", label="p(z | x)")
    middle.plot(z, q.log_prob(z[:, None])[:, 0].exp(), color=BOUND, label="q(z | x)")
    middle.set_xlim(q.mean.item() - 1.5, q.mean.item() + 1.5)
    label(middle, "At the star, the widest gap", "z", "density")
    middle.legend(loc="upper left")
    right.plot(update, truth, "--", color=TRUTH, label="log p(x), exact")
    right.plot(update, bound, color=BOUND, label="ELBO")
    right.fill_between(update, bound, truth, color=GAP, alpha=0.22, lw=0, label="gap")
    label(right, "Both KLs fall at once", "gradient steps", "nats per point, held out")
    right.set_ylim(max(-2.5, bound.min().item()), truth.max().item() + 0.15)
    right.legend(loc="lower right")
    weighted = iwae(model.given(heldout), 64, generator=generator).log_evidence.mean().item()
    return Section(
        figure,
        {
            "log p(x), exact by quadrature": nats(truth[-1].item(), 3),
            "ELBO": nats(truth[-1].item() - by_point.mean().item(), 3),
            "gap: mean": nats(by_point.mean().item(), 3),
            "gap: widest of 200 points, the star": nats(by_point[worst].item(), 3),
            "importance-weighted bound, 64 samples": nats(weighted, 3),
        },
    )
