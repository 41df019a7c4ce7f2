"""How far the dream of a run is from its world: `worldmodel evaluate RUN --dream_gap`."""

from collections.abc import Callable
from typing import Any

from worldmodel.build_acting import require_learned_returns
from worldmodel.checks import require_positive
from worldmodel.evaluation.dream_gap import DreamGap, dream_gap
from worldmodel.evaluation.rounds import side_by_side
from worldmodel.runs.environments import evaluation_environments
from worldmodel.runs.run import Run
from worldmodel.types import Policy

STEPS = 100  # after the start, unless another number is asked for


def measure_dream_gap(
    run: Run,
    policy: str | Callable[[], Policy] | None = None,
    *,
    episodes: int = 20,
    context: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
    observed: str = "mean",
    log: Callable[[str], None] = lambda words: None,
    at: Callable[[str], None] = lambda words: None,
    **planner: Any,
) -> DreamGap:
    """Let a policy act in the run's environment and in the dream of its model; see `evaluation.dream_gap`.

    Making the environment imports the modules that the run's settings name, which is said before.

    Args:
        run: whose model and environment.
        policy: its name, see `Run.policy`; or what makes one, always in the same first state.
        episodes: how many, each from a start seed of its own.
        context: rows that are seen before dream and world part; by default as in the run's evaluations.
        steps: after the start.
        seed: of the starts, of the dreams, and of a policy that is named.
        observed: mean or sample, of the dream's observations.
        log: told what making the environments imports.
        at: told how far it is.
        planner: settings of a search that differ from the run's.
    Raises:
        ValueError: if a number is out of range, there is no such policy, or the environment is of other spaces than the
            run's rows are.
        EnvironmentFailureError: if an environment fails.
    """
    require_learned_returns(run.config)
    context = run.config.evaluation.context if context is None else context
    require_positive(episodes=episodes, context=context, steps=steps)

    def make() -> Policy:
        return policy() if callable(policy) else run.policy(policy, seed=seed, **planner)

    make()  # a mistake is told before the environment is made
    with evaluation_environments(run.config, run.model.spec, side_by_side(episodes), log) as environments:
        return dream_gap(
            environments,
            run.model,
            make,
            episodes=episodes,
            context=context,
            horizon=steps,
            seed=seed,
            observed=observed,
            at=at,
        )
