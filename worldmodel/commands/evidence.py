"""Measure the evidence of a run's held-out episodes, and how far the bound is from it: tables, figure, JSON."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from rich.console import Console

    from worldmodel.evaluation.evidence_report import EvidenceReport
    from worldmodel.runs.run import Run


def add_options(parser: ArgumentParser) -> None:
    """Which run, how many particles, how often."""
    parser.add_argument("run", type=str, help="the run's folder")
    words = "numbers of particles, such as 64,256,1024; by default 16,64,256, where there are images 2,8,32"
    parser.add_argument("--particles", type=str, default=None, help=words)
    parser.add_argument("--runs", type=int, default=2, help="independent repetitions of every estimate")
    words = "held-out episodes; by default as many as have 4,000 rows together, where there are images 400"
    parser.add_argument("--episodes", type=int | None, default=None, help=words)
    parser.add_argument("--checkpoint", type=str, default=None, help="best (the default) or last")
    parser.add_argument("--device", type=str, default="cpu", help="a torch device, or auto")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    words = "for the exact line, make an environment that is not this project's: imports what the run's settings name"
    parser.add_argument("--allow_env", action="store_true", help=words)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write RUN/evidence/ and print what is in it."""
    particles = None if options.particles is None else read_particles(options.particles)
    # Heavy, and not needed to refuse a mistake.
    from rich.console import Console

    from worldmodel.build import why_no_law
    from worldmodel.runs.run import open_run
    from worldmodel.training.progress import Watch

    opened = open_run(options.run, options.checkpoint, options.device)
    console, watch = Console(highlight=False), Watch()

    def log(words: str) -> None:
        console.print(f"{words} ...", markup=False)
        watch.at(words)

    with watch.phase("measuring the evidence"):
        found = opened.write_evidence(
            particles,
            runs=options.runs,
            episodes=options.episodes,
            seed=options.seed,
            allow_env=options.allow_env,
            log=log,
        )
    _show(console, opened, found)
    if found.exact is None and not options.allow_env and (why := why_no_law(opened.config)):
        console.print(why, soft_wrap=True, markup=False)
    console.print(f"figure and numbers are in {opened.folder / 'evidence'}", soft_wrap=True)
    console.print(f"`worldmodel report {opened.folder}` puts them on the run's page", soft_wrap=True)


def read_particles(text: str) -> list[int]:
    """64,256,1024 -> [64, 256, 1024].

    Raises:
        ValueError: if it is something else.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 2:
        raise ValueError(f"particles: expected numbers of at least 2 such as 64,256,1024, got {text!r}")
    return counts


def _show(console: "Console", opened: "Run", found: "EvidenceReport") -> None:
    from worldmodel.commands.console import show_table
    from worldmodel.report import tables
    from worldmodel.report.formats import with_error

    simulated = f"sandwich on {found.simulated} episodes that the model simulated"
    console.print(
        f"\n{found.episodes} held-out episodes, {found.rows:,} steps; particles from {found.proposal}; {simulated}",
        soft_wrap=True,
    )
    caption = "nats per step; standard errors over episodes, paired for differences"
    show_table(console, tables.estimates(found).transposed(), caption=caption)
    if found.exact is not None:
        title = f"exact evidence {with_error(found.exact)} nats per step"
        show_table(console, tables.distances_from_exact(found).transposed(), title=title)
    show_table(console, tables.terms(found), caption=f"nats per step, with {found.best.particles} particles")
    for name, floor in opened.model.resolution().items():
        console.print(f"{name}, floor of the std: " + " ".join(f"{value:.3g}" for value in floor[:8].tolist()))
    for doubt in found.best.doubts:
        console.print(f"the gap with {found.best.particles} particles is in doubt: {doubt}", soft_wrap=True)
