"""Score a run on its held-out episodes, or a policy in its environment."""

import sys
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of

EPISODES = 20  # of a dream gap, unless another number is asked for

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.evaluation.episodes import Played
    from worldmodel.runs.run import Run

OF_SEARCH = {  # the settings of the planner that may be set here
    "horizon": "actions that are planned ahead",
    "candidates": "sequences of actions in each iteration of the search",
    "iterations": "rounds of the search at every step",
}
OF_GAP = {"steps": None, "context": None}  # options that need --dream_gap; their defaults
OF_EPISODES = {"policy": None, "seed": 0, **dict.fromkeys(OF_SEARCH)}  # options that need --episodes; their defaults


def add_options(parser: ArgumentParser) -> None:
    """Which run, which weights, where; whether a policy is to act, and which."""
    from worldmodel.runs.run import open_run

    add_options_of(parser, open_run, skip={"env", "model"})
    words = "play so many whole episodes in the run's environment; imports what the run's settings name"
    parser.add_argument("--episodes", type=int | None, default=None, help=words)
    words = "who acts in them: the actor that the run has learned (by default, where it has), a planner with the run's "
    words += "model (by default as planner.method says), or random actions"
    parser.add_argument("--policy", type=Literal["actor", "mppi", "cem", "random"] | None, default=None, help=words)
    words = "let the policy act in the model's dream too, from the same starts, and show how far the two are apart"
    parser.add_argument("--dream_gap", "--dream-gap", action="store_true", help=words)
    parser.add_argument("--steps", type=int | None, default=None, help="after the start that dreams are compared for")
    words = "rows seen before dream and world part; by default evaluation.context"
    parser.add_argument("--context", type=int | None, default=None, help=words)
    parser.add_argument("--seed", type=int, default=OF_EPISODES["seed"], help="of their starts, and of the policy")
    for name, words in OF_SEARCH.items():
        parser.add_argument(f"--{name}", type=int | None, default=None, help=f"{words}; by default planner.{name}")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Print the bound, the KL and the open-loop errors as tables; or what the policy earned."""
    misplaced = [name for name, default in OF_GAP.items() if getattr(options, name) != default]
    if misplaced and not options.dream_gap:
        raise ValueError(f"{', '.join(misplaced)}: expected --dream_gap beside it, got none")
    if options.dream_gap and options.episodes is None:
        options.episodes = EPISODES
    given = [name for name, default in OF_EPISODES.items() if getattr(options, name) != default]
    if options.episodes is None and given:
        raise ValueError(f"{', '.join(given)}: expected --episodes beside it, got none: without it nobody acts")
    if options.episodes is not None and options.episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {options.episodes}")
    # Heavy, and not needed to refuse a mistake.
    from rich.console import Console

    from worldmodel.commands.dream_gap import show_dream_gap
    from worldmodel.runs.run import open_run

    opened = open_run(**arguments_of(options, open_run))
    console = Console(highlight=False, markup=False)
    if options.dream_gap:
        show_dream_gap(console, opened, options, _search(options))
    elif options.episodes is None:
        _show_held_out(console, opened)
    else:
        _play(console, opened, options)


def _show_held_out(console: "Console", opened: "Run") -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables
    from worldmodel.training.progress import Watch

    with Watch().phase("scoring the held-out episodes"):
        evaluation = opened.evaluate()
    show_table(console, tables.held_out(evaluation, opened.model.resolution()))
    if not evaluation.open_loop:
        return
    show_table(console, tables.open_loop(evaluation.open_loop))
    try:
        with Watch().phase("scoring imagination"):
            scores = opened.score()
    except FileNotFoundError as error:
        console.print(f"imagination is not compared with the marginal of the training rows: {error}", soft_wrap=True)
        return
    show_table(console, tables.calibration(scores), caption=f"{scores.futures} futures, {scores.samples} samples each")


def _play(console: "Console", opened: "Run", options: Namespace) -> None:
    """Play episodes; where an environment fails, end with status 1."""
    from worldmodel.data.guard import EnvironmentFailureError
    from worldmodel.report.formats import counted
    from worldmodel.training.progress import Watch

    name = opened.policy_name(options.policy, **_search(options))
    policy = opened.policy(name, seed=options.seed, **_search(options))
    watch = Watch()
    try:
        with watch.phase("playing"):
            played = opened.evaluate_policy(
                policy,
                episodes=options.episodes,
                seed=options.seed,
                log=lambda words: console.print(words, markup=False, soft_wrap=True),
                at=watch.at,
            )
    except EnvironmentFailureError as error:
        print(f"worldmodel: evaluating stopped: {error}", file=sys.stderr)
        sys.exit(1)
    console.print(
        f"{counted(len(played.returns), 'episode')} of {opened.config.env.id}, policy {name}, starts of seed"
        f" {options.seed}; the policy took {1000 * played.cpu_seconds:.2f} CPU ms an action",
        markup=False,
        soft_wrap=True,
    )
    _show_played(console, played)


def _search(options: Namespace) -> dict[str, int]:
    """The planner's settings that were given."""
    return {one: value for one in OF_SEARCH if (value := getattr(options, one)) is not None}


def _show_played(console: "Console", played: "Played") -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.evaluation.episodes import summary
    from worldmodel.report.tables import Table

    rows = {"return": played.returns, "length": played.lengths}
    caption = "95 % intervals of the mean by bootstrap over episodes"
    if (calibration := played.calibration) is not None:
        rows["predicted"], rows["real"] = calibration.predicted, calibration.real
        rows["real - predicted"] = calibration.real - calibration.predicted
        caption += (
            f"; predicted, real: rewards of the first {calibration.horizon} steps, discounted by"
            f" {calibration.discount:g} a step, as the model expects of its first plan, and as they came"
        )
    header = ("", "mean", "95 % interval", "median", "least", "most")
    table = []
    for name, values in rows.items():
        mean, low, high, *spread = (f"{value:.2f}" for value in summary(values))
        table.append((name, mean, f"{low} to {high}" if len(values) > 1 else "", *spread))
    show_table(console, Table(header, table), caption=caption)
