"""Several runs on one page, and as a table for a terminal: their curves, numbers and the settings that differ."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from worldmodel.report import panels
from worldmodel.report.evidence_section import said
from worldmodel.report.markup import Html, count, duration, figure, join, number, table, tag
from worldmodel.report.page import Section, document, setting_text
from worldmodel.report.panels import Drawn
from worldmodel.report.record import Curve, Record, settings
from worldmodel.report.sections import (
    METRICS,
    PER_STEP,
    departure_name,
    legend,
    score_scale,
    scores_table,
    svg,
    swatch,
    term_caption,
    term_name,
)
from worldmodel.report.svg import RUNS, style

DASHES = ("-", "--", ":")
# Settings of the environment that change how rows are collected, not what is in them.
HARMLESS = {"env.id", "env.num_envs", "env.asynchronous", "env.step_timeout", "env.restarts"}
FLOORS = {"decoder.resolution", "decoder.standardise", "decoder.vector"}  # the floor, and the units that it is in
NOTHING = Curve(np.empty(0), np.empty(0))
ABOUT_THE_FOLDER = {"name", "runs"}

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header and rows


def comparison(records: Sequence[Record]) -> str:
    """A page over several runs.

    Args:
        records: at least one run; their order is that of the tables and of the colours.
    """
    names = labels(records)
    with style():
        parts: list[Section] = [
            ("numbers", "Numbers", _numbers(records, names)),
            ("curves", "The bound", _curves(records, names)),
            ("kl", "The KL", _kl(records, names)),
            ("imagination", "Imagination", _imagination(records, names)),
            ("ledger", "The ledger", _ledger(records, names)),
            ("settings", "Settings that differ", _settings(records, names)),
        ]
    warnings = [tag("p", warning, class_="warning") for warning in doubts(records)]
    kinds = dict.fromkeys(str(record.source) for record in records)
    kicker = tag("p", ", ".join(kinds), class_="kicker")
    head = join([kicker, tag("h1", f"{len(records)} runs compared"), *warnings])
    return document("Comparison of runs", head, parts)


def labels(records: Sequence[Record]) -> list[str]:
    """What the runs are called: their folders' names, or the whole path where two have the same."""
    short = [record.folder.resolve().name for record in records]
    return short if len(set(short)) == len(short) else [str(record.folder) for record in records]


def doubts(records: Sequence[Record]) -> list[str]:
    """Why the runs' numbers may not be compared, a sentence each; empty where nothing stands against it."""
    said = [f"{name}: {note}." for name, record in zip(labels(records), records, strict=True) for note in record.notes]
    sources = list(dict.fromkeys(str(record.source) for record in records))
    differing = set(_differing(records))
    if len(sources) > 1 and "offline" in differing:
        said.append(
            f"These runs learn from different rows ({', '.join(sources)}): where those, or the held-out ones, are not "
            "of one environment, their nats measure different data and cannot be compared."
        )
    elif len(sources) > 1:
        said.append(
            f"These runs are of different environments ({', '.join(sources)}): their nats measure different data "
            "and cannot be compared."
        )
    elif changed := sorted(key for key in differing if key.startswith("env.") and key not in HARMLESS):
        said.append(
            f"The runs differ in {', '.join(changed)}: where that changes what is observed, their nats measure "
            "different data and cannot be compared."
        )
    if floors := sorted(differing & FLOORS):
        said.append(
            f"The runs differ in {', '.join(floors)}: their learned standard deviations have different floors, and a "
            "finer floor earns more nats for the same predictions."
        )
    if differing & {"seed", "evaluation.episodes", "evaluation.max_length"}:
        said.append("The runs were not scored on the same held-out episodes (other seeds, or other numbers of them).")
    if changed := sorted(differing & {"evaluation.context", "evaluation.horizon", "evaluation.samples"}):
        said.append(
            f"The runs differ in {', '.join(changed)}: their open-loop errors are of other futures, or of means over "
            "other numbers of them."
        )
    return said


def summary(records: Sequence[Record]) -> Table:
    """The last and the best held-out numbers, a row a run. Nats per step unless the header says otherwise."""
    terms = _names(records, "heldout/")
    bits = _names(records, "heldout_bits_per_dimension/")
    errors = [name for name in _names(records, "open_loop/") if name.endswith("/model")]
    rough = ["rough gap"] if _names(records, "heldout_evidence/") else []
    measured = ["evidence, SMC", "gap"] if any(record.evidence for record in records) else []
    header = (
        *("run", "updates", "best ELBO", "at update"),
        *(term_name(term) for term in terms),
        *(f"{name}, bits per dimension" for name in bits),
        "active groups",
        *rough,
        *measured,
        *(f"open-loop error, {name.removesuffix('/model')}" for name in errors),
        "time",
    )
    rows = []
    for name, record in zip(labels(records), records, strict=True):
        best = record.best or {}
        done = count(record.updates) + (f" of {count(record.planned)}" if _unfinished(record) else "")
        seconds = record.elapsed().y
        rows.append(
            (
                *(name, done, number(best.get("heldout/elbo")), count(best.get("update"))),
                *(number(record.last(f"heldout/{term}")) for term in terms),
                *(number(record.last(f"heldout_bits_per_dimension/{key}")) for key in bits),
                count(record.last("heldout_kl/active_units")),
                *(number(record.last("heldout_evidence/gap")) for _ in rough),
                *(_measured(record) if measured else ()),
                *(number(record.last(f"open_loop/{key}")) for key in errors),
                duration(seconds[-1]) if len(seconds) else "–",
            )
        )
    return header, rows


def _measured(record: Record) -> tuple[str, str]:
    """The evidence with the most particles, and the gap unless it is in doubt."""
    if record.evidence is None:
        return "–", "–"
    best = record.evidence.best
    return said(best.smc), "in doubt" if best.doubts else said(best.gap)


def _unfinished(record: Record) -> bool:
    return record.planned is not None and record.updates < record.planned


def _numbers(records: Sequence[Record], names: list[str]) -> Html:
    header, rows = summary(records)
    keyed = [(join([swatch(*_look(i)), name]), *rest) for i, (name, *rest) in enumerate(rows)]
    said = "Held-out numbers in nats per step at the last evaluation of each run, and its best bound."
    return join([tag("p", said), table(header, keyed)])


def _look(run: int) -> tuple[str, str]:
    """A run's colour and dash; the dash changes when the colours are used up."""
    return RUNS[run % len(RUNS)], DASHES[run // len(RUNS) % len(DASHES)]


def _curves(records: Sequence[Record], names: list[str]) -> Html | None:
    terms = _names(records, "heldout/")
    if not terms:
        return None
    parts: list[Html] = []
    for term in terms:
        for x_label, over in ABSCISSAE.items() if term in ("elbo", "kl") else [("updates", _updates)]:
            curves = [over(record, record.column(f"heldout/{term}")) for record in records]
            title = term_name(term) if x_label == "updates" else f"{term_name(term)} by {x_label}"
            caption = term_caption(term).split(" Training")[0] if x_label == "updates" else ""
            parts += _overlay(curves, title, x_label, PER_STEP, caption, marker="o", focus=term != "kl")
    return _panels(parts, names)


def _panels(parts: Sequence[Html], names: list[str]) -> Html:
    """Panels under the key to their colours."""
    return join([legend((*_look(i), name) for i, name in enumerate(names)), tag("div", *parts, class_="panels")])


def _updates(record: Record, curve: Curve) -> Curve:
    return curve


def _env_steps(record: Record, curve: Curve) -> Curve:
    return _over(record.column("env_steps"), curve)


def _seconds(record: Record, curve: Curve) -> Curve:
    return _over(record.elapsed(), curve)


def _over(clock: Curve, curve: Curve) -> Curve:
    """A curve over updates as one over what another column says of those updates."""
    return Curve(np.interp(curve.x, clock.x, clock.y), curve.y) if len(clock.x) else NOTHING


ABSCISSAE: dict[str, Callable[[Record, Curve], Curve]] = {
    "updates": _updates,
    "env steps": _env_steps,
    "seconds": _seconds,
}


def _overlay(
    curves: Sequence[Curve], title: str, x_label: str, y_label: str, caption: str, **options: Any
) -> Iterable[Html]:
    """One panel with a curve a run; nothing where no run has one."""
    marker = options.pop("marker", None)
    looks = [_look(i) for i in range(len(curves))]
    drawn = [
        Drawn("", *curve, colour, dash, marker=marker)
        for curve, (colour, dash) in zip(curves, looks, strict=True)
        if len(curve.x)
    ]
    if drawn:
        panel = panels.panel(drawn, x_label, y_label, legend=False, **options)
        yield figure(svg(panel, title, title), title, caption)


def _line(record: Record, name: str, column: str) -> Curve:
    columns = record.lines.get(name, {})
    if column not in columns:
        return NOTHING
    return Curve(next(iter(columns.values())), columns[column])


def _kl(records: Sequence[Record], names: list[str]) -> Html | None:
    history = [record.column("kl/mean") for record in records]
    position = [_line(record, "kl_by_position", "raw") for record in records]
    step = [_line(record, "kl_by_episode_step", "raw") for record in records]
    parts = [
        *_overlay(history, "Over training", "updates", "nats", "The raw KL of training batches.", scale="log"),
        *_overlay(position, "By place in the training sequence", "row of the sequence", "nats", "", scale="log"),
        *_overlay(step, "By steps since the reset", "steps since the reset", "nats", "Held-out episodes.", scale="log"),
    ]
    return _panels(parts, names) if parts else None


def _imagination(records: Sequence[Record], names: list[str]) -> Html | None:
    parts: list[Html] = []
    for name in dict.fromkeys(line for record in records for line in record.lines if line.startswith("open_loop_")):
        curves = [_line(record, name, "model") for record in records]
        title = f"Open-loop error: {name.removeprefix('open_loop_')}"
        parts += _overlay(curves, title, "steps ahead", "squared error / variance", "", scale="log")
    scored = {name: record.scores for name, record in zip(names, records, strict=True) if record.scores}
    for leaf, metric in dict.fromkeys(key[:2] for scores in scored.values() for key in scores.bands):
        bands = [record.scores.bands.get((leaf, metric, "model")) if record.scores else None for record in records]
        curves = [Curve(np.arange(1, len(band.mean) + 1), band.mean) if band else NOTHING for band in bands]
        title, unit, caption = METRICS.get(metric, (metric, metric, ""))
        scale = score_scale(metric, (band for band in bands if band))
        parts += _overlay(curves, f"{leaf}: {title}", "steps ahead", unit, caption, scale=scale)
    if not parts and not scored:
        return None
    numbers = tag("details", tag("summary", "Scores as numbers, with the baselines"), table(*scores_table(scored)))
    return join([_panels(parts, names), *([numbers] if scored else [])])


def _ledger(records: Sequence[Record], names: list[str]) -> Html | None:
    entries = _names(records, "ledger/")
    rows = [
        (departure_name(entry), *(number(record.last(f"ledger/{entry}")) for record in records)) for entry in entries
    ]
    said = "What every departure of the loss from the bound costs on training batches, where last written."
    return join([tag("p", said), table(("nats per step", *names), rows)]) if rows else None


def _settings(records: Sequence[Record], names: list[str]) -> Html:
    flat = [settings(record.config) for record in records]
    rows = [
        (key, *(setting_text(one[key]) if key in one else "–" for one in flat))
        for key in _differing(records)
        if key not in ABOUT_THE_FOLDER
    ]
    return table(("setting", *names), rows) if rows else tag("p", "The runs have the same settings.")


def _differing(records: Sequence[Record]) -> list[str]:
    """Keys of the settings that are not the same in all runs."""
    flat = [settings(record.config) for record in records]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(key not in one or one[key] != flat[0].get(key) for one in flat)]


def _names(records: Sequence[Record], prefix: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.names(prefix)))
