"""Estimates of the evidence: importance weighting and SMC, an estimate that is wrong, and the sandwich."""

from typing import NamedTuple

import torch
from torch import Tensor

from scripts.tour.chains import ring
from scripts.tour.page import BOUND, FAINT, IWAE, SMC, TRUTH, WRONG, Section, canvas, label, nats
from worldmodel.evidence.iwae import iwae
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.smc import move, smc
from worldmodel.objectives.elbo import sequence_elbo
from worldmodel.oracles.hmm import HiddenMarkovSequence


class World(NamedTuple):
    """Rows simulated from the hidden Markov model of `chains`, with a q."""

    sequence: HiddenMarkovSequence
    path: Tensor  # [B, T, K] the states behind the rows
    truth: Tensor  # [B, T] log p(x_t | x_<t)


def walks(batch: int, length: int, generator: torch.Generator, *, ahead: float = 0.0) -> World:
    """B sequences of T rows. q is p(z_t | z_{t-1}, x_t); or, where `ahead` is more than 0, p(z_t | z_{t-1}, x_t:T) with
    what the rows say raised to that power, so that at 1 it is the exact posterior."""
    chain, emissions = ring()
    path = chain.simulate(torch.ones(batch, length, 1, dtype=torch.float64), generator)
    log_emission = emissions.log_prob(emissions.sample(path, generator))["colour"]
    q = chain.tilted(ahead * (log_emission + chain.backward(log_emission)) if ahead else log_emission)
    return World(chain.given({"colour": log_emission}, proposal=q), path, chain.log_evidence(log_emission))


def tightening(quick: bool, generator: torch.Generator) -> Section:
    """ELBO, IWAE and SMC as the particles grow; their errors as the rows do."""
    counts = [1, 4, 16] if quick else [1, 4, 16, 64, 256]
    world = walks(20 if quick else 150, 32, generator)
    truth = world.truth.sum(1)
    below = {
        "IWAE": [(iwae(world.sequence, n, generator=generator).log_evidence - truth).mean() for n in counts],
        "SMC": [(smc(world.sequence, n, generator=generator).log_evidence - truth).mean() for n in counts],
    }
    elbo = (sequence_elbo(world.sequence, 32, generator=generator).elbo.sum(-1).mean(0) - truth).mean().item()
    figure, (left, middle, right) = canvas(1, 3, height=3.3)
    left.axhline(0, color=TRUTH, ls="--", label="log p(x)")
    left.axhline(elbo, color=BOUND, label="ELBO")
    for (name, values), color in zip(below.items(), (IWAE, SMC), strict=True):
        left.plot(counts, values, "o-", ms=3, color=color, label=name)
    left.set_xscale("log")
    label(left, "32 rows: bounds rise", "particles N", "nats, less the truth")
    left.legend(loc="center right")
    long, particles = walks(60 if quick else 200, 64 if quick else 256, generator), 64
    steps = torch.arange(1, long.truth.shape[1] + 1)
    errors = {}
    for name, threshold, color in (("IWAE", 0.0, IWAE), ("SMC", 0.5, SMC)):
        so_far = smc(long.sequence, particles, generator=generator, threshold=threshold).so_far - long.truth.cumsum(1)
        errors[name] = so_far
        middle.plot(steps, so_far.var(0), color=color, label=name)
        right.plot(steps, -so_far.mean(0), color=color, label=name)
    slope = errors["SMC"].var(0)[-1] / len(steps)
    middle.plot(steps, slope * steps, color=FAINT, ls=":", label="a straight line")
    middle.set(xscale="log", yscale="log", xlim=(4, None), ylim=(5e-3, None))
    right.set(xscale="log", yscale="log", xlim=(4, None), ylim=(5e-3, None))
    label(middle, f"Variance of log p̂, N = {particles}", "rows T", "nats²")
    label(right, "Distance of its mean", "rows T", "nats below the truth")
    middle.legend(loc="upper left")
    right.legend(loc="upper left")
    quarter = len(steps) // 4
    return Section(
        figure,
        {
            "32 rows: ELBO − truth": nats(elbo, 2),
            f"IWAE − truth, {counts[-1]} samples": nats(below["IWAE"][-1].item(), 3),
            f"SMC − truth, {counts[-1]} particles": nats(below["SMC"][-1].item(), 3),
            **{
                f"{name}, {particles} particles: variance of log p̂ at {rows} rows, nats²": nats(
                    values.var(0)[rows - 1].item(), 2
                )
                for name, values in errors.items()
                for rows in (quarter, len(steps))
            },
            **{
                f"{name}: truth − mean at {len(steps)} rows": nats(-values.mean(0)[-1].item(), 2)
                for name, values in errors.items()
            },
        },
    )


def averaged_per_step(sequence: HiddenMarkovSequence, samples: int, generator: torch.Generator) -> Tensor:
    """sum_t log mean_i w_t^i [B] of independent paths: a wrong estimate, which the article warns of."""
    carry, total = sequence.initial(samples), torch.zeros(len(sequence.valid), dtype=torch.float64)
    for t in range(sequence.valid.shape[1]):
        carry, _, log_weight = move(sequence, carry, t, 0.0, generator)
        total = total + log_weight.logsumexp(0) - torch.tensor(samples).log()
    return total


def wrong(quick: bool, generator: torch.Generator) -> Section:
    """Averaging the weights of each step separately: an estimate that exceeds the truth."""
    counts = [1, 4, 16, 64] if quick else [1, 2, 4, 8, 16, 32, 64, 128, 256]
    world = walks(100, 32, generator, ahead=0.5)
    truth = world.truth.sum(1)
    curves = {
        "averaged at every step": lambda n: averaged_per_step(world.sequence, n, generator),
        "IWAE: summed over time first": lambda n: iwae(world.sequence, n, generator=generator).log_evidence,
        "SMC": lambda n: smc(world.sequence, n, generator=generator).log_evidence,
    }
    above = {name: torch.stack([estimate(n) - truth for n in counts]) for name, estimate in curves.items()}
    figure, axis = canvas()
    axis.axhline(0, color=TRUTH, ls="--", label="log p(x)")
    bound = (sequence_elbo(world.sequence, 32, generator=generator).elbo.sum(-1).mean(0) - truth).mean().item()
    axis.axhline(bound, color=BOUND, label="ELBO")
    for (name, values), color in zip(above.items(), (WRONG, IWAE, SMC), strict=True):
        mean, error = values.mean(1), values.std(1) / values.shape[1] ** 0.5
        axis.plot(counts, mean, "o-", ms=3, color=color, label=name)
        axis.fill_between(counts, mean - 3 * error, mean + 3 * error, color=color, alpha=0.15, lw=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(n) for n in counts])
    title = "A 'bound' that exceeds what it bounds (32 rows; bands are 3 standard errors)"
    label(axis, title, "samples N", "nats above the truth")
    axis.set_ylim(-7, 8.5)
    axis.legend(loc="upper left", ncols=3)
    numbers = {
        f"{name}, {counts[-1]} samples, less the truth": nats(values[-1].mean().item(), 2)
        + f" ± {(values[-1].std() / values.shape[1] ** 0.5).item():.2f}"
        for name, values in above.items()
    }
    numbers["ELBO less the truth"] = nats(bound, 2)
    return Section(figure, numbers)


def between(quick: bool, generator: torch.Generator) -> Section:
    """SMC below and conditional SMC above the truth, on rows that the model simulated."""
    counts = [2, 8, 32] if quick else [2, 4, 8, 16, 32, 64, 128, 256]
    world = walks(20 if quick else 200, 32, generator)
    truth = world.truth.sum(1)
    bounds = [sandwich(world.sequence, world.path, n, runs=2, generator=generator) for n in counts]
    lower = torch.stack([b.lower.mean(0) - truth for b in bounds]).mean(1) / 32
    upper = torch.stack([b.upper.mean(0) - truth for b in bounds]).mean(1) / 32
    figure, (left, right) = canvas(1, 2)
    left.axhline(0, color=TRUTH, ls="--", label="log p(x)")
    left.plot(counts, upper, "v--", ms=4, color=SMC, label="conditional SMC, from above")
    left.plot(counts, lower, "^-", ms=4, color=SMC, label="SMC, from below")
    left.fill_between(counts, lower, upper, color=FAINT, alpha=0.15, lw=0)
    left.set_xscale("log", base=2)
    label(left, "The truth is between", "particles N", "nats per row, less the truth")
    left.legend(loc="lower right")
    widths = [b.width for b in bounds]
    right.errorbar(counts, [w.mean for w in widths], [w.error for w in widths], fmt="o-", ms=4, capsize=2, color=BOUND)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    label(right, "The width is the certificate", "particles N", "nats per row")
    numbers = {}
    for i in (0, len(counts) // 2, -1):
        numbers[f"{counts[i]} particles: lower − truth, nats per row"] = nats(lower[i].item())
        numbers[f"{counts[i]} particles: upper − truth"] = nats(upper[i].item())
        numbers[f"{counts[i]} particles: width"] = f"{nats(widths[i].mean)} ± {widths[i].error:.4f}"
    return Section(figure, numbers)
