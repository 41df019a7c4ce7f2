"""The parts of a run's page, one function a section: a record -> blocks, none where the record has nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

from worldmodel.evaluation.episodes import Summary
from worldmodel.evaluation.scores import Scores
from worldmodel.report import charts, vocabulary
from worldmodel.report.animation import lighter_gif
from worldmodel.report.charts import Drawn
from worldmodel.report.document import WIDE, Block, Chart, Fold, Panels, TableBlock, Text, chart, picture
from worldmodel.report.figures import acting_charts
from worldmodel.report.formats import count, duration, number
from worldmodel.report.record import Columns, Record, settings
from worldmodel.report.tables import CALIBRATION_NOTE, Table, calibration, few_horizons
from worldmodel.report.vocabulary import PER_STEP, LineStyle, Wording
from worldmodel.system.names import file_name

HEAT_MAP, DREAM, DREAM_FILM = "figures/kl_heat_map.png", "figures/acting_dream.png", "play/dream.gif"
RECONSTRUCTION = "figures/reconstruction_"  # how the names of pictures of reconstructions begin
CURVES = ("acting", "bound", "fan", "latents", "open", "scores")  # kinds of pictures with nothing but curves on them
FILM_BYTES = 3_000_000  # that all films of a page have together, before they are written as text
SQUARED_ERROR = ("squared_error", "model")  # metric and method


def bound(record: Record) -> list[Block]:
    """The ELBO and its terms over training, and a table of the held-out ones."""
    terms = list(dict.fromkeys(record.names("train/") + record.names("heldout/")))
    if not terms:
        return []
    drawn = []
    for term in terms:
        wording = vocabulary.term(term)
        if term == "elbo":
            wording = wording._replace(caption=f"{wording.caption} {vocabulary.COLD_START}")
        curves = {split: record.column(f"{split}/{term}") for split in vocabulary.SPLITS}
        drawn.append(chart(wording, partial(charts.draw_term, name=term, curves=curves)))
    return [Panels(drawn), _heldout_table(record, terms)]


def _heldout_table(record: Record, terms: list[str]) -> Block:
    best = record.best
    if best is None:
        return Text("No held-out episodes were scored.", look="missing")
    rows = []
    for term in terms:
        name = f"heldout/{term}"
        values = (record.first(name), best.get(name), record.last(name), record.last(f"train/{term}"))
        rows.append((vocabulary.term(term).name, *map(number, values)))
    at = f"held-out, best (update {count(best['update'])})"
    return TableBlock(Table((PER_STEP, "held-out, first", at, "held-out, last", "training"), rows))


def ledger(record: Record) -> list[Block]:
    """What every departure of the loss from the bound costs."""
    names = record.names("ledger/")
    if not names:
        return []
    ends = {name: (record.first(f"ledger/{name}"), record.last(f"ledger/{name}")) for name in names}
    wordings = {name: vocabulary.departure(name) for name in names}
    rows = [(wordings[name].name, *map(number, pair), wordings[name].caption) for name, pair in ends.items()]
    if record.last("loss/value") is not None:
        loss = number(record.first("loss/value")), number(record.last("loss/value"))
        rows.append(("= the loss", *loss, "what the optimiser saw; the sum of the rows above"))
    honest = all(not any(pair) for name, pair in ends.items() if name != "negative_elbo")
    words = (
        "This run optimised the bound itself: no departure costs anything."
        if honest
        else "The way from the negative bound to the loss, on training batches. A row that is far from zero is a trick "
        "that changes what is optimised; a good loss then need not be a good bound."
    )
    return [Text(words), TableBlock(Table((PER_STEP, "first", "last", "what it is"), rows), explained=True)]


def acting(record: Record, shown_above: str | None = None) -> list[Block]:
    """A run's dream on film, how it acts over training, films of its policies, and its dream as curves.

    Args:
        record: the run.
        shown_above: a picture that the page begins with, and that is not shown again.
    """
    clock = record.column("env_steps")
    names = {metric for looks in vocabulary.ACTING_CURVES.values() for metric in looks}
    curves = {name: record.column(name).over(clock) for name in names}
    curves = {name: curve for name, curve in curves.items() if len(curve.x)}
    shown = acting_charts(curves)
    drawn = [chart(vocabulary.ACTING[name], partial(charts.draw_acting, name=name, curves=curves)) for name in shown]
    found = films(record)
    first = [film(record, name) for name in found if name == DREAM_FILM != shown_above]
    others = [film(record, name) for name in found if name not in (DREAM_FILM, shown_above)]
    dream = [_dream(record, filmed=DREAM_FILM in found)] if DREAM in record.pictures else []
    return [*first, *([Panels(drawn)] if drawn else []), *_final(record), *_ending(record), *others, *dream]


def films(record: Record) -> list[str]:
    """The films in RUN/play."""
    return [name for name in record.pictures if name.startswith("play/") and name.endswith(".gif")]


def film(record: Record, name: str) -> Chart:
    """A film of RUN/play, in its share of the bytes that all have together."""
    whose = PurePath(name).stem.replace("_first_", ", the first ").replace("_", " ")  # actor_first_20_rows
    of_policy = vocabulary.PLAY._replace(name=f"{vocabulary.PLAY.name} {whose}")
    gif = lighter_gif(record.pictures[name], FILM_BYTES // len(films(record)))
    return picture(vocabulary.DREAM_FILM if name == DREAM_FILM else of_policy, name, gif, wide=True)


def _dream(record: Record, *, filmed: bool) -> Block:
    """The dream as curves, folded where there is a film of it; beside the frames of a model of images."""
    of_images = any(name.startswith(RECONSTRUCTION) for name in record.pictures)
    shown = picture(vocabulary.DREAM, DREAM, record.pictures[DREAM], wide=True, inverts=not of_images)
    return Fold("The same as curves", shown) if filmed else shown


def _final(record: Record) -> list[Block]:
    """What an actor and a planner earn with the best weights, over the same starts."""
    names = [name.removeprefix(vocabulary.FINAL) for name in record.names(vocabulary.FINAL)]
    rows = []
    for policy in dict.fromkeys(name.split("/")[0] for name in names):
        found = {part: record.last(f"{vocabulary.FINAL}{policy}/{part}") for part in Summary._fields}
        mean, low, high, *spread = (number(found[part]) for part in Summary._fields)
        rows.append((policy, mean, "" if found["low"] is None else f"{low} to {high}", *spread))
    header = ("return of the best weights, by policy", "mean", "95 % interval", "median", "least", "most")
    return [TableBlock(Table(header, rows))] if rows else []


def _ending(record: Record) -> list[Block]:
    """The continue head on the policy's own episodes, if one could end: predictions beside what came."""
    prefix = "acting_ending/"
    newest = next((row for row in reversed(record.rows) if any(name.startswith(prefix) for name in row)), {})
    bins = {name.split("/")[1] for name in newest if name.startswith(prefix)}
    read = {
        least: [newest[f"{prefix}{least}/{part}"] for part in ("steps", "predicted", "happened")]
        for least in sorted(bins, key=float)
    }
    if len(read) < 2 and not any(happened for _, _, happened in read.values()):
        return []
    rows = [
        (f"{least} and more", f"{steps:,.0f}", number(predicted, 4), number(happened, 4))
        for least, (steps, predicted, happened) in read.items()
    ]
    return [TableBlock(Table(("probability of ending, predicted", "steps", "their mean", "share that ended"), rows))]


def kl(record: Record) -> list[Block]:
    """The KL over training, by place, by latent group and along an episode."""
    drawn = list(_kl_charts(record))
    names = list(dict.fromkeys(record.names("heldout_kl/") + record.names("training_kl/")))
    splits = ("heldout", "training")
    rows = [
        (vocabulary.kl_summary(name), *(_summary(name, record.last(f"{split}_kl/{name}")) for split in splits))
        for name in names
    ]
    header = ("KL of a step, last evaluation", "held-out episodes", "training, burn-in included")
    return [*([Panels(drawn)] if drawn else []), *([TableBlock(Table(header, rows))] if rows else [])]


def _kl_charts(record: Record) -> Iterable[Chart]:
    history = {name: record.column(f"kl/{name}") for name in record.names("kl/")}
    if history.keys() & vocabulary.KL_STATISTICS:
        yield chart(vocabulary.KL_HISTORY, partial(charts.draw_kl_history, history=history))
    for name, wording, x_label in (
        ("kl_by_position", vocabulary.KL_BY_POSITION, vocabulary.PLACE),
        ("kl_by_episode_step", vocabulary.KL_BY_EPISODE_STEP, vocabulary.SINCE_RESET),
    ):
        if name in record.lines:
            x, raw, *twin = record.lines[name].values()
            optimised = twin[0] if twin else None
            yield chart(wording, partial(charts.draw_kl, x=x, raw=raw, optimised=optimised, x_label=x_label))
    groups = [column for name, column in record.lines.get("kl_by_group", {}).items() if name.startswith("group")]
    if groups and np.isfinite(groups).any():
        yield chart(vocabulary.KL_BY_GROUP, partial(charts.draw_heat_map, heat_map=np.stack(groups)))
    elif HEAT_MAP in record.pictures:
        yield picture(vocabulary.KL_BY_GROUP, HEAT_MAP, record.pictures[HEAT_MAP])
    along = record.lines.get("kl_surprise", {})
    if {"KL, raw", "KL, as optimised", "reward"} <= set(along):
        given = (along["KL, raw"], along["KL, as optimised"], along["reward"])
        yield chart(vocabulary.SURPRISE, lambda axis: charts.draw_surprise(axis, *given), WIDE, wide=True)


def _summary(name: str, amount: float | None) -> str:
    if name == "active_units" or amount is None:
        return count(amount)
    return f"{amount:.1%}" if name.startswith("share") else number(amount)


def imagination(record: Record, shown_above: str | None = None) -> list[Block]:
    """Reconstructions, scores of imagined futures or the open-loop errors where there are none, and pictures of them.

    Args:
        record: the run.
        shown_above: a picture that the page begins with, and that is not shown again.
    """
    seen = [folder_picture(name, data) for name, data in record.pictures.items() if name.startswith(RECONSTRUCTION)]
    errors = [open_loop_chart(name, record.lines[name]) for name in open_loop_lines([record])]
    blocks: list[Block] = [*seen, *([Panels(errors)] if errors else [])]
    if record.scores:
        numbers = Fold("Scores as numbers", scores_table({"": record.scores}))
        drawn = Panels(_scores(record.scores), tuple(vocabulary.METHODS.values()))
        covered = TableBlock(calibration(record.scores), CALIBRATION_NOTE)
        blocks += [Text(scores_sentence(record.scores)), covered, drawn, numbers]
    drawn_here = "imagination/scores.png" if record.scores else None
    names = [name for name in record.pictures if name.startswith("imagination/")]
    return [*blocks, *(_imagined(record, name) for name in names if name not in (shown_above, drawn_here))]


def _imagined(record: Record, name: str) -> Block:
    """A picture of RUN/imagination; the strip of a film is folded."""
    shown = folder_picture(name, record.pictures[name])
    filmed = name.endswith(".png") and f"{name.removesuffix('.png')}.gif" in record.pictures
    return Fold(shown.title, shown._replace(title="")) if filmed else shown


def scored_leaves(record: Record) -> list[str]:
    """Leaves whose imagined futures have a squared error among the scores.

    Of those, a page does not show the open-loop error too: it is another squared error, in another unit.
    """
    keys = record.scores.bands if record.scores else ()
    return [leaf for leaf, metric, method in keys if (metric, method) == SQUARED_ERROR]


def open_loop_lines(records: Sequence[Record]) -> list[str]:
    """Files in lines/ whose open-loop errors are shown: of leaves that not all of these runs have scores of."""
    scored = [{file_name(f"open_loop/{leaf}") for leaf in scored_leaves(record)} for record in records]
    names = dict.fromkeys(name for record in records for name in record.lines if name.startswith("open_loop_"))
    return [name for name in names if not all(name in one for one in scored)]


def without_squared_error(scores: Scores, names: Sequence[str]) -> Scores:
    """Scores without the squared error of leaves whose open-loop errors, in these files of lines, are shown instead."""
    kept = {
        leaf: {
            metric: methods
            for metric, methods in metrics.items()
            if metric != SQUARED_ERROR[0] or file_name(f"open_loop/{leaf}") not in names
        }
        for leaf, metrics in scores.scores.items()
    }
    return replace(scores, scores=kept)


def imagination_error(leaf: str, records: Sequence[Record]) -> tuple[str, Callable[[Record], float | None]]:
    """How far imagined futures of a leaf are off, as one number a run: its name, and where a record has it.

    The scores' squared error, mean over the horizon; the open-loop error unless all of the runs were scored.
    """
    if all(leaf in scored_leaves(record) for record in records):
        return f"{vocabulary.score(SQUARED_ERROR[0]).name}, {leaf}", lambda record: _mean_score(record, leaf)
    return f"{vocabulary.OPEN_LOOP.name}, {leaf}", lambda record: record.last(f"open_loop/{leaf}/model")


def _mean_score(record: Record, leaf: str) -> float | None:
    return float(record.scores.bands[leaf, *SQUARED_ERROR].mean.mean()) if record.scores else None


def open_loop_chart(name: str, columns: Columns) -> Chart:
    """The open-loop errors of one leaf, from lines/NAME.json."""
    (_, ahead), *errors = columns.items()
    wording = open_loop_of(name)
    wording = wording._replace(caption=f"{wording.caption} {vocabulary.BELOW_BASELINES}")
    return chart(wording, partial(charts.draw_open_loop, ahead=ahead, errors=dict(errors)))


def open_loop_of(name: str) -> Wording:
    """The open-loop error of one leaf in words, from the name of its file in lines/."""
    title = f"{vocabulary.OPEN_LOOP.name.capitalize()}: {name.removeprefix('open_loop_')}"
    return vocabulary.OPEN_LOOP._replace(name=title)


def _scores(scores: Scores) -> list[Chart]:
    return [
        chart(score_of(leaf, metric), partial(charts.draw_score, metric=metric, methods=methods))
        for leaf, metrics in scores.scores.items()
        for metric, methods in metrics.items()
    ]


def score_of(leaf: str, metric: str) -> Wording:
    """A score of one leaf in words."""
    wording = vocabulary.score(metric)
    return wording._replace(name=f"{leaf}: {wording.name}")


def scores_sentence(scores: Scores) -> str:
    """How the scores were made."""
    return (
        f"Imagined futures against what happened: {scores.episodes:,} episodes, {scores.futures:,} futures, "
        f"{scores.samples:,} samples each, {scores.context:,} steps of context. Bands are 90 % intervals, by bootstrap "
        "over episodes."
    )


def scores_table(runs: Mapping[str, Scores]) -> Table:
    """The mean score at a few horizons; one run's name may be empty."""
    longest = max((len(band.mean) for scores in runs.values() for band in scores.bands.values()), default=0)
    ahead = few_horizons(longest) if longest else []
    rows = []
    for key in dict.fromkeys(key for scores in runs.values() for key in scores.bands):
        leaf, metric, method = key
        for run, scores in runs.items():
            if band := scores.bands.get(key):
                values = [number(band.mean[h - 1] if h <= len(band.mean) else None) for h in ahead]
                names = (score_of(leaf, metric).name, vocabulary.method(method).name)
                rows.append((*names, *([run] if run else []), *values))
    return Table(("score", "of", *([] if "" in runs else ["run"]), *(f"{h} ahead" for h in ahead)), rows)


def optimisation(record: Record) -> list[Block]:
    """Gradient norms and the learning rate."""
    drawn = []
    for prefix, wording in vocabulary.OPTIMISATION.items():
        names = record.names(prefix)
        colours = islice(cycle(vocabulary.RUNS), len(names))
        looks = [
            LineStyle(name.replace("_", " "), colour, width=1.0) for name, colour in zip(names, colours, strict=True)
        ]
        curves = [Drawn(look, *record.column(prefix + name)) for look, name in zip(looks, names, strict=True)]
        if len(looks) == 1:
            wording = wording._replace(name=looks[0].name.capitalize(), unit=looks[0].name)
        if curves:
            draw = partial(
                charts.draw_curves, curves=curves, x_label=vocabulary.UPDATES, y_label=wording.unit, scale="log"
            )
            drawn.append(chart(wording, draw))
    return [Panels(drawn)] if drawn else []


def time(record: Record) -> list[Block]:
    """How long each stage took, and what the run took of the machine as it went on."""
    used = []
    for name, wording in vocabulary.RESOURCES.items():
        curve = record.column(f"resources/{name}")
        if len(curve.x):
            used.append(chart(wording, partial(charts.draw_resource, name=name, curve=curve)))
    return [*_stages(record), *([Panels(used)] if used else [])]


def _stages(record: Record) -> list[Block]:
    if seconds := record.stages:
        total = sum(seconds.values())
        shares = [value / max(total, 1e-9) for value in seconds.values()]
        rows: list[tuple[str, ...]] = [
            (name.replace("_", " "), duration(value), f"{share:.1%}")
            for (name, value), share in zip(seconds.items(), shares, strict=True)
        ]
        rows.append(("in all", duration(total), "", ""))
        return [TableBlock(Table(("stage", "time", "share", ""), rows), shares=shares)]
    elapsed = record.elapsed().y
    if not len(elapsed):
        return []
    took = f"Updates, collection and evaluations after the prefill took {duration(elapsed[-1])}."
    return [Text(f"Stages were not timed. {took}")]


def configuration(record: Record, defaults: Mapping[str, Any] | None) -> list[Block]:
    """Settings that differ from the defaults, then all of them."""
    full = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    everything = Fold("Every setting, as YAML", full)
    if defaults is None:
        return [everything]
    usual, here = settings(defaults), settings(record.config)
    rows = [
        (key, setting_text(here[key]), setting_text(usual[key]) if key in usual else "no such setting")
        for key in here
        if key not in usual or here[key] != usual[key]
    ]
    if not rows:
        return [Text("Every setting has its default."), everything]
    return [TableBlock(Table(("setting that differs from its default", "here", "default"), rows)), everything]


def setting_text(setting: Any) -> str:
    """A setting as YAML writes it."""
    text = yaml.safe_dump(setting, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def versions(record: Record) -> list[Block]:
    """What each session ran on."""
    if not record.sessions:
        return []
    names = list(dict.fromkeys(name for session in record.sessions for name in session.about))
    header = ("", *("started" if i == 0 else "resumed" for i, _ in enumerate(record.sessions)))
    rows = [
        ("when", *(session.started for session in record.sessions)),
        ("at update", *(count(session.update) for session in record.sessions)),
        *((name, *(session.about.get(name, "–") for session in record.sessions)) for name in names),
    ]
    return [TableBlock(Table(header, rows))]


def folder_picture(name: str, data: bytes) -> Chart:
    """A picture of the folder under a title made of its name: imagination/fan_obs.png -> Futures of obs."""
    kind, _, leaf = name.split("/")[-1].rsplit(".", 1)[0].partition("_")
    wording = Wording(f"{kind} {leaf}".replace("_", " ").strip().capitalize(), "", "")
    if kind in vocabulary.PICTURES and name.startswith(("imagination/", RECONSTRUCTION)):
        wording = vocabulary.PICTURES[kind]
        title = "Film strip of" if kind == "film" and name.endswith(".png") else wording.name
        wording = wording._replace(name=f"{title} {leaf}".strip())
    return picture(wording, name, data, wide=True, inverts=kind in CURVES)
