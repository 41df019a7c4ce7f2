"""Copy a Minari dataset into a folder to train on, with held-out episodes set apart."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from worldmodel.config import EnvConfig


def add_options(parser: ArgumentParser) -> None:
    """Which dataset, where to, and what is held out."""
    parser.add_argument("dataset", type=str, help="such as minari:namespace/name-v0, stored on this machine")
    parser.add_argument("--output", type=str, required=True, help="the folder to make; must not exist")
    parser.add_argument("--heldout", type=int, default=16, help="episodes that are set apart to be scored on")
    parser.add_argument("--seed", type=int, default=0, help="decides which")
    parser.add_argument("--image_size", type=int, default=64, help="height and width that images are resized to")
    parser.add_argument("--drop_text", type=bool, default=True, help="leave text observations out")
    kinds = Literal["mass", "density"]
    parser.add_argument("--integers", type=kinds, default="mass", help="what Boxes of whole numbers have")


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write replay/ and heldout/, and say what went into them."""
    folder = Path(options.output)
    if folder.exists():
        raise FileExistsError(f"output: expected a folder that does not exist yet, got {folder}")
    EnvConfig(image_size=options.image_size)  # refuses what no model could read
    from worldmodel.data.minari import PREFIX, open_minari
    from worldmodel.data.offline import HELDOUT, REPLAY, divide
    from worldmodel.runs.messages import without_text
    from worldmodel.seeding import Stream, make_generator

    if not options.dataset.startswith(PREFIX):
        raise ValueError(f"dataset: expected {PREFIX}namespace/name-v0, got {options.dataset!r}")
    source = open_minari(
        options.dataset, image_size=options.image_size, drop_text=options.drop_text, integers=options.integers
    )
    if source.left_out:
        print(without_text(source.left_out))
    if source.lossy:
        print(
            f"{options.dataset}: its images were stored as JPEG, which changes them a little; they are read as stored"
        )
    generator = make_generator(options.seed, stream=Stream.HELDOUT)
    learnt, scored = divide(source, folder, heldout=options.heldout, generator=generator)
    print(f"{folder / REPLAY}: {learnt}")
    print(f"{folder / HELDOUT}: {scored}")
