"""Copy a Minari dataset into a folder to train on, and hold some episodes out."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from worldmodel.commands.options import add_options_of, arguments_of
from worldmodel.config import EnvConfig, EvaluationConfig


def add_options(parser: ArgumentParser) -> None:
    """Which dataset, where to, and what is held out."""
    add_options_of(parser, import_minari)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Write replay/ and heldout/, and say what went into them."""
    import_minari(**arguments_of(options, import_minari))


def import_minari(
    dataset: str,
    *,
    output: Path,
    heldout: int = EvaluationConfig.episodes,
    seed: int = EvaluationConfig.seed,
    image_size: int = EnvConfig.image_size,
    drop_text: bool = EnvConfig.drop_text,
    integers: Literal["mass", "density"] = EnvConfig.integers,
) -> None:
    """Write replay/ and heldout/, and say what went into them.

    Args:
        dataset: such as minari:namespace/name-v0, stored on this machine.
        output: the folder to make; must not exist.
        heldout: episodes to hold out, which are scored on.
        seed: decides which.
        image_size: height and width in pixels that images are resized to.
        drop_text: leave text observations out.
        integers: what Boxes of whole numbers have.
    """
    if output.exists():
        raise FileExistsError(f"output: expected a folder that does not exist yet, got {output}")
    EnvConfig(image_size=image_size)  # refuses what no model could read
    from worldmodel.data.minari import PREFIX, open_minari
    from worldmodel.data.offline import HELDOUT, REPLAY, divide
    from worldmodel.runs.messages import without_text
    from worldmodel.seeding import Stream, make_generator

    if not dataset.startswith(PREFIX):
        raise ValueError(f"dataset: expected {PREFIX}namespace/name-v0, got {dataset!r}")
    source = open_minari(dataset, image_size=image_size, drop_text=drop_text, integers=integers)
    if source.left_out:
        print(without_text(source.left_out))
    if source.lossy:
        print(f"{dataset}: its images were stored as JPEG, which changes them a little; they are read as stored")
    generator = make_generator(seed, stream=Stream.HELDOUT)
    learnt, scored = divide(source, output, heldout=heldout, generator=generator)
    print(f"{output / REPLAY}: {learnt}")
    print(f"{output / HELDOUT}: {scored}")
