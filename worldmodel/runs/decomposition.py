"""Decompose the evidence of a run: its gap, and its rate.

run = open_run("runs/pendulum-20260101-120000")
gap = gap_decomposition(run)
first, every, exact = rate_decomposition(run)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from worldmodel import build
from worldmodel.checks import require_positive
from worldmodel.data.replay import Replay
from worldmodel.evaluation.gap import measure_gap
from worldmodel.evaluation.rate import every_row, first_rows
from worldmodel.evidence.estimate import RUNS
from worldmodel.evidence.gap import GapDecomposition
from worldmodel.evidence.rate import Rate
from worldmodel.evidence.refinement import STEPS
from worldmodel.models.posteriors import Kind
from worldmodel.models.world_model import WorldModel
from worldmodel.oracles.worlds import can_resample, resample_rows
from worldmodel.runs.evidence import pilot_episodes
from worldmodel.runs.folder import stored_data
from worldmodel.runs.run import Run
from worldmodel.seeding import Stream, make_generator
from worldmodel.training.posterior_fit import fit_posterior
from worldmodel.types import Batch


class RateDecomposition(NamedTuple):
    """The parts of the rate on held-out episodes."""

    first: Rate  # of first rows, among the episodes themselves
    every: Rate | None  # of all rows; none where the posterior smooths, since it reads later rows too
    exact: bool  # whether `every` is by the environment's exact law, rather than the model's own prediction


def gap_decomposition(
    run: Run,
    *,
    updates: int = 1000,
    steps: int = STEPS,
    particles: int = 128,
    runs: int = RUNS,
    episodes: int | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda words: None,
    at: Callable[[str], None] = lambda words: None,
) -> GapDecomposition:
    """Split the gap of a run's held-out episodes into filtering, amortisation and family: see `evaluation.gap`.

    Args:
        run: the run.
        updates: gradient steps for each of two posteriors, on batches such as the run was trained on.
        steps: gradient steps that refine the posterior of an episode.
        particles: of the estimate of the evidence.
        runs: independent repetitions of that estimate.
        episodes: held-out episodes; by default as many as have 4,000 steps together (400 of images), two at least.
        seed: of all draws.
        log: told what is being done.
        at: told how far it is.
    Raises:
        ValueError: if a number is out of range, or there is a single held-out episode.
        FileNotFoundError: if the run's folder has no replay (any more).
    """
    require_positive(updates=updates, steps=steps, particles=particles, runs=runs)
    batch, replay = run.scored(episodes), run.config.replay
    noise = make_generator(seed, stream=Stream.EVIDENCE, device=run.model.device)

    def fitted(kind: Kind) -> WorldModel:
        log(f"{updates} updates of a {kind} posterior against the frozen model")
        choice = make_generator(seed, stream=Stream.SAMPLING)  # so that both see the same batches

        def batches() -> Batch:
            size, length = replay.batch_size, replay.sequence_length
            drawn = rows.sample(size, length, choice, burn_in=replay.burn_in, restart=replay.restart)
            return drawn.to(run.model.device)

        rate = run.config.optimizer.learning_rate
        return fit_posterior(
            run.model, kind, batches, updates=updates, learning_rate=rate, generator=noise, seed=seed, at=at
        )

    with Replay.open(stored_data(run.config, run.folder)[0], read_only=True) as rows:
        filtering, smoothing = fitted("filtering"), fitted("smoothing")
    log(f"{steps} steps of refinement, {particles} particles")
    at(f"{steps} steps of refinement, {particles} particles")
    pilot = pilot_episodes(run.config, run.folder, run.model)
    settings: Any = {"particles": particles, "runs": runs, "steps": steps, "generator": noise, "pilot": pilot}
    return measure_gap(run.model, filtering, smoothing, batch, **settings)


def rate_decomposition(
    run: Run,
    *,
    alternatives: int = 1024,
    episodes: int | None = None,
    seed: int = 0,
    allow_env: bool = False,
    log: Callable[[str], None] = lambda words: None,
) -> RateDecomposition:
    """Split the rate of a run's held-out episodes into information and misfit: see `evidence.rate`.

    Args:
        run: the run.
        alternatives: draws of each step given the steps before it.
        episodes: as for the gap.
        seed: likewise.
        allow_env: for its exact law, make an environment that is not one of this project's too, which imports the
            modules that the run's settings name; without it, steps are drawn from the model's own prediction.
        log: told what is being done.
    Raises:
        ValueError: if a number is out of range, or there is a single held-out episode.
    """
    require_positive(alternatives=alternatives)
    batch, model = run.scored(episodes), run.model
    law = build.build_law(run.config, allow_env=allow_env, log=log)
    noise = make_generator(seed, stream=Stream.EVIDENCE, device=model.device)
    choice = make_generator(seed, stream=Stream.SAMPLING)  # laws are evaluated on the CPU
    exact = law is not None and can_resample(law)

    def resample(part: Batch) -> Batch:
        assert law is not None
        return resample_rows(law, part.to("cpu"), generator=choice).to(model.device)

    first = first_rows(model, batch, generator=noise)
    if model.backward_network is not None:
        return RateDecomposition(first, None, exact)
    truth = resample if exact else None
    return RateDecomposition(
        first, every_row(model, batch, alternatives=alternatives, resample=truth, generator=noise), exact
    )
