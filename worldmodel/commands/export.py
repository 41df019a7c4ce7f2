"""Write the whole episodes of a stored replay as a Minari dataset, images bit for bit."""

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of


def add_options(parser: ArgumentParser) -> None:
    """Which replay, under which id, and what is filed with it."""
    from worldmodel.data.minari import export_minari
    from worldmodel.data.offline import open_data

    add_options_of(parser, open_data)
    add_options_of(parser, export_minari, skip={"replay", "environment"})


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Export, and say how much was written and how much was not."""
    from worldmodel.data.minari import export_minari
    from worldmodel.data.offline import open_data
    from worldmodel.data.replay import Replay

    with Replay.open(open_data(options.source).replay, read_only=True) as replay:
        done = export_minari(replay, **arguments_of(options, export_minari))
    print(f"{options.dataset_id}: {done.episodes} whole episodes, {done.rows} rows")
    if done.left_behind:
        print(f"{done.left_behind} rows of episodes without a beginning or an end were left out")
