"""Write the whole episodes of a stored replay as a Minari dataset, images bit for bit."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser) -> None:
    """Which replay, under which id, and what is filed with it."""
    parser.add_argument("source", type=str, help="a run's folder, a data folder, or a replay's own")
    parser.add_argument("dataset", type=str, help="the new dataset's id, such as namespace/name-v0")
    for name in ("author", "author_email", "algorithm_name", "code_permalink", "description"):
        parser.add_argument(f"--{name}", type=str, default=None, help="filed with the dataset")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Export, and say how much went out and how much stayed behind."""
    from worldmodel.data.minari import export_minari
    from worldmodel.data.offline import open_data
    from worldmodel.data.replay import Replay

    about = {name: value for name, value in options.items() if name not in ("source", "dataset")}
    with Replay.open(open_data(Path(options.source)).replay, read_only=True) as replay:
        done = export_minari(replay, options.dataset, **about)
    print(f"{options.dataset}: {done.episodes} whole episodes, {done.rows} rows")
    if done.left_behind:
        print(f"{done.left_behind} rows of episodes without a beginning or an end stayed behind")
