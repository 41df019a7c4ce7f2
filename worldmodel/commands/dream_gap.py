"""`worldmodel evaluate RUN --dream_gap`: a policy in the dream beside the same policy in the world."""

import sys
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from worldmodel.commands.console import show_table

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.runs.run import Run


def show_dream_gap(console: "Console", opened: "Run", options: Namespace, search: dict[str, Any]) -> None:
    """Play, dream and print both tables; where an environment fails, end with status 1."""
    from worldmodel.data.guard import EnvironmentFailureError
    from worldmodel.report import dream_gap as tables
    from worldmodel.runs.dream_gap import STEPS, measure_dream_gap
    from worldmodel.training.progress import Watch

    name, steps = opened.policy_name(options.policy, **search), STEPS if options.steps is None else options.steps
    watch = Watch()
    try:
        with watch.phase("playing and dreaming"):
            gap = measure_dream_gap(
                opened,
                name,
                episodes=options.episodes,
                context=options.context,
                steps=steps,
                seed=options.seed,
                log=lambda words: console.print(words, markup=False, soft_wrap=True),
                at=watch.at,
                **search,
            )
    except EnvironmentFailureError as error:
        print(f"worldmodel: evaluating stopped: {error}", file=sys.stderr)
        sys.exit(1)
    left_out = f"; {gap.too_short} episodes ended before" if gap.too_short else ""
    console.print(
        f"{len(gap.world.reward)} starts in {opened.config.env.id} and in the dream, policy {name},"
        f" seed {options.seed}: {gap.context} rows in common, then {steps} steps at most{left_out}",
        markup=False,
        soft_wrap=True,
    )
    show_table(console, tables.returns(gap), caption="95 % intervals of the mean, from drawing starts again")
    caption = "means over the starts that are running in both; std: of the variable, over the world's rows"
    show_table(console, tables.variables(gap), caption=caption)
