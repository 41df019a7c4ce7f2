"""The gap of a trained world model decomposed: see `evidence.gap`.

It takes two posteriors for one frozen generative model, one that filters and one that smooths. Both start from the
run's own posterior and are trained equally long on the plain bound (`training.posterior_fit`), so that what longer
training of q gains is counted in neither part. The bound of the run's own posterior is reported beside them.
"""

from dataclasses import replace

import torch

from worldmodel.checks import require_positive
from worldmodel.data.batches import at_once, in_parts, select, trimmed
from worldmodel.evaluation.certificates import RowsFrom, certify
from worldmodel.evaluation.proposals import GUIDED, PILOT_PARTICLES, certifying, choose_proposal
from worldmodel.evidence.estimate import LEAST_ESS, Certificate, per_step
from worldmodel.evidence.gap import DRAWS, GapDecomposition, decompose_gap, join_gaps
from worldmodel.evidence.iwae import mean_elbo
from worldmodel.evidence.refinement import SAMPLES
from worldmodel.evidence.smc import smc
from worldmodel.models.world_model import WorldModel
from worldmodel.types import Batch

SIMULATED = 8  # episodes of the sandwich, at most


def measure_gap(
    model: WorldModel,
    filtering: WorldModel,
    smoothing: WorldModel,
    episodes: Batch,
    *,
    particles: int,
    runs: int,
    steps: int,
    generator: torch.Generator,
    pilot: Batch | None = None,
) -> GapDecomposition:
    """Decompose the gap of whole episodes.

    Args:
        model: as it was trained.
        filtering, smoothing: the same generative model with either posterior, as `fit_posterior` makes them.
        episodes: two or more, whole from their reset, padded.
        particles, runs: of the estimate of the log evidence, by SMC.
        steps: of the refinement of the smoothing posterior.
        generator: source of all draws, on the model's device.
        pilot: other episodes, that the proposal of SMC is chosen on, where the rows themselves cannot say (see
            `proposals.certifying`); without them it is the filtering posterior.
    Returns:
        The parts, with the certificate of the log evidence.
    Raises:
        ValueError: if a number is not positive.
    """
    require_positive(particles=particles, runs=runs, steps=steps)
    proposal = certifying(filtering, GUIDED, from_reset=True)
    if proposal is GUIDED and pilot is not None:
        proposal = choose_proposal(filtering, pilot, min(particles, PILOT_PARTICLES), generator)
    found, few = [], 0.0
    T = episodes.valid.shape[1]
    numbers = max(SAMPLES, particles // T) * T * (model.spec.width + model.carried_numbers)  # of one episode
    for part in in_parts(episodes, at_once(numbers, gradients=True)):
        given = filtering.given(part)
        proposed = proposal.of(given, generator)
        estimates = [smc(proposed, particles, generator=generator, **proposal.settings(particles)) for _ in range(runs)]
        few += (
            sum(float(((run.ess < LEAST_ESS) & part.valid)[:, proposal.ahead - 1 :].sum()) for run in estimates) / runs
        )
        log_evidence = torch.stack([run.log_evidence for run in estimates]).mean(0)
        taken = decompose_gap(given, smoothing.given(part), log_evidence, steps=steps, generator=generator)
        found.append(replace(taken, trained=mean_elbo(model.given(part), DRAWS, generator=generator)))
    joined = join_gaps(found)
    template = RowsFrom(trimmed(select(episodes, slice(SIMULATED))))
    width = certify(filtering, template, particles, proposal, generator)[0].width
    gap = per_step(joined.log_evidence - joined.filtering, joined.steps)
    return replace(joined, certificate=Certificate(gap, width, few / int(episodes.valid.sum())))
