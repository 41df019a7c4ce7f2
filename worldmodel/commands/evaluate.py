"""Score a run on its held-out episodes."""

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of


def add_options(parser: ArgumentParser) -> None:
    """Which run, which weights, where."""
    from worldmodel.runs.run import open_run

    add_options_of(parser, open_run)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Print the bound, the KL and the open-loop errors as tables."""
    from rich.console import Console
    from rich.table import Table

    from worldmodel.report import vocabulary as say
    from worldmodel.runs.run import open_run
    from worldmodel.training.progress import Watch

    opened = open_run(**arguments_of(options, open_run))
    with Watch().phase("scoring the held-out episodes"):
        evaluation = opened.evaluate()
    table = Table("held-out", say.PER_STEP)
    for name, value in evaluation.per_step.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in evaluation.kl.summary.items():
        table.add_row(f"KL {name}", f"{value:.4f}")
    for name, bits in evaluation.bits_per_dimension.items():
        table.add_row(say.bits(name), f"{bits:.4f}")
    for name, floor in opened.model.resolution().items():
        table.add_row(f"{name}, floor of the std", " ".join(f"{value:.3g}" for value in floor.tolist()))
    console = Console(markup=False)
    console.print(table)
    if evaluation.open_loop:
        methods = [look.name for look in say.OPEN_LOOP_METHODS.values()]
        errors = Table(say.OPEN_LOOP.unit, say.AHEAD, *methods)
        for name, (model, repeat, mean) in evaluation.open_loop.items():
            for h in sorted({0, len(model) // 4 - 1, len(model) // 2 - 1, len(model) - 1} - {-1}):
                errors.add_row(name, str(h + 1), f"{model[h]:.4f}", f"{repeat[h]:.4f}", f"{mean[h]:.4f}")
        console.print(errors)
