"""The picture that a run's page begins with: what the run dreams, plays or imagines."""

from collections.abc import Iterator

from worldmodel.report import sections
from worldmodel.report.document import Chart
from worldmodel.report.record import Record

FOREGONE = ("reward", "continue")  # leaves that are no observations


def hero_name(record: Record) -> str | None:
    """The path in the folder: the film of the dream, or else of a policy, or else imagined observations."""
    return next((name for name in _wished(record) if name in record.pictures), None)


def hero(record: Record, name: str) -> Chart:
    """The picture, as its own section would show it."""
    if name.startswith("play/"):
        return sections.film(record, name)
    return sections.folder_picture(name, record.pictures[name])


def _wished(record: Record) -> Iterator[str]:
    yield sections.DREAM_FILM
    yield from sections.films(record)
    for kind, ending in (("fan", ".png"), ("film", ".gif"), ("film", ".png"), ("classes", ".png")):
        prefix = f"imagination/{kind}_"
        found = [name for name in record.pictures if name.startswith(prefix) and name.endswith(ending)]
        yield from (name for name in found if name.removeprefix(prefix).removesuffix(ending) not in FOREGONE)
