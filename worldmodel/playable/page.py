"""A world model's page: one file of HTML with its weights, in which a reader acts in the dream, without a network."""

import json
from functools import cache
from typing import Any, NamedTuple

import torch
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from worldmodel.models.world_model import WorldModel
from worldmodel.playable.arrays import Arrays, Precision
from worldmodel.playable.networks import describe
from worldmodel.playable.recordings import recordings, start_rows
from worldmodel.playable.reference import STEPS, reference
from worldmodel.report import vocabulary
from worldmodel.report.formats import count, readable
from worldmodel.seeding import Stream, make_generator
from worldmodel.types import Batch

SCRIPTS = ("runtime.js", "pictures.js", "charts.js", "controls.js", "player.js")  # in the order in which they run


class Subject(NamedTuple):
    """What the page is about, in words and drawings."""

    name: str  # of the run
    env_id: str
    controls: dict[str, Any]  # as `controls.controls` makes them
    pictures: list[dict[str, Any]]  # as `pictures.pictures` makes them
    traces: list[list[str]]  # of every leaf, what its numbers are called


class Page(NamedTuple):
    """The page as text, and how its weights are kept."""

    html: str
    weights: int
    precision: Precision


def playable_page(model: WorldModel, episodes: Batch, subject: Subject, *, seed: int, limit: int | None = None) -> Page:
    """The page of a model.

    Weights are kept in float32, or in float16 where the page would be larger than `limit` otherwise.

    Args:
        model: the world model, in float32.
        episodes: held-out ones, whole, that dreams begin in; see `recordings.few`.
        subject: words and drawings.
        seed: of the filtered states and of the noise by which the page is checked.
        limit: bytes.
    Raises:
        ValueError: if the model is made of modules that the page has no script for.
    """
    page = _rendered(model, episodes, subject, seed, "float32")
    if limit is None or len(page.html.encode()) <= limit:
        return page
    return _rendered(model, episodes, subject, seed, "float16")


def as_script(content: Any) -> Markup:
    """JSON that may stand inside a <script> element: no text in it can end the element or begin another one.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII alone
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _rendered(model: WorldModel, episodes: Batch, subject: Subject, seed: int, precision: Precision) -> Page:
    arrays, generator = Arrays(precision), make_generator(seed, stream=Stream.IMAGINATION, device=model.device)
    described = describe(model, arrays)  # what is refused is refused before anything is filtered
    kept, latents = recordings(model, episodes, arrays, generator)
    start = latents.at(start_rows(kept[0]["rows"])[0]).state
    given = episodes.prev_action[0, 1 : kept[0]["rows"]]
    given = given[torch.arange(STEPS, device=given.device) % len(given)]  # again from the first, of a short episode
    leaves = zip(model.spec.observations.items(), subject.traces, strict=True)
    data = {
        "model": described,
        "leaves": [
            {"path": readable(path), "kind": leaf.kind, "classes": list(leaf.classes), "names": [*map(readable, names)]}
            for (path, leaf), names in leaves
        ],
        "controls": subject.controls,
        "pictures": subject.pictures,
        "recordings": kept,
        "check": reference(model, start, given, arrays, seed),
        "precision": precision,
        "stores": dict(arrays.texts()),
    }
    html = _template().render(
        name=subject.name,
        env_id=subject.env_id,
        weights=count(arrays.count),
        precision=precision,
        latent=described["latent"]["family"],
        data=as_script(data),
    )
    return Page(html, arrays.count, precision)


@cache
def _template() -> Any:
    found = Environment(
        loader=ChoiceLoader([PackageLoader("worldmodel.playable"), PackageLoader("worldmodel.report")]),
        autoescape=True,
        finalize=lambda value: readable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert found.loader is not None
    found.globals["colours"] = vocabulary.COLOURS
    found.globals["scripts"] = [Markup(found.loader.get_source(found, name)[0]) for name in SCRIPTS]
    return found.get_template("play.html")
