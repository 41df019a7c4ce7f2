"""A run's record as one page of HTML: opens anywhere, without a network and without scripts."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from worldmodel.report import evidence_section, sections
from worldmodel.report.markup import Html, count, join, number, plain, table, tag
from worldmodel.report.record import Record, settings
from worldmodel.report.svg import style
from worldmodel.report.tables import term_name

Section = tuple[str, str, Html | None]  # anchor, title, and what is in it, if there is anything


def page(record: Record, defaults: Mapping[str, Any] | None = None) -> str:
    """A run's page. What more a run's folder comes to hold is a function in `sections` and a line here.

    Args:
        record: the run.
        defaults: nested settings to compare with; without them every setting is shown alike.
    """
    with style():
        parts: list[Section] = [
            ("bound", "The bound", sections.bound(record)),
            ("evidence", "The evidence", evidence_section.evidence(record)),
            ("ledger", "The ledger", sections.ledger(record)),
            ("kl", "The KL", sections.kl(record)),
            ("imagination", "Imagination", sections.imagination(record)),
            ("optimisation", "Optimisation", sections.optimisation(record)),
            ("pictures", "Other pictures", _other_pictures(record)),
            ("time", "Time", sections.stages(record)),
            ("configuration", "Configuration", configuration(record, defaults)),
            ("versions", "Versions", sections.versions(record)),
        ]
    parts.append(("notes", "About this record", _notes(record, parts)))
    name = record.folder.resolve().name
    source = record.source or "unknown environment"
    head = join([tag("p", source, class_="kicker"), tag("h1", name), _ending(record), _headline(record)])
    return document(f"{name}: report", head, parts)


def document(title: str, head: Html, parts: Sequence[Section]) -> str:
    """A whole page: what is at its top, and its sections with their table of contents.

    Args:
        title: plain text.
        head: the top of the page.
        parts: sections; those with nothing in them are left out.
    """
    kept = [(anchor, name, content) for anchor, name, content in parts if content is not None]
    contents = tag("ul", *(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in kept))
    body = join(tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in kept)
    here = files("worldmodel.report")
    template = Template((here / "page.html").read_text(encoding="utf-8"))
    sheet = (here / "page.css").read_text(encoding="utf-8")
    return template.substitute(title=plain(title), style=sheet, head=head, contents=contents, body=body)


def configuration(record: Record, defaults: Mapping[str, Any] | None) -> Html:
    """Settings that differ from the defaults, then all of them."""
    full = tag("pre", yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True))
    everything = tag("details", tag("summary", "Every setting, as YAML"), full)
    if defaults is None:
        return everything
    usual, here = settings(defaults), settings(record.config)
    changed = [key for key in here if key not in usual or here[key] != usual[key]]
    rows = [
        (key, setting_text(here[key]), setting_text(usual[key]) if key in usual else "no such setting")
        for key in changed
    ]
    if not rows:
        return join([tag("p", "Every setting has its default."), everything])
    return join([table(("setting that differs from its default", "here", "default"), rows), everything])


def setting_text(setting: Any) -> Html:
    """A setting as YAML writes it."""
    text = yaml.safe_dump(setting, default_flow_style=True, allow_unicode=True, width=10_000)
    return sections.words(text.removesuffix("...\n").strip())


def _ending(record: Record) -> Html:
    done, planned = record.updates, record.planned
    steps, last = record.last("env_steps"), count(record.updates)
    reached = f"{last} updates" + (f" on {count(steps)} env steps" if steps is not None else "")
    seed = record.setting("seed")
    after = f" · seed {seed}" if seed is not None else ""
    if planned is None:
        return tag("p", f"{reached}; its settings do not say how many were planned{after}", class_="ending")
    if done >= planned:
        return tag("p", tag("b", "Finished", class_="good"), f" · {reached}{after}", class_="ending")
    text = f" at update {last} of {count(planned)}: interrupted, failed or still going · {reached}{after}"
    return tag("p", tag("b", "Not finished", class_="bad"), text, class_="ending")


def _headline(record: Record) -> Html:
    """The bound as an equation with its numbers, and what else one asks first."""
    split = "heldout" if record.names("heldout/") else "train"
    terms = [name for name in record.names(f"{split}/") if name not in ("elbo", "kl")]
    kind = "Held-out episodes" if split == "heldout" else "Training batches (no held-out episode was scored)"
    pieces = [_term("ELBO", record.last(f"{split}/elbo"), "big"), tag("span", "=", class_="operator")]
    for i, term in enumerate(terms):
        pieces += [tag("span", "+", class_="operator")] if i else []
        pieces.append(_term(term_name(term), record.last(f"{split}/{term}")))
    pieces += [tag("span", "−", class_="operator"), _term("KL", record.last(f"{split}/kl"))]
    return join(
        [
            tag("div", *pieces, class_="equation"),
            tag("p", f"{kind}, nats per step, at the last evaluation.", class_="unit"),
            tag("dl", *_facts(record), class_="facts"),
        ]
    )


def _facts(record: Record) -> list[Html]:
    facts = []
    if best := record.best:
        facts.append(("best held-out ELBO", f"{number(best['heldout/elbo'])} at update {count(best['update'])}"))
    for name in record.names("heldout_bits_per_dimension/"):
        facts.append((f"{name}, bits per dimension", number(record.last(f"heldout_bits_per_dimension/{name}"))))
    if (active := record.last("heldout_kl/active_units")) is not None:
        groups = record.setting("rssm.stoch")
        facts.append(("active latent groups", count(active) + (f" of {groups}" if groups is not None else "")))
    for name in record.names("open_loop/"):
        if name.endswith("/model"):
            leaf = name.removesuffix("/model")
            facts.append((f"open-loop error, {leaf}", number(record.last(f"open_loop/{name}"))))
    return [tag("div", tag("dt", name), tag("dd", text)) for name, text in facts]


def _term(name: str, amount: float | None, class_: str = "") -> Html:
    return tag("span", tag("span", number(amount), class_="amount"), tag("span", name, class_="name"), class_=class_)


def _other_pictures(record: Record) -> Html | None:
    """Pictures in figures/ that no section shows or draws anew."""
    redrawn = {
        "bound": record.names("train/"),
        "kl_overview": [name for name in record.lines if name.startswith("kl_")],
        "kl_heat_map": ["in its section, drawn or as it is"],
        "open_loop": [name for name in record.lines if name.startswith("open_loop_")],
    }
    known = {f"figures/{name}.png" for name, anew in redrawn.items() if anew}
    shown = [name for name in record.pictures if name.startswith("figures/") and name not in known]
    return join(sections.picture_figure(name, record.pictures[name]) for name in shown) if shown else None


def _notes(record: Record, parts: Sequence[Section]) -> Html:
    missing = [name for anchor, name, content in parts if content is None and anchor != "pictures"]
    said = [*record.notes, *(f"{name}: this run's folder holds nothing for this section" for name in missing)]
    source = tag("p", "Everything on this page was read from the run's folder ", tag("code", str(record.folder)), ".")
    return join([source, tag("ul", *(tag("li", note) for note in said))]) if said else source
