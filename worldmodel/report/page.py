"""A run's record as one page of HTML: opens anywhere, without a network and without scripts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldmodel.report import sections, vocabulary
from worldmodel.report.document import Block, Points, Section, Text, document
from worldmodel.report.evidence import evidence
from worldmodel.report.formats import count, number
from worldmodel.report.gap import gap
from worldmodel.report.hero import hero, hero_name
from worldmodel.report.record import Record

ACTING, OTHERS = "acting", "pictures"  # the anchors of the sections whose absence is not noted


def page(record: Record, defaults: Mapping[str, Any] | None = None) -> str:
    """A run's page. What more a run's folder comes to hold is a function in `sections` and a line here.

    Args:
        record: the run.
        defaults: nested settings to compare with; without them every setting is shown alike.
    """
    top = hero_name(record)
    parts = [
        Section(ACTING, "Acting", sections.acting(record, top)),
        Section("bound", "The bound", sections.bound(record)),
        Section("evidence", "The evidence", [*evidence(record), *gap(record)]),
        Section("ledger", "The ledger", sections.ledger(record)),
        Section("kl", "The KL", sections.kl(record)),
        Section("imagination", "Imagination", sections.imagination(record, top)),
        Section("optimisation", "Optimisation", sections.optimisation(record)),
        Section(OTHERS, "Other pictures", _other_pictures(record)),
        Section("time", "Time", sections.time(record)),
        Section("configuration", "Configuration", sections.configuration(record, defaults)),
        Section("versions", "Versions", sections.versions(record)),
    ]
    parts.append(Section("notes", "About this record", _notes(record, parts)))
    name = record.folder.resolve().name
    return document("page.html", f"{name}: report", parts, name=name, hero=top and hero(record, top), **_head(record))


def _head(record: Record) -> dict[str, Any]:
    """What the top of the page says: how the run ended, the bound as an equation, and what else one asks first."""
    split = "heldout" if record.names("heldout/") else "train"
    steps = record.last("env_steps")
    return {
        "record": record,
        "planned": record.planned,
        "reached": f"{count(record.updates)} updates" + (f" on {count(steps)} env steps" if steps is not None else ""),
        "seed": record.setting("seed"),
        "split": split,
        "terms": [name for name in record.names(f"{split}/") if name not in vocabulary.TERMS],
        "facts": list(_facts(record)),
    }


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    if (earned := record.last("acting/return")) is not None:
        yield "return, last evaluation", number(earned, 1)
    if (earned := record.last("best/return")) is not None:
        yield vocabulary.BEST["return"].name, number(earned, 1)
    if best := record.best:
        yield vocabulary.BEST["elbo"].name, f"{number(best['heldout/elbo'])} at update {count(best['update'])}"
    for name in record.names("heldout_bits_per_dimension/"):
        yield vocabulary.bits(name), number(record.last(f"heldout_bits_per_dimension/{name}"))
    if (active := record.last("heldout_kl/active_units")) is not None:
        groups = 1 if record.setting("rssm.latent") == "gaussian_full" else record.setting("rssm.stoch")
        yield "active latent groups", count(active) + (f" of {groups}" if groups is not None else "")
    for kind in record.names("open_loop/"):
        if kind.endswith("/model"):
            name, error = sections.imagination_error(kind.removesuffix("/model"), [record])
            yield name, number(error(record))


def _other_pictures(record: Record) -> list[Block]:
    """Pictures in figures/ that no section shows, or draws itself."""
    sources = {
        "bound": record.names("train/"),
        "kl_overview": [name for name in record.lines if name.startswith("kl_")],
        "acting": record.names("acting/"),
        "acting_dream": ["in its section"],
        "kl_heat_map": ["in its section, drawn or as it is"],
        "open_loop": sections.scored_leaves(record) or [name for name in record.lines if name.startswith("open_loop_")],
    }
    known = {f"figures/{name}.png" for name, found in sources.items() if found}
    others = [name for name in record.pictures if name.startswith("figures/") and name not in known]
    shown = [name for name in others if not name.startswith(sections.RECONSTRUCTION)]
    return [sections.folder_picture(name, record.pictures[name]) for name in shown]


def _notes(record: Record, parts: Sequence[Section]) -> list[Block]:
    missing = [part.title for part in parts if not part.blocks and part.anchor not in (ACTING, OTHERS)]
    notes = [*record.notes, *(f"{name}: this run's folder holds nothing for this section" for name in missing)]
    source = Text("Everything on this page was read from the run's folder ", str(record.folder), ".")
    return [source, *([Points(notes)] if notes else [])]
