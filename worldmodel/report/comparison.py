"""Several runs on one page, and as a table for a terminal: their curves, numbers and the settings that differ."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from worldmodel.report import panels
from worldmodel.report.groups import Group, each, grouped, mean_curve, over_seeds
from worldmodel.report.markup import Html, count, duration, figure, join, number, table, tag
from worldmodel.report.page import Section, document, setting_text
from worldmodel.report.panels import Drawn
from worldmodel.report.record import Curve, Record, Term, settings
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
)
from worldmodel.report.svg import RUNS, style
from worldmodel.report.tables import IN_DOUBT, Table, term_name, with_error

DASHES = ("-", "--", ":")
# Settings of the environment that change how rows are collected, not what is in them.
HARMLESS = {"env.id", "env.num_envs", "env.asynchronous", "env.step_timeout", "env.restarts"}
FLOORS = {"decoder.resolution", "decoder.standardise", "decoder.vector"}  # the floor, and the units that it is in
BANDS = (
    "Of runs that differ in nothing but their seed, thin lines are the runs and the thick one is their mean; the band "
    "is one standard deviation over seeds to either side."
)
NOTHING = Curve(np.empty(0), np.empty(0))
ABOUT_THE_FOLDER = {"name", "runs"}


def comparison(records: Sequence[Record]) -> str:
    """A page over several runs.

    Args:
        records: at least one run; their order is that of the tables and of the colours. Those that differ in nothing
            but their seed are shown together.
    Raises:
        ValueError: if their bounds explain different data.
    """
    require_alike(records)
    names = labels(records)
    groups = grouped(records, names)
    with style():
        parts: list[Section] = [
            ("numbers", "Numbers", _numbers(records, names, groups)),
            ("curves", "The bound", _curves(records, groups)),
            ("kl", "The KL", _kl(groups)),
            ("imagination", "Imagination", _imagination(records, names, groups)),
            ("ledger", "The ledger", _ledger(records, groups)),
            ("settings", "Settings that differ", _settings(records, groups)),
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


def require_alike(records: Sequence[Record]) -> None:
    """See that the bounds of all runs explain the same data, as far as the runs have recorded it.

    Raises:
        ValueError: if two do not; the message names them and the terms that differ.
    """
    known = [(name, record.explains) for name, record in zip(labels(records), records, strict=True) if record.explains]
    for name, terms in known[1:]:
        first, others = known[0]
        if differing := [key for key in {**others, **terms} if _measure(others, key) != _measure(terms, key)]:
            listed = "; ".join(f"{key}: {_measure(others, key)} and {_measure(terms, key)}" for key in differing)
            raise ValueError(
                f"{first} and {name} explain different data, so their nats cannot be put side by side ({listed}); "
                "compare runs whose observations and likelihoods are of the same kinds"
            )


def _measure(terms: Mapping[str, Term], name: str) -> str:
    return terms[name].measure if name in terms else "nothing"


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
    if bounded := _bounded_in_some(records):
        said.append(
            f"The log-likelihood of {', '.join(bounded)} is a lower bound in some of the runs and exact in others: "
            "where it is a bound, the run may be better than its nats."
        )
    if floors := sorted(differing & FLOORS):
        said.append(
            f"The runs differ in {', '.join(floors)}: their learned standard deviations have different floors, and a "
            "finer floor earns more nats for the same predictions."
        )
    other_seeds = len({record.heldout_seed for record in records}) > 1
    if other_seeds or differing & {"evaluation.episodes", "evaluation.max_length"}:
        said.append(
            "The runs were not scored on the same held-out episodes (other evaluation.seed, or other numbers of them)."
        )
    if changed := sorted(differing & {"evaluation.context", "evaluation.horizon", "evaluation.samples"}):
        said.append(
            f"The runs differ in {', '.join(changed)}: their open-loop errors are of other futures, or of means over "
            "other numbers of them."
        )
    return said


def _bounded_in_some(records: Sequence[Record]) -> list[str]:
    """The terms of the bound that are exact in some runs only."""
    exact: dict[str, set[bool]] = {}
    for record in records:
        for name, term in (record.explains or {}).items():
            exact.setdefault(name, set()).add(term.exact)
    return [name for name, found in exact.items() if len(found) > 1]


def summary(records: Sequence[Record]) -> Table:
    """The last and the best held-out numbers, a row a run, in nats per step unless the header says otherwise.

    Runs that differ in nothing but their seed share a row: the mean ± the standard deviation over seeds. Raises
    ValueError as `comparison` does.
    """
    require_alike(records)
    columns = _columns(records)
    found = grouped(records, labels(records))
    return Table(("run", *columns), [(group.name, *(cell(group) for cell in columns.values())) for group in found])


def _columns(records: Sequence[Record]) -> dict[str, Callable[[Group], str]]:
    """Headers, and what a group has to say under each."""
    errors = [name for name in _names(records, "open_loop/") if name.endswith("/model")]
    columns: dict[str, Callable[[Group], str]] = {
        "updates": lambda group: each([_done(record) for record in group.records]),
        "best ELBO": lambda group: over_seeds(group, lambda record: (record.best or {}).get("heldout/elbo"), number),
        "at update": lambda group: each([count((record.best or {}).get("update")) for record in group.records]),
    }
    columns |= {term_name(term): _last(f"heldout/{term}") for term in _names(records, "heldout/")}
    for image in _names(records, "heldout_bits_per_dimension/"):
        columns[f"{image}, bits per dimension"] = _last(f"heldout_bits_per_dimension/{image}")
    columns["active groups"] = lambda group: over_seeds(
        group, lambda record: record.last("heldout_kl/active_units"), count if len(group.records) == 1 else number
    )
    if _names(records, "heldout_evidence/"):
        columns["rough gap"] = _last("heldout_evidence/gap")
    if any(record.evidence for record in records):
        columns |= {"evidence, SMC": _evidence, "gap": _gap}
    columns |= {f"open-loop error, {name.removesuffix('/model')}": _last(f"open_loop/{name}") for name in errors}
    columns["time"] = lambda group: over_seeds(group, _time, lambda x: "–" if x is None else duration(x))
    return columns


def _last(metric: str) -> Callable[[Group], str]:
    return lambda group: over_seeds(group, lambda record: record.last(metric), number)


def _done(record: Record) -> str:
    return count(record.updates) + (f" of {count(record.planned)}" if _unfinished(record) else "")


def _time(record: Record) -> float | None:
    seconds = record.elapsed().y
    return float(seconds[-1]) if len(seconds) else None


def _evidence(group: Group) -> str:
    """The evidence with the most particles: of one run with its error over episodes."""
    best = [record.evidence.best for record in group.records if record.evidence]
    if len(group.records) == 1:
        return with_error(best[0].smc) if best else "–"
    return over_seeds(group, lambda record: record.evidence.best.smc.mean if record.evidence else None, _fine)


def _gap(group: Group) -> str:
    """The gap of those particles, unless it is in doubt."""
    best = [record.evidence.best for record in group.records if record.evidence]
    if any(one.doubts for one in best):
        return IN_DOUBT
    if len(group.records) == 1:
        return with_error(best[0].gap) if best else "–"
    return over_seeds(group, lambda record: record.evidence.best.gap.mean if record.evidence else None, _fine)


def _fine(value: float | None) -> str:
    return number(value, 4)


def _unfinished(record: Record) -> bool:
    return record.planned is not None and record.updates < record.planned


def _numbers(records: Sequence[Record], names: list[str], groups: Sequence[Group]) -> Html:
    header, rows = summary(records)
    keyed = [(join([swatch(*_look(i)), name]), *rest) for i, (name, *rest) in enumerate(rows)]
    said = ["Held-out numbers in nats per step at the last evaluation of each run, and its best bound."]
    called = {record.folder: name for record, name in zip(records, names, strict=True)}
    for group in groups:
        if len(group.records) > 1:
            runs = ", ".join(f"{called[record.folder]} (seed {record.setting('seed')})" for record in group.records)
            said.append(f"{group.name}: mean ± standard deviation over the seeds of {runs}.")
    return join([*(tag("p", sentence) for sentence in said), table(header, keyed)])


def _look(group: int) -> tuple[str, str]:
    """A group's colour and dash; the dash changes when the colours are used up."""
    return RUNS[group % len(RUNS)], DASHES[group // len(RUNS) % len(DASHES)]


def _curves(records: Sequence[Record], groups: Sequence[Group]) -> Html | None:
    terms = _names(records, "heldout/")
    if not terms:
        return None
    parts: list[Html] = []
    for term in terms:
        for x_label, over in ABSCISSAE.items() if term in ("elbo", "kl") else [("updates", _updates)]:
            curves = _of_each(groups, partial(_held_out, f"heldout/{term}", over))
            title = term_name(term) if x_label == "updates" else f"{term_name(term)} by {x_label}"
            caption = term_caption(term).split(" Training")[0] if x_label == "updates" else ""
            parts += _overlay(curves, title, x_label, PER_STEP, caption, marker="o", focus=term != "kl")
    return _panels(parts, groups)


def _held_out(name: str, over: Callable[[Record, Curve], Curve], record: Record) -> Curve:
    return over(record, record.column(name))


def _of_each(groups: Sequence[Group], curve: Callable[[Record], Curve]) -> list[list[Curve]]:
    """A curve a run, by group."""
    return [[curve(record) for record in group.records] for group in groups]


def _panels(parts: Sequence[Html], groups: Sequence[Group]) -> Html:
    """Panels under the key to their colours."""
    key = legend((*_look(i), group.name) for i, group in enumerate(groups))
    said = [tag("p", BANDS)] if any(len(group.records) > 1 for group in groups) else []
    return join([key, *said, tag("div", *parts, class_="panels")])


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
    curves: Sequence[Sequence[Curve]], title: str, x_label: str, y_label: str, caption: str, **options: Any
) -> Iterable[Html]:
    """One panel with the curves of every group; nothing where no run has one."""
    marker = options.pop("marker", None)
    drawn = [
        line
        for i, of_group in enumerate(curves)
        for line in _lines([curve for curve in of_group if len(curve.x)], *_look(i), marker)
    ]
    if drawn:
        panel = panels.panel(drawn, x_label, y_label, legend=False, **options)
        yield figure(svg(panel, title, title), title, caption)


def _lines(curves: Sequence[Curve], colour: str, dash: str, marker: str | None) -> list[Drawn]:
    """One run's curve; or those of several, thin, under their mean and its band, where they have places in common."""
    if len(curves) < 2:
        return [Drawn("", *curve, colour, dash, marker=marker) for curve in curves]
    mean, band = mean_curve(curves)
    thin = [Drawn("", *curve, colour, dash, width=0.5) for curve in curves]
    return [*thin, Drawn("", *mean, colour, dash, marker=marker, between=band)] if len(mean.x) else thin


def _line(name: str, column: str, record: Record) -> Curve:
    columns = record.lines.get(name, {})
    if column not in columns:
        return NOTHING
    return Curve(next(iter(columns.values())), columns[column])


def _kl(groups: Sequence[Group]) -> Html | None:
    history = _of_each(groups, lambda record: record.column("kl/mean"))
    position = _of_each(groups, partial(_line, "kl_by_position", "raw"))
    step = _of_each(groups, partial(_line, "kl_by_episode_step", "raw"))
    parts = [
        *_overlay(history, "Over training", "updates", "nats", "The raw KL of training batches.", scale="log"),
        *_overlay(position, "By place in the training sequence", "row of the sequence", "nats", "", scale="log"),
        *_overlay(step, "By steps since the reset", "steps since the reset", "nats", "Held-out episodes.", scale="log"),
    ]
    return _panels(parts, groups) if parts else None


def _imagination(records: Sequence[Record], names: list[str], groups: Sequence[Group]) -> Html | None:
    parts: list[Html] = []
    for name in dict.fromkeys(line for record in records for line in record.lines if line.startswith("open_loop_")):
        curves = _of_each(groups, partial(_line, name, "model"))
        title = f"Open-loop error: {name.removeprefix('open_loop_')}"
        parts += _overlay(curves, title, "steps ahead", "squared error / variance", "", scale="log")
    scored = {name: record.scores for name, record in zip(names, records, strict=True) if record.scores}
    for leaf, metric in dict.fromkeys(key[:2] for scores in scored.values() for key in scores.bands):
        bands = [
            scores.bands[leaf, metric, "model"] for scores in scored.values() if (leaf, metric, "model") in scores.bands
        ]
        curves = _of_each(groups, partial(_score, leaf, metric))
        title, unit, caption = METRICS.get(metric, (metric, metric, ""))
        scale = score_scale(metric, bands)
        parts += _overlay(curves, f"{leaf}: {title}", "steps ahead", unit, caption, scale=scale)
    if not parts and not scored:
        return None
    numbers = tag("details", tag("summary", "Scores as numbers, with the baselines"), table(*scores_table(scored)))
    return join([_panels(parts, groups), *([numbers] if scored else [])])


def _score(leaf: str, metric: str, record: Record) -> Curve:
    """A score of the model's futures over the steps ahead."""
    band = record.scores.bands.get((leaf, metric, "model")) if record.scores else None
    return Curve(np.arange(1, len(band.mean) + 1), band.mean) if band else NOTHING


def _ledger(records: Sequence[Record], groups: Sequence[Group]) -> Html | None:
    entries = _names(records, "ledger/")
    rows = [(departure_name(entry), *map(_last(f"ledger/{entry}"), groups)) for entry in entries]
    said = "What every departure of the loss from the bound costs on training batches, where last written."
    return join([tag("p", said), table(("nats per step", *(group.name for group in groups)), rows)]) if rows else None


def _settings(records: Sequence[Record], groups: Sequence[Group]) -> Html:
    flat = [[settings(record.config) for record in group.records] for group in groups]
    rows = [
        (key, *(_listed([setting_text(one[key]) if key in one else "–" for one in of_group]) for of_group in flat))
        for key in _differing(records)
        if key not in ABOUT_THE_FOLDER
    ]
    return (
        table(("setting", *(group.name for group in groups)), rows)
        if rows
        else tag("p", "The runs have the same settings.")
    )


def _listed(values: Sequence[str]) -> Html:
    """What a setting is in the runs of a group."""
    return join([part for value in dict.fromkeys(values) for part in (", ", value)][1:])


def _differing(records: Sequence[Record]) -> list[str]:
    """Keys of the settings that are not the same in all runs."""
    flat = [settings(record.config) for record in records]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(key not in one or one[key] != flat[0].get(key) for one in flat)]


def _names(records: Sequence[Record], prefix: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.names(prefix)))
