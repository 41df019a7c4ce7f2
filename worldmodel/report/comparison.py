"""Several runs on one page, and as a table for a terminal: their curves, numbers and the settings that differ."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from worldmodel.report import charts, sections, vocabulary
from worldmodel.report.charts import Drawn
from worldmodel.report.document import Block, Chart, Fold, Panels, Section, TableBlock, Text, chart, document
from worldmodel.report.formats import count, duration, number, with_error
from worldmodel.report.groups import SeedGroup, each, grouped, mean_curve, over_seeds
from worldmodel.report.record import Curve, Explained, Record, settings
from worldmodel.report.sections import setting_text
from worldmodel.report.tables import Table
from worldmodel.report.vocabulary import ENV_STEPS, IN_DOUBT, PER_STEP, RUNS, UPDATES, LineStyle, Wording

DASHES = ("-", "--", ":")
# Settings of the environment that change how data are collected, not what is in them.
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
    parts = [
        Section("numbers", "Numbers", _numbers(records, names, groups)),
        Section("curves", "The bound", _curves(records, groups)),
        Section("kl", "The KL", _kl(groups)),
        Section("imagination", "Imagination", _imagination(records, names, groups)),
        Section("ledger", "The ledger", _ledger(records, groups)),
        Section("settings", "Settings that differ", _settings(records, groups)),
    ]
    sources = dict.fromkeys(str(record.source) for record in records)
    about = {"sources": list(sources), "count": len(records), "doubts": doubts(records)}
    return document("comparison.html", "Comparison of runs", parts, **about)


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


def _measure(terms: Mapping[str, Explained], name: str) -> str:
    return terms[name].measure if name in terms else "nothing"


def doubts(records: Sequence[Record]) -> list[str]:
    """Why the runs' numbers may not be compared, a sentence each; empty where nothing stands against it."""
    named = zip(labels(records), records, strict=True)
    sentences = [f"{name}: {note}." for name, record in named for note in record.notes]
    sources = list(dict.fromkeys(str(record.source) for record in records))
    differing = set(_differing(records))
    if len(sources) > 1 and "offline" in differing:
        sentences.append(
            f"These runs learn from different data ({', '.join(sources)}): where those, or the held-out ones, are not "
            "of one environment, their nats measure different data and cannot be compared."
        )
    elif len(sources) > 1:
        sentences.append(
            f"These runs are of different environments ({', '.join(sources)}): their nats measure different data "
            "and cannot be compared."
        )
    elif changed := sorted(key for key in differing if key.startswith("env.") and key not in HARMLESS):
        sentences.append(
            f"The runs differ in {', '.join(changed)}: where that changes what is observed, their nats measure "
            "different data and cannot be compared."
        )
    if bounded := _bounded_in_some(records):
        sentences.append(
            f"The log-likelihood of {', '.join(bounded)} is a lower bound in some of the runs and exact in others: "
            "where it is a bound, the run may be better than its nats."
        )
    if floors := sorted(differing & FLOORS):
        sentences.append(
            f"The runs differ in {', '.join(floors)}: their learned standard deviations have different floors, and a "
            "finer floor earns more nats for the same predictions."
        )
    other_seeds = len({record.heldout_seed for record in records}) > 1
    if other_seeds or differing & {"evaluation.episodes", "evaluation.max_length"}:
        sentences.append(
            "The runs were not scored on the same held-out episodes (other evaluation.seed, or other numbers of them)."
        )
    if changed := sorted(differing & {"evaluation.context", "evaluation.horizon", "evaluation.samples"}):
        sentences.append(
            f"The runs differ in {', '.join(changed)}: their open-loop errors are of other futures, or of means over "
            "other numbers of them."
        )
    return sentences


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


def _columns(records: Sequence[Record]) -> dict[str, Callable[[SeedGroup], str]]:
    """Headers, and what a group has to say under each."""
    leaves = [name.removesuffix("/model") for name in _names(records, "open_loop/") if name.endswith("/model")]
    columns: dict[str, Callable[[SeedGroup], str]] = {
        "updates": lambda group: each([_done(record) for record in group.records]),
        "best ELBO": lambda group: over_seeds(group, lambda record: (record.best or {}).get("heldout/elbo"), number),
        "at update": lambda group: each([count((record.best or {}).get("update")) for record in group.records]),
    }
    columns |= {vocabulary.term(term).name: _last(f"heldout/{term}") for term in _names(records, "heldout/")}
    for image in _names(records, "heldout_bits_per_dimension/"):
        columns[vocabulary.bits(image)] = _last(f"heldout_bits_per_dimension/{image}")
    if _names(records, "acting/"):
        columns["return"] = _last("acting/return")
        columns["best return"] = lambda group: over_seeds(group, _best_return, number)
    columns["active groups"] = lambda group: over_seeds(
        group, lambda record: record.last("heldout_kl/active_units"), count if len(group.records) == 1 else number
    )
    if _names(records, "heldout_evidence/"):
        columns["rough gap"] = _last("heldout_evidence/gap")
    if any(record.evidence for record in records):
        columns |= {"evidence, SMC": partial(_measured, "smc"), "gap": partial(_measured, "gap")}
    errors = dict(sections.imagination_error(leaf, records) for leaf in leaves)
    columns |= {name: partial(over_seeds, value=error, shown=number) for name, error in errors.items()}
    columns["time"] = lambda group: over_seeds(group, _time, lambda x: "–" if x is None else duration(x))
    return columns


def _last(metric: str) -> Callable[[SeedGroup], str]:
    return lambda group: over_seeds(group, lambda record: record.last(metric), number)


def _best_return(record: Record) -> float | None:
    returns = record.column("acting/return").y
    return float(np.nanmax(returns)) if np.isfinite(returns).any() else None


def _done(record: Record) -> str:
    return count(record.updates) + (f" of {count(record.planned)}" if _unfinished(record) else "")


def _time(record: Record) -> float | None:
    seconds = record.elapsed().y
    return float(seconds[-1]) if len(seconds) else None


def _measured(name: str, group: SeedGroup) -> str:
    """The evidence or the gap with the most particles, of one run with its error over episodes; no gap in doubt."""
    best = [record.evidence.best for record in group.records if record.evidence]
    if name == "gap" and any(one.doubts for one in best):
        return IN_DOUBT
    if len(group.records) == 1:
        return with_error(getattr(best[0], name)) if best else "–"
    fine = partial(number, digits=4)
    return over_seeds(group, lambda record: getattr(record.evidence.best, name).mean if record.evidence else None, fine)


def _unfinished(record: Record) -> bool:
    return record.planned is not None and record.updates < record.planned


def _numbers(records: Sequence[Record], names: list[str], groups: Sequence[SeedGroup]) -> list[Block]:
    sentences = ["Held-out numbers in nats per step at the last evaluation of each run, and its best bound."]
    called = {record.folder: name for record, name in zip(records, names, strict=True)}
    for group in groups:
        if len(group.records) > 1:
            runs = ", ".join(f"{called[record.folder]} (seed {record.setting('seed')})" for record in group.records)
            sentences.append(f"{group.name}: mean ± standard deviation over the seeds of {runs}.")
    return [*map(Text, sentences), TableBlock(summary(records), looks=_looks(groups))]


def _looks(groups: Sequence[SeedGroup]) -> list[LineStyle]:
    """A colour and a dash a group; the dash changes when the colours are used up."""
    return [
        LineStyle(group.name, RUNS[i % len(RUNS)], DASHES[i // len(RUNS) % len(DASHES)])
        for i, group in enumerate(groups)
    ]


def _curves(records: Sequence[Record], groups: Sequence[SeedGroup]) -> list[Block]:
    drawn: list[Chart] = []
    for term in _names(records, "heldout/"):
        wording, curve = vocabulary.term(term), partial(Record.column, name=f"heldout/{term}")
        drawn += _overlay(wording, UPDATES, curve, groups, marker="o", focus=term != "kl")
        for x_label, clock in CLOCKS.items() if term in vocabulary.TERMS else ():
            over = wording._replace(name=f"{wording.name} by {x_label}", caption="")
            drawn += _overlay(over, x_label, partial(_over, clock, curve), groups, marker="o", focus=term != "kl")
    return _panels(drawn, groups)


def _over(clock: Callable[[Record], Curve], curve: Callable[[Record], Curve], record: Record) -> Curve:
    """A curve over updates as one over what a clock says of those updates."""
    return curve(record).over(clock(record))


CLOCKS: dict[str, Callable[[Record], Curve]] = {
    ENV_STEPS: partial(Record.column, name="env_steps"),
    "seconds": Record.elapsed,
}


def _panels(drawn: Sequence[Chart], groups: Sequence[SeedGroup]) -> list[Block]:
    """Charts under the key to their colours."""
    note = BANDS if any(len(group.records) > 1 for group in groups) else ""
    return [Panels(drawn, _looks(groups), note)] if drawn else []


def _overlay(
    wording: Wording,
    x_label: str,
    curve: Callable[[Record], Curve],
    groups: Sequence[SeedGroup],
    marker: str | None = None,
    **options: Any,
) -> Iterable[Chart]:
    """One chart with the curves of every group; nothing where no run has one."""
    drawn = [
        line
        for look, group in zip(_looks(groups), groups, strict=True)
        for line in _lines([found for found in map(curve, group.records) if len(found.x)], look._replace(marker=marker))
    ]
    if drawn:
        given = {"y_label": wording.unit, "legend": False, **options}
        yield chart(wording, lambda axis: charts.draw_curves(axis, drawn, x_label, **given))


def _lines(curves: Sequence[Curve], look: LineStyle) -> list[Drawn]:
    """One run's curve; or those of several, thin, under their mean and its band, where they have places in common."""
    if len(curves) < 2:
        return [Drawn(look, *curve) for curve in curves]
    mean, band = mean_curve(curves)
    thin = [Drawn(look._replace(width=0.5, marker=None), *curve) for curve in curves]
    return [*thin, Drawn(look, *mean, between=band)] if len(mean.x) else thin


def _line(name: str, column: str, record: Record) -> Curve:
    columns = record.lines.get(name, {})
    if column not in columns:
        return NOTHING
    return Curve(next(iter(columns.values())), columns[column])


def _kl(groups: Sequence[SeedGroup]) -> list[Block]:
    history = vocabulary.KL_HISTORY._replace(caption="The raw KL of training batches.")
    position = vocabulary.KL_BY_POSITION._replace(caption="")
    drawn = [
        *_overlay(history, UPDATES, lambda record: record.column("kl/mean"), groups, scale="log"),
        *_overlay(position, vocabulary.PLACE, partial(_line, "kl_by_position", "raw"), groups, scale="log"),
        *_overlay(
            vocabulary.KL_BY_EPISODE_STEP,
            vocabulary.SINCE_RESET,
            partial(_line, "kl_by_episode_step", "raw"),
            groups,
            scale="log",
        ),
    ]
    return _panels(drawn, groups)


def _imagination(records: Sequence[Record], names: list[str], groups: Sequence[SeedGroup]) -> list[Block]:
    drawn: list[Chart] = []
    errors = sections.open_loop_lines(records)
    for name in errors:
        wording = sections.open_loop_of(name)
        drawn += _overlay(wording, vocabulary.AHEAD, partial(_line, name, "model"), groups, scale="log")
    scored = {
        name: sections.without_squared_error(record.scores, errors)
        for name, record in zip(names, records, strict=True)
        if record.scores
    }
    for leaf, metric in dict.fromkeys(key[:2] for scores in scored.values() for key in scores.bands):
        key = (leaf, metric, "model")
        scale = charts.score_scale(metric, [scores.bands[key] for scores in scored.values() if key in scores.bands])
        wording = sections.score_of(leaf, metric)
        drawn += _overlay(wording, vocabulary.AHEAD, partial(_score, leaf, metric), groups, scale=scale)
    table = Fold("Scores as numbers, with the baselines", sections.scores_table(scored))
    return [*_panels(drawn, groups), *([table] if scored else [])]


def _score(leaf: str, metric: str, record: Record) -> Curve:
    """A score of the model's futures over the steps ahead."""
    band = record.scores.bands.get((leaf, metric, "model")) if record.scores else None
    return Curve(np.arange(1, len(band.mean) + 1), band.mean) if band else NOTHING


def _ledger(records: Sequence[Record], groups: Sequence[SeedGroup]) -> list[Block]:
    entries = _names(records, "ledger/")
    rows = [(vocabulary.departure(entry).name, *map(_last(f"ledger/{entry}"), groups)) for entry in entries]
    words = "What every departure of the loss from the bound costs on training batches, where last written."
    return [Text(words), TableBlock(Table((PER_STEP, *(group.name for group in groups)), rows))] if rows else []


def _settings(records: Sequence[Record], groups: Sequence[SeedGroup]) -> list[Block]:
    flat = [[settings(record.config) for record in group.records] for group in groups]
    rows = [
        (key, *(each([setting_text(one[key]) if key in one else "–" for one in of_group]) for of_group in flat))
        for key in _differing(records)
        if key not in ABOUT_THE_FOLDER
    ]
    same = Text("The runs have the same settings.")
    return [TableBlock(Table(("setting", *(group.name for group in groups)), rows)) if rows else same]


def _differing(records: Sequence[Record]) -> list[str]:
    """Keys of the settings that are not the same in all runs."""
    flat = [settings(record.config) for record in records]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(key not in one or one[key] != flat[0].get(key) for one in flat)]


def _names(records: Sequence[Record], prefix: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.names(prefix)))
