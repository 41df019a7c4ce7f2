"""Take the gap of a run's evidence apart (filtering, amortisation, family) and its rate (information, misfit)."""

import json
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.evidence.rate import Rate


def add_options(parser: ArgumentParser) -> None:
    """Which run, and how hard to look."""
    parser.add_argument("run", type=str, help="the run's folder")
    parser.add_argument("--updates", type=int, default=1000, help="updates of either posterior on the frozen model")
    parser.add_argument("--steps", type=int, default=200, help="gradient steps that refine the posterior of an episode")
    parser.add_argument("--particles", type=int, default=128, help="of the estimate of the evidence")
    parser.add_argument("--runs", type=int, default=2, help="independent repetitions of that estimate")
    parser.add_argument("--alternatives", type=int, default=1024, help="draws of each row, for the parts of the rate")
    words = "held-out episodes; by default as many as have 4,000 rows together, where there are images 400"
    parser.add_argument("--episodes", type=int | None, default=None, help=words)
    parser.add_argument("--checkpoint", type=str, default=None, help="best (the default) or last")
    parser.add_argument("--device", type=str, default="cpu", help="a torch device, or auto")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    words = "for its exact law, make an environment that is not this project's: imports what the run's settings name"
    parser.add_argument("--allow_env", action="store_true", help=words)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write RUN/evidence/gap.json and print what is in it."""
    # Heavy, and not needed to refuse a mistake.
    from rich.console import Console

    from worldmodel.build import why_no_law
    from worldmodel.checks import require_positive
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables
    from worldmodel.runs.decomposition import gap_decomposition, rate_decomposition
    from worldmodel.runs.run import open_run
    from worldmodel.system.files import make_own_folder, write_whole
    from worldmodel.training.progress import Watch

    require_positive(alternatives=options.alternatives)  # the rate comes last, minutes from now
    opened = open_run(options.run, options.checkpoint, options.device)
    console = Console(highlight=False)
    settings = {"episodes": options.episodes, "seed": options.seed}
    watch = Watch()

    def log(words: str) -> None:
        console.print(f"{words} ...", markup=False)

    with watch.phase("decomposing the gap"):
        gap = gap_decomposition(
            opened,
            updates=options.updates,
            steps=options.steps,
            particles=options.particles,
            runs=options.runs,
            log=log,
            at=watch.at,
            **settings,
        )
    with watch.phase("decomposing the rate"):
        first, every, exact = rate_decomposition(
            opened, alternatives=options.alternatives, allow_env=options.allow_env, log=log, **settings
        )
    show_table(console, tables.gap(gap))
    for doubt in gap.doubts:
        console.print(f"the gap with {options.particles} particles is in doubt: {doubt}", soft_wrap=True)
    _show_rate(console, first, f"first rows, {first.alternatives} other episodes each")
    if every is not None:
        source = "the environment's exact law" if exact else "the model's own prediction"
        _show_rate(console, every, f"every row, {every.alternatives} draws from {source}")
    if not exact and not options.allow_env and (why := why_no_law(opened.config)):
        console.print(why, soft_wrap=True, markup=False)
    folder = opened.folder / "evidence"
    make_own_folder(folder)
    rates = {"first_row": first.as_json(), "every_row": every and every.as_json(), "exact": exact}
    numbers = {"gap": gap.as_json(), "rate": rates, "settings": {**vars(options), "run": opened.folder.name}}
    write_whole(folder / "gap.json", json.dumps(numbers))
    console.print(f"numbers are in {folder / 'gap.json'}", soft_wrap=True)


def _show_rate(console: "Console", rate: "Rate", heading: str) -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables

    console.print(f"rate of {heading}")
    show_table(console, tables.rate(rate))
    if rate.saturated:
        most = "log of the alternatives and one"
        console.print(f"information from below is near the {most}, the most it can be: more of them show more")
