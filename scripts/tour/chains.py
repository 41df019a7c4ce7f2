"""Models of many rows with exact evidence: a hidden Markov model, a linear-Gaussian one, and what filters lose."""

import itertools

import torch
from torch import Tensor

from scripts.tour.page import BOUND, FAINT, GAP, RATE, TRUTH, Section, canvas, f64, label, nats, rounding
from worldmodel.oracles.emissions import Emissions
from worldmodel.oracles.filtering_gap import best_filter, innovations, physical
from worldmodel.oracles.hmm import HiddenMarkov
from worldmodel.oracles.linear_gaussian import LinearGaussian
from worldmodel.oracles.linear_gaussian_em import m_step
from worldmodel.oracles.markov_gaussian import MarkovGaussian


def ring(states: int = 5) -> tuple[HiddenMarkov, Emissions]:
    """A walk round a ring that mostly steps forward, seen through three colours: two share each, one is alone."""
    eye = torch.eye(states, dtype=torch.float64)
    step = 0.7 * eye.roll(1, 1) + 0.2 * eye + 0.1 * eye.roll(-1, 1)
    colours = torch.nn.functional.one_hot(torch.arange(states) % 3, 3).double()
    return HiddenMarkov(f64([1 / states] * states), step[None]), Emissions({"colour": 0.85 * colours + 0.05})


def enumerated(chain: HiddenMarkov, log_emission: Tensor) -> float:
    """log p(x_1:T) of one sequence from all K^T paths."""
    T, K = log_emission.shape[1:]
    paths = torch.tensor(list(itertools.product(range(K), repeat=T)))
    log_p = chain.initial.log()[paths[:, 0]] + log_emission[0, range(T), paths].sum(1)
    log_p = log_p + chain.transition[0].log()[paths[:, :-1], paths[:, 1:]].sum(1)
    return log_p.logsumexp(0).item()


def hmm(quick: bool, generator: torch.Generator) -> Section:
    """The forward algorithm, the exact posterior, and a q that does not look ahead."""
    chain, emissions = ring()
    nothing = torch.ones(1, 48, 1, dtype=torch.float64)
    path = chain.simulate(nothing, generator)
    log_emission = emissions.log_prob(emissions.sample(path, generator))["colour"]
    truth, exact = chain.log_evidence(log_emission), chain.posterior(log_emission)
    greedy = chain.tilted(log_emission)  # p(z_t | z_{t-1}, x_t)
    bound = chain.elbo(greedy, log_emission)
    figure, (top, bottom) = canvas(2, 1, height=4.4, sharex=True, height_ratios=[1, 1.15])
    rows = range(1, 49)
    smoothed = chain.smooth(log_emission)[0].T.numpy()
    image = top.imshow(smoothed, aspect="auto", cmap="Greys", vmin=0, vmax=1, extent=(0.5, 48.5, 4.5, -0.5))
    top.plot(rows, path[0].argmax(-1), ".", color=RATE, ms=6, label="the state that was")
    figure.colorbar(image, ax=top, label="probability", pad=0.01)
    label(top, "p(z_t | x_1:T); dots: the states that made the colours", "", "state")
    top.grid(visible=False)
    cumulated = [x[0].cumsum(0) for x in (truth, bound, chain.elbo(exact, log_emission))]
    bottom.plot(rows, cumulated[0], "--", color=TRUTH, label="log p(x_1:t), forward algorithm")
    bottom.plot(rows, cumulated[1], color=BOUND, label="ELBO of p(z_t | z_t−1, x_t)")
    bottom.fill_between(rows, cumulated[1], cumulated[0], color=GAP, alpha=0.22, lw=0, label="gap so far")
    label(bottom, "Every row that q does not foresee costs", "row t", "nats")
    bottom.legend(loc="lower left")
    short = log_emission[:, :8]
    return Section(
        figure,
        {
            "log p(x_1:48)": nats(truth.sum().item()),
            "ELBO, q = p(z_t \\| z_t−1, x_t)": nats(bound.sum().item()),
            "its KL(q(z_1:T) \\|\\| p(z_1:T \\| x_1:T))": nats((truth - bound).sum().item()),
            "gap with q = the exact posterior": rounding((truth.sum() - cumulated[2][-1]).item()),
            "8 rows: forward − all 390,625 paths": rounding(
                chain.log_evidence(short).sum().item() - enumerated(chain, short)
            ),
        },
    )


def tracked(noise: float = 0.1, seen: float = 1.0) -> LinearGaussian:
    """A body with position and velocity, pushed at random (white acceleration); its position is seen with noise."""
    return LinearGaussian.create(
        A=f64([[1.0, 1.0], [0.0, 1.0]]),
        C=f64([[1.0, 0.0]]),
        Q=noise * f64([[1 / 3, 1 / 2], [1 / 2, 1.0]]),
        R=f64([[seen]]),
        m=f64([0.0, 0.0]),
        P=f64([[1.0, 0.0], [0.0, 1.0]]),
    )


def greedy_filter(model: LinearGaussian, x: Tensor) -> MarkovGaussian:
    """q = p(z_t | z_{t-1}, x_t)."""
    none = torch.zeros(*x.shape[:2], 0, dtype=torch.float64)
    return model.tilted(*model.local(x), none)


def linear_gaussian(quick: bool, generator: torch.Generator) -> Section:
    """Kalman filter and smoother with a stretch of rows unseen, the bound of three q's, and EM."""
    model = tracked()
    path, x = model.simulate(torch.zeros(1, 60, 0).double(), generator)
    x[:, 26:36] = torch.nan
    truth, exact = model.log_evidence(x).sum().item(), model.posterior(x)
    qs = {"p(z_t | z_t−1, x_t)": greedy_filter(model, x), "best filter": best_filter(model, x), "smoother": exact}
    bounds = {name: model.elbo(q, x).sum().item() for name, q in qs.items()}
    figure, (left, right) = canvas(1, 2, width_ratios=[1.6, 1])
    rows = range(1, 61)
    for name, belief, color in (
        ("filter", model.filter(x).filtered, FAINT),
        ("smoother", model.smooth(x), BOUND),
    ):
        mean, sigma = belief.mean[0, :, 0], belief.cov[0, :, 0, 0].sqrt()
        left.fill_between(rows, mean - 2 * sigma, mean + 2 * sigma, color=color, alpha=0.25, lw=0)
        left.plot(rows, mean, color=color, label=f"{name}, ± 2 σ")
    left.plot(rows, path[0, :, 0], color=TRUTH, lw=1, ls="--", label="position")
    left.plot(rows, x[0, :, 0], ".", color=RATE, ms=5, label="seen, with noise")
    label(left, "Ten rows unseen", "row t", "position")
    left.legend(loc="best", ncols=2)
    gaps = [truth - bound for bound in bounds.values()]
    right.barh(list(bounds), gaps, color=[GAP, GAP, GAP], alpha=0.8, height=0.5)
    for place, gap in enumerate(gaps):
        right.text(max(gap, 0) + max(gaps) * 0.015, place, nats(abs(gap), 1), va="center", fontsize=8.5)
    right.set_xlim(0, max(gaps) * 1.2)
    right.invert_yaxis()
    label(right, "Gap of the bound over the 60 rows", "nats", "")
    right.grid(visible=False, axis="y")
    rises = em_rises(model, generator)
    return Section(
        figure,
        {
            "log p(x_1:60), Kalman filter": nats(truth, 3),
            **{f"ELBO, {name}".replace("|", "\\|"): nats(bound, 3) for name, bound in bounds.items()},
            "gap of the smoother": rounding(truth - bounds["smoother"]),
            "EM from a wrong model, 20 steps: the evidence ever fell": "no" if min(rises) >= 0 else "yes",
            "EM: rise of the evidence, nats per row": nats(sum(rises), 3),
        },
    )


def em_rises(model: LinearGaussian, generator: torch.Generator, steps: int = 20) -> list[float]:
    """By how much the evidence rises in every EM step, nats per row, from a model with the wrong numbers."""
    _, x = model.simulate(torch.zeros(20, 40, 0).double(), generator)
    guess = LinearGaussian.create(
        A=f64([[1.0, 0.5], [0.0, 1.0]]), C=model.C, Q=torch.eye(2).double(), R=model.R, m=model.m, P=model.P
    )
    evidence = []
    for _ in range(steps + 1):
        evidence.append(guess.log_evidence(x).mean().item())
        guess = m_step(guess, guess.posterior(x), x)
    return [b - a for a, b in itertools.pairwise(evidence)]


def filtering(quick: bool, generator: torch.Generator) -> Section:
    """The closed form of the best filter's gap against exact bounds of simulated rows, and how to escape it."""
    ratios = torch.logspace(-3, 2, 11 if quick else 31).tolist()
    closed = [physical(tracked(r)).best_filtering_gap() for r in ratios]
    some = [0.01, 0.1, 1.0, 10.0]
    measured = [simulated_gap(tracked(r), 20 if quick else 100, generator) for r in some]
    model = tracked(0.1)
    shares = torch.logspace(-2, 0, 9 if quick else 60).tolist()
    forms = [innovations(model, share) for share in shares]
    figure, (left, right) = canvas(1, 2)
    left.plot(ratios, closed, color=GAP, label="best filter, closed form")
    left.errorbar(some, *zip(*measured, strict=True), fmt="o", ms=4, color=BOUND, capsize=3, label="simulated rows")
    left.axhline(0, color=TRUTH, ls="--", label="smoother")
    left.set(xscale="log", ylim=(-0.08, max(closed) * 1.3))
    label(left, "Physical latents: filters lose nats", "noise of the motion / noise of the sensor", "gap, nats per row")
    left.legend(loc="upper left", ncols=2, columnspacing=1.0)
    right.plot(shares, [form.best_filtering_gap() for form in forms], color=GAP, label="gap of the best filter")
    right.plot(shares, [form.bound(form.best_filter()).rate for form in forms], color=RATE, label="rate E KL(q || p)")
    right.axhline(physical(model).best_filtering_gap(), color=FAINT, ls=":", label="gap, physical latents")
    right.set_xscale("log")
    label(right, "Latents that hold noise escape", "share of the sensor's noise left to the decoder", "nats per row")
    right.legend(loc="upper right")
    tenth = innovations(model, 0.1)
    value, error = measured[1]
    return Section(
        figure,
        {
            "ratio 0.1: gap of the best filter per row, closed form": nats(physical(model).best_filtering_gap()),
            "the same from exact bounds of simulated rows": f"{nats(value, 3)} ± {error:.3f}",
            "gap of p(z_t \\| z_t−1, x_t)": nats(physical(model).bound(physical(model).greedy()).gap, 2),
            "latents that leave the decoder a tenth of the noise: gap": nats(tenth.best_filtering_gap()),
            "their rate": nats(tenth.bound(tenth.best_filter()).rate, 2),
            "rate of the physical latents": nats(physical(model).bound(physical(model).best_filter()).rate, 2),
        },
    )


def simulated_gap(model: LinearGaussian, sequences: int, generator: torch.Generator) -> tuple[float, float]:
    """Gap of the best filter in nats per row, away from both ends, from exact bounds; its standard error."""
    _, x = model.simulate(torch.zeros(sequences, 120, 0).double(), generator)
    gap = model.log_evidence(x) - model.elbo(best_filter(model, x), x)
    middle = gap[:, 30:90].mean(1)
    return middle.mean().item(), (middle.std() / sequences**0.5).item()
