"""What is measured of a run: what it reports beside the exact evidence, and what its weights are worth."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scripts.museum.bugs import Bug
from worldmodel.data.batches import select
from worldmodel.evidence.estimate import Estimate, per_step
from worldmodel.evidence.sandwich import sandwich
from worldmodel.evidence.smc import smc
from worldmodel.models.decoder import CONTINUE
from worldmodel.models.simulation import simulate
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.batch_bound import sampled_bound
from worldmodel.objectives.loss import Objective
from worldmodel.oracles.worlds import exact_evidence
from worldmodel.types import Batch

DRAWS = 8  # of the latents, for what is reported and for the bound
PARTICLES = 64
SIMULATED = 32  # episodes of the sandwich
PREFIXES = (1, 2, 4, 8, 16, 32)  # rows: what a bound reports of the first rows bounds their evidence


class Worth(NamedTuple):
    """What weights are worth on B episodes, in nats, by the library without the bug."""

    bound: Float[Tensor, "B T"]
    flags: Float[Tensor, "B T"]  # log p(c_t | h_t, z_t) of the continue flag, which is a part of the bound
    evidence: Float[Tensor, " B"]  # SMC, a lower bound in the mean
    width: Estimate  # of the sandwich on episodes that the model simulates, nats per step


def reported(model: WorldModel, bug: Bug, episodes: Batch, objective: Objective, seed: int) -> Float[Tensor, "B T"]:
    """What the code with the bug reports of every row, in nats: minus its loss; all bugs have the same noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([bug.claims(model, episodes, objective, generator).double() for _ in range(DRAWS)]).mean(0)


@torch.no_grad()
def worth(model: WorldModel, episodes: Batch, seed: int) -> Worth:
    """Bound, evidence and sandwich of weights, its bound by the noise of `reported`."""
    generator = torch.Generator().manual_seed(seed)
    bounds = [sampled_bound(model, episodes, generator) for _ in range(DRAWS)]
    evidence = smc(model.given(episodes), PARTICLES, generator=generator).log_evidence
    simulated, path = simulate(model, select(episodes, slice(SIMULATED)), generator=generator)
    width = sandwich(model.given(simulated), path, PARTICLES, generator=generator).width
    terms = ([bound.elbo for bound in bounds], [bound.log_likelihood[CONTINUE] for bound in bounds])
    rows = (torch.where(episodes.valid, torch.stack(term).double().mean(0), 0.0) for term in terms)
    return Worth(*rows, evidence, width)


def exact(law: Mapping[str, Any], episodes: Batch) -> Float[Tensor, "B T"]:
    """The exact log evidence of every row given those before it, in nats."""
    return exact_evidence(law, episodes)["total"]


def above_exact(
    claims: Float[Tensor, "B T"], truth: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"]
) -> tuple[float, float, int]:
    """By how much a report exceeds the exact evidence, in nats per step, its standard error, and of how many rows.

    The sum of a bound over the first rows is a bound on their evidence, so every number of first rows is a test; the
    answer is the one with the most standard errors.
    """
    found = [(*per_step((claims - truth)[:, :n].sum(1), valid[:, :n].sum(1)), n) for n in PREFIXES]
    return max(found, key=lambda one: sigmas(one[0], one[1]))


def sigmas(mean: float, error: float) -> float:
    """How many standard errors a mean is from zero; infinitely many of a number without an error."""
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


def compared(
    claims: Float[Tensor, "B T"],
    own: Worth,
    sound_claims: Float[Tensor, "B T"],
    sound: Worth,
    truth: Float[Tensor, "B T"],
    valid: Bool[Tensor, "B T"],
) -> dict[str, list[float]]:
    """A run with a bug beside a sound one on the same episodes: nats per step and their standard errors.

    Args:
        claims, own: what the run with the bug reports, and what its weights are worth.
        sound_claims, sound: the same of the sound run.
        truth: the exact evidence of every row.
        valid: the rows that count.
    Returns:
        loss             the held-out loss above that of the sound run
        above_exact      what is reported above the exact evidence, of the first rows (their number is third)
        off_ledger       what is reported above the weights' own bound, less the same of the sound run
        bound_lost, evidence_lost, flags_lost   what the sound run's weights have that these have not
        sound_loss, sound_bound, sound_evidence, sound_flags   of the sound run, above or below the exact evidence
        bound, evidence  below the exact evidence
        width            of the sandwich
    """
    steps = valid.sum(1)
    totals = {name: x.sum(1) for name, x in (("truth", truth), ("bound", own.bound), ("sound", sound.bound))}
    differences = {
        "loss": (sound_claims - claims).sum(1),
        "off_ledger": (claims - own.bound - sound_claims + sound.bound).sum(1),
        "bound_lost": totals["sound"] - totals["bound"],
        "evidence_lost": sound.evidence - own.evidence,
        "flags_lost": (sound.flags - own.flags).sum(1),
        "sound_loss": totals["truth"] - sound_claims.sum(1),
        "sound_bound": totals["truth"] - totals["sound"],
        "sound_evidence": totals["truth"] - sound.evidence,
        "sound_flags": -sound.flags.sum(1),
        "bound": totals["truth"] - totals["bound"],
        "evidence": totals["truth"] - own.evidence,
    }
    found = {name: list(per_step(x, steps)) for name, x in differences.items()}
    return found | {"above_exact": list(above_exact(claims, truth, valid)), "width": list(own.width)}
